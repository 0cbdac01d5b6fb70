"""Good datasets are written whole, from every source."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet as pq

from prosmin.data.dataset import load_split, read_manifest
from stages import fetch
from tests.stages.fetch.made import (
    FOLDER,
    GOOD,
    HUB,
    PARQUET,
    classes,
    configure,
    images,
    picture,
    start,
    start_process,
    table,
)


def test_a_process_writes_the_dataset_its_manifest_and_its_metrics_without_torch(workspace):
    configure(GOOD)
    done = start_process("mine", python=("-X", "importtime"))
    assert done.returncode == 0, done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "pyarrow" in imported and not {"torch", "datasets", "timm", "dvc", "prefect"} & imported
    assert sorted(os.listdir("data/mine")) == [
        "manifest.json",
        "test.arrow",
        "train.arrow",
        "val.arrow",
    ]
    manifest = read_manifest("data/mine")
    assert (
        manifest["name"] == "mine"
        and manifest["source"] == "builtin"
        and manifest["settings"]["name"] == "digits"
    )
    metrics = json.loads(Path("metrics/fetch/mine.json").read_text())
    assert metrics == {
        **{
            split: {"count": count, "sha256": manifest["splits"][split]["sha256"]}
            for split, count in (("train", 1149), ("val", 288), ("test", 360))
        },
        "channels": 1,
        "classes": 10,
        "duplicates_across_splits": 0,
        "quarantined": 0,
    }
    assert str(workspace) not in Path("data/mine/manifest.json").read_text()


def test_the_same_images_come_from_a_folder_from_parquet_and_from_the_hub(workspace, monkeypatch):
    classes(root="in/train")
    classes(3, root="in/test")
    for split in ("train", "test"):
        files = sorted(Path("in", split).rglob("*.png"))
        contents = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
        table(
            f"hub/data/{split}-00000-of-00001.parquet",
            [file.parent.name for file in files],
            image=contents,
        )
    paths = {split: f"hub/data/{split}-00000-of-00001.parquet" for split in ("train", "test")}
    loaded = []
    for settings in (
        FOLDER,
        {**PARQUET, "files": paths},
        {**HUB, "repo": "hub", "splits": {"train": "train", "test": "test"}},
    ):
        configure(settings)
        assert start(monkeypatch, "mine") == 0
        loaded.append([load_split("data/mine", split) for split in ("train", "val", "test")])
    for splits in loaded[1:]:
        for first, other in zip(loaded[0], splits):
            assert np.array_equal(first.images, other.images) and np.array_equal(
                first.labels, other.labels
            )
            assert first.classes == other.classes == ("cat", "dog")


def test_grey_among_rgb_becomes_rgb_and_is_counted(workspace, monkeypatch, caplog):
    """In raw pixels and in encoded files alike; what is left out is not counted."""
    for side in (8, 80):
        shutil.rmtree("in", ignore_errors=True)
        for name in ("cat", "dog"):
            Path("in", name).mkdir(parents=True)
            for number in range(10):
                mode = "L" if number < 3 else "RGB"
                Path("in", name, f"{number}.png").write_bytes(picture(number * 20, mode, side))
        Path("in/dog/0.png").write_bytes(picture(0, "L", side)[:-30])
        configure({**FOLDER, "val_fraction": 0, "test_fraction": 0, "max_unreadable": 0.1})
        with caplog.at_level("INFO"):
            assert start(monkeypatch, "mine") == 0
        manifest = read_manifest("data/mine")
        assert manifest["channels"] == 3 and manifest["converted"] == {"grey": 5}
        assert manifest["encoding"] == ("raw" if side == 8 else "encoded")
        split = load_split("data/mine", "train")
        assert split.images.shape == (19, 3, side, side)
        assert (split.images[1] == 20).all()  # cat/1.png, grey
        assert split.images[4, :, 0, 0].tolist() == [80, 80, 0]
        said = "mine: 19 images of 2 classes: cat, dog; train 19; converted: 5 grey"
        assert caplog.messages[-1] == said


def test_grey_images_alone_stay_grey(workspace, monkeypatch):
    classes()
    configure(FOLDER)
    assert start(monkeypatch, "mine") == 0
    manifest = read_manifest("data/mine")
    assert manifest["channels"] == 1 and manifest["converted"] == {}


def test_variants_of_grey_among_rgb_are_rgb(workspace, monkeypatch):
    for side in (8, 80):
        for number in range(12):
            Path("in").mkdir(exist_ok=True)
            mode = "L" if number % 2 else "RGB"
            Path("in", f"{number:02}.png").write_bytes(picture(number, mode, side))
        for transform in ("halves", "rotate90", "permute", "noise", "invert"):
            configure({**FOLDER, "transform": transform})
            assert start(monkeypatch, "mine") == 0
            assert load_split("data/mine", "train").images.shape[1:] == (3, side, side)


def test_what_is_not_read_and_what_looks_like_a_slip_is_said_at_fetch(
    workspace, monkeypatch, caplog
):
    for name in ("cat", "dog"):
        images(*(f"in/data/{name}/{number}.png" for number in range(6)))
    images("in/data/cat/0.heic", "in/data/dog/1.heic", "in/data/labels.csv")
    configure(FOLDER)
    with caplog.at_level("INFO"):
        assert start(monkeypatch, "mine") == 0
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warnings[0].startswith("mine: there is only one class, in/data, which holds the folders")
    assert warnings[-1] == "mine: 3 files were not read: 2 .heic, 1 .csv"
    assert read_manifest("data/mine")["not_read"]["endings"] == {".heic": 2, ".csv": 1}
    assert str(workspace) not in Path("data/mine/manifest.json").read_text()
    configure({**FOLDER, "classes": "leaf"})
    for file in Path("in").rglob("*.heic"):
        file.unlink()
    caplog.clear()
    with caplog.at_level("INFO"):
        assert start(monkeypatch, "mine") == 0
    levels = {record.message: record.levelname for record in caplog.records}
    assert levels["mine: 1 file was not read: 1 .csv"] == "INFO"
    assert "mine: 12 images of 2 classes: cat, dog; train 7, val 2, test 3" in levels


def test_all_cores_of_the_share_and_no_more_decode(workspace, monkeypatch):
    asked = []
    kept = fetch.writing.write_dataset
    monkeypatch.setenv("PROSMIN_CORES", "3")
    monkeypatch.setattr(
        fetch.writing,
        "write_dataset",
        lambda *a, **k: (asked.append(k["workers"]), kept(*a, **k))[1],
    )
    configure(GOOD)
    assert start(monkeypatch, "mine") == 0
    assert asked == [3]


def test_fetching_again_replaces_the_dataset_as_a_whole(workspace, monkeypatch):
    configure(GOOD)
    assert start(monkeypatch, "mine") == 0
    configure({**GOOD, "val_fraction": 0, "limit": {"train": 30}})
    assert start(monkeypatch, "mine") == 0
    assert sorted(os.listdir("data/mine")) == ["manifest.json", "test.arrow", "train.arrow"]
    assert read_manifest("data/mine")["splits"]["train"]["per_class"] == {
        str(digit): 3 for digit in range(10)
    }
    assert os.listdir("data") == ["mine"]


def test_repeated_and_unreadable_images_are_said_once_in_the_log(workspace, monkeypatch, caplog):
    classes(20, root="in/train")
    classes(20, root="in/test")
    shutil.copy("in/train/cat/0.png", "in/test/dog/0.png")
    Path("in/train/dog/19.png").write_bytes(b"")
    configure({**FOLDER, "val_fraction": 0, "max_unreadable": 0.1})
    with caplog.at_level("WARNING"):
        assert start(monkeypatch, "mine") == 0
    shared = [
        record.message for record in caplog.records if "more than one split" in record.message
    ]
    assert (
        len(shared) == 1
        and "train-test 38" in shared[0]
        and "1 of all repeated images have different labels" in shared[0]
    )
    assert (
        "left out dog" not in caplog.text
        and "left out train/dog/19.png: the file is empty" in caplog.text
    )
    assert "unreadable images left out: 1" in caplog.text


def test_the_same_images_elsewhere_give_the_same_files(workspace, monkeypatch):
    """Results are computed anew when the files of a dataset differ, not when its origin does."""
    classes()
    table()

    def left(settings):
        configure(settings)
        assert start(monkeypatch, "mine") == 0
        return {path.name: path.read_bytes() for path in Path("data/mine").iterdir()}

    first = (
        left({"source": "folder", "path": "in"}),
        left({"source": "parquet", "files": {"train": "in.parquet"}}),
    )
    os.makedirs("elsewhere")
    os.rename("in", "elsewhere/images")
    os.rename("in.parquet", "elsewhere/in.parquet")
    moved = {"source": "parquet", "files": {"train": "elsewhere/in.parquet"}, "max_unreadable": 0.5}
    assert (
        left({"source": "folder", "path": str(workspace / "elsewhere/images")}),
        left(moved),
    ) == first


def test_labels_of_people_that_contradict_the_labels_are_warned_of(workspace, monkeypatch, caplog):
    """Everybody chose class 0, which is the label of a tenth of the digits."""
    columns = {f"p{label}": [float(label == 0)] * 1797 for label in range(10)}
    pq.write_table(pyarrow.table(columns), "people.parquet")
    configure({**GOOD, "human_labels": "people.parquet"})
    assert start(monkeypatch, "mine") == 0
    agreement = read_manifest("data/mine")["human_labels"]["agreement"]
    assert f"label of only {100 * agreement:.1f} % of the test images" in caplog.text
    assert "people.parquet" not in Path("data/mine/manifest.json").read_text()
