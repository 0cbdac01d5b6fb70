"""The seconds of earlier runs, also where their file is damaged."""

from pipelines.engine import durations


def test_times_that_are_none_are_left_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for text in (
        '{"a": NaN, "b": 1e999, "c": -1, "d": "x", "e": 2.5}',
        '{"e": 2.5',
        "[" * 100_000,
        "",
        "[1]",
    ):
        durations.KEPT.parent.mkdir(exist_ok=True)
        durations.KEPT.write_text(text)
        assert durations.load() in ({"e": 2.5}, {})
        durations.save(durations.load())
