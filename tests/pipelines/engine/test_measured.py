"""The numbers of earlier runs, also where their file is damaged."""

import pytest

from pipelines.engine import measured


@pytest.mark.parametrize("measure", measured.ALL, ids=lambda measure: measure.name)
def test_numbers_that_are_none_are_left_out(tmp_path, monkeypatch, measure):
    monkeypatch.chdir(tmp_path)
    for text in (
        '{"a": NaN, "b": 1e999, "c": -1, "d": "x", "e": 2.5}',
        '{"e": 2.5',
        "[" * 100_000,
        "",
        "[1]",
    ):
        measure.kept.parent.mkdir(exist_ok=True)
        measure.kept.write_text(text)
        assert measure.load() in ({"e": 2.5}, {})
        measure.save(measure.load())
