"""Datasets are the same bytes whatever the order of files, and leave out unreadable images."""

import json
import subprocess
import sys

import numpy as np
import pyarrow
import pyarrow.parquet as pq
import pytest

from prosmin.common.errors import ConfigError, UserError
from prosmin.common.files import write_json
from prosmin.data.dataset import load_human_labels, load_split
from prosmin.fetching.folders import folder
from prosmin.fetching.parquet import parquet
from prosmin.fetching.sources import builtin
from prosmin.fetching.writing import write_dataset
from tests.prosmin.data.made import encoded, fetched, photograph
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


# --- labels of people -----------------------------------------------------------------------------


@pytest.mark.parametrize("own_test", [True, False])
def test_labels_of_people_stay_with_their_images(tmp_path, own_test):
    """Through a held-out part or a limit, and past an unreadable image.

    Row r of the source is a picture of value r, and its people chose class 0 with share r / 100.
    """
    splits = ("train", "test") if own_test else ("train",)
    for split in splits:
        rows = range(40)
        contents = [b"broken" if row == 7 else picture(row) for row in rows]
        columns = {"image": contents, "label": [row % 2 for row in rows]}
        pq.write_table(pyarrow.table(columns), tmp_path / f"{split}.parquet")
    source = parquet({split: str(tmp_path / f"{split}.parquet") for split in splits})
    shares = np.arange(40, dtype=np.float32) / 100
    limit = {"test": 30} if own_test else {}
    out = tmp_path / "out"
    out.mkdir()
    manifest = write_dataset(
        out,
        source,
        seed=0,
        test_fraction=0.5,
        max_unreadable=0.1,
        limit=limit,
        human_labels=np.stack([shares, 1 - shares], axis=1),
    )
    write_json(out / "manifest.json", manifest)
    split = load_split(out, "test")
    values = split.images[:, 0, 0, 0].numpy()
    assert len(values) == manifest["splits"]["test"]["count"] > 15
    kept = load_human_labels(out)
    np.testing.assert_allclose(kept[:, 0], values / 100, atol=1e-6)
    agrees = (kept.argmax(axis=1) == split.labels.numpy()).mean()
    assert manifest["human_labels"] == {"agreement": pytest.approx(agrees, abs=1e-4)}


@pytest.mark.parametrize(
    ("rows", "columns", "transform", "message"),
    [
        (1796, 10, "none", "1796 rows'; the train split of the source has 1797 images"),
        (1797, 9, "none", "9 columns'; there are 10 classes; it needs a column for each"),
        (1797, 10, "invert", "it needs test images with labels and transform none"),
    ],
)
def test_labels_of_people_that_do_not_fit_are_refused(tmp_path, rows, columns, transform, message):
    people = np.full((rows, columns), 1 / columns, np.float32)
    with pytest.raises(ConfigError, match=message):
        write_dataset(
            tmp_path,
            builtin("digits", 16, 0.2, 0.2),
            seed=0,
            transform=transform,
            human_labels=people,
        )


def test_a_dataset_without_labels_of_people_has_none(tmp_path):
    manifest = write_dataset(tmp_path, builtin("digits", 16, 0.2, 0.2), seed=0)
    assert "human_labels" not in manifest and load_human_labels(tmp_path) is None


def test_unreadable_images_are_left_out_and_listed(tmp_path):
    good = encoded(photograph(20, 20), "PNG")
    manifest = fetched(tmp_path, [good, good[:-40], b"", good], max_unreadable=0.5)
    assert [entry["source"] for entry in manifest["quarantined"]] == ["image 1", "image 2"]
    assert manifest["quarantined"][1]["reason"] == "the file is empty"
    assert manifest["splits"]["train"]["count"] == len(load_split(tmp_path, "train")) == 2
    with pytest.raises(
        UserError, match=r"2 of 4 images cannot be read.* \(0\.4\) allows; the first is image 1"
    ):
        fetched(tmp_path / "strict", [good, good[:-40], b"", good], max_unreadable=0.4)


def test_writing_needs_neither_torch_nor_the_pipeline():
    code = (
        "import sys, prosmin.fetching.writing, prosmin.fetching.parquet, prosmin.fetching.hub; "
        "heavy = {'torch', 'sklearn', 'datasets', 'dvc', 'prefect', 'pydantic'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_manifest_is_plain_json(tmp_path):
    manifest = fetched(tmp_path, [photograph(8, 8)] * 2, [0, 1])
    assert json.loads((tmp_path / "manifest.json").read_text()) == manifest
