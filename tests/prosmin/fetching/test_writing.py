"""Datasets are the same bytes whatever the order of files, and leave out unreadable images."""

from prosmin.fetching.folders import folder
from prosmin.fetching.sources import builtin
from prosmin.fetching.writing import write_dataset
from tests.prosmin.fetching.samples import picture, place


def test_a_dangling_link_is_quarantined_and_not_a_crash(tmp_path):
    place(tmp_path / "in", *(f"{name}.png" for name in range(6)))
    (tmp_path / "in" / "x.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "out").mkdir()
    source = folder(str(tmp_path / "in"))
    manifest = write_dataset(
        tmp_path / "out", source, seed=0, max_unreadable=0.5, val_fraction=0, test_fraction=0
    )
    assert manifest["quarantined"] == [{"source": "x.png", "reason": "no such file or directory"}]


def test_the_order_of_the_file_system_does_not_matter(tmp_path):
    names = [f"{name}/{number}.png" for name in "ba" for number in range(12)]
    contents = {name: picture(value) for value, name in enumerate(names)}
    written = []
    for turn, order in enumerate((names, names[::-1])):
        root, out = tmp_path / f"in{turn}", tmp_path / f"out{turn}"
        out.mkdir()
        for name in order:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(contents[name])
        manifest = write_dataset(out, folder(str(root)), seed=3)
        written.append((manifest, {file.name: file.read_bytes() for file in out.iterdir()}))
    assert written[0] == written[1]


def test_two_runs_write_the_same_bytes_and_another_seed_other_ones(tmp_path):
    def files(seed: int, turn: str) -> dict[str, bytes]:
        out = tmp_path / turn
        out.mkdir()
        write_dataset(out, builtin("digits", 16, 0.2, 0.2), seed=seed, transform="halves")
        return {file.name: file.read_bytes() for file in sorted(out.iterdir())}

    first = files(0, "first")
    assert first == files(0, "second")
    assert first != files(1, "third")
    assert set(first) == {"train.arrow", "val.arrow", "test.arrow"}
