"""Files that systems leave behind are ignored, and names are printed with escapes."""

import pytest

from prosmin.fetching.folders import folder
from prosmin.fetching.listing import escape_unprintable
from prosmin.fetching.writing import write_dataset
from tests.prosmin.fetching.trees import names, place, tree


def test_what_systems_leave_behind_is_no_class_and_no_image(tmp_path):
    path = tree(
        tmp_path,
        "cat dog __MACOSX @eaDir .git lost+found $RECYCLE.BIN RECYCLED cat/@eaDir cat/.thumbs"
        " dog/@__thumb cat/__pycache__",
    )
    place(
        tmp_path,
        ".DS_Store",
        "Thumbs.db",
        "cat/.DS_Store",
        "cat/._0.png",
        "dog/Thumbs.db",
        "dog/desktop.ini",
    )
    source = folder(path)
    assert source.classes == ("cat", "dog") and not source.not_read and not source.notes
    assert names(source)["train"] == [
        f"{name}/{number}.png" for name in ("cat", "dog") for number in range(3)
    ]


def test_systems_folders_beside_splits_are_none(tmp_path):
    source = folder(tree(tmp_path, "train/cat test/cat __MACOSX/train/cat"))
    assert list(source.splits) == ["train", "test"]


def test_files_that_are_not_read_are_listed_and_counted(tmp_path):
    path = tree(tmp_path / "in", "train/cat train/dog", 10)
    place(
        tmp_path / "in",
        "train/cat/x.heic",
        "train/dog/deep/y.HEIC",
        "labels.csv",
        "train/readme",
        "train/cat/b.png~",
    )
    source = folder(path)
    assert source.not_read == (
        "labels.csv",
        "train/cat/b.png~",
        "train/cat/x.heic",
        "train/dog/deep/y.HEIC",
        "train/readme",
    )
    (tmp_path / "out").mkdir()
    manifest = write_dataset(tmp_path / "out", source, seed=0)
    assert manifest["not_read"] == {
        "endings": {".heic": 2, "": 1, ".csv": 1, ".png~": 1},
        "examples": list(source.not_read),
    }


@pytest.mark.parametrize("name", ["plain", "Ä ö", "猫", "a b", "🐈"])
def test_names_that_can_be_printed_stay_as_they_are(name):
    assert escape_unprintable(name) == name
