"""Counts, sizes, checksums and duplicates of a manifest are those of the files."""

import hashlib

import numpy as np

from prosmin.data.arrow import SplitReader
from prosmin.fetching.folders import folder
from prosmin.fetching.sources import Images, Source
from prosmin.fetching.writing import write_dataset
from tests.prosmin.fetching.samples import picture, place


def test_counts_sizes_and_checksums_of_the_manifest_are_those_of_the_files(tmp_path):
    place(tmp_path / "in", *(f"{name}/{number}.png" for name in "ab" for number in range(10)))
    (tmp_path / "in" / "a" / "0.png").write_bytes(picture(7, (70, 90)))
    (tmp_path / "out").mkdir()
    manifest = write_dataset(tmp_path / "out", folder(str(tmp_path / "in")), seed=0)
    assert manifest["image_sizes"] == {"height": [8, 90], "width": [8, 70]}
    assert manifest["classes"] == ["a", "b"] and manifest["channels"] == 1
    for split, facts in manifest["splits"].items():
        content = (tmp_path / "out" / f"{split}.arrow").read_bytes()
        assert facts["sha256"] == hashlib.sha256(content).hexdigest() and facts["bytes"] == len(
            content
        )
        labels = SplitReader(tmp_path / "out" / f"{split}.arrow").table["label"].to_pylist()
        assert facts["per_class"] == {"a": labels.count(0), "b": labels.count(1)}
        assert facts["count"] == len(labels) == {"train": 12, "val": 4, "test": 4}[split]


def test_duplicates_are_counted_within_and_across_splits(tmp_path):
    def images(*pairs: tuple[int, int]) -> Images:
        pixels, labels = zip(*pairs)
        return Images(
            np.array(labels),
            lambda rows: ((np.full((4, 4, 1), pixels[row], np.uint8), f"r{row}") for row in rows),
        )

    splits = {
        "train": images((1, 0), (2, 1), (1, 0), (3, 0), (1, 0)),
        "val": images((4, 0), (5, 1), (5, 0)),
        "test": images((3, 1), (1, 0), (6, 1)),
    }
    duplicates = write_dataset(tmp_path, Source(("a", "b"), splits), seed=0)["duplicates"]
    assert duplicates == {
        "within": {"train": 2, "val": 1, "test": 0},
        "across": {"train-val": 0, "train-test": 2, "val-test": 0},
        "conflicting_labels": 2,
        "examples": [
            ["train: r0", "train: r2", "train: r4", "test: r1"],
            ["train: r3", "test: r0"],
            ["val: r1", "val: r2"],
        ],
    }
