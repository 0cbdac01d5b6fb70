"""The fine-tuning stage on real images: what it writes, repeatably, and how it fails."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from prosmin.common import files
from prosmin.common.errors import UserError
from prosmin.data.feed import Resident, Streamed
from prosmin.evaluation.finetuning import geometry
from prosmin.fetching.folders import folder
from prosmin.fetching.writing import write_dataset
from prosmin.models import store
from prosmin.views.settings import ViewSettings
from stages import fetch, finetune
from stages.params.load import load
from tests.stages.conftest import ROOT
from tests.stages.test_prediction import keep_networks

WRITTEN = ("metrics/finetune/digits.json", "plots/finetune/digits.csv")


@pytest.fixture(scope="module")
def params():
    given = load(ROOT / "params.yaml")
    asked = given.finetune.model_copy(
        update={
            "datasets": ("digits", "patches", "digits_rotated"),
            "epochs": 1,
            "scratch_epochs": (2, 1),
            "steps": 4,
            "per_class": (2,),
            "percent": (12.5,),
            "bootstrap": 100,
        }
    )
    few = {
        name: dataset.model_copy(update={"limit": {"train": 120, "val": 40, "test": 60}})
        for name, dataset in given.fetch.items()
        if name in ("digits", "patches", "digits_rotated")
    }
    few["patches"] = few["patches"].model_copy(update={"val_fraction": 0.0, "limit": {"train": 80}})
    return given.model_copy(update={"finetune": asked, "fetch": few})


@pytest.fixture(scope="module")
def made(tmp_path_factory, params):
    folder = tmp_path_factory.mktemp("finetune")
    shutil.copy(ROOT / "params.yaml", folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in params.fetch:
            fetch.main(params, name)
    keep_networks(folder, params)
    return folder


@pytest.fixture(autouse=True)
def here(made, monkeypatch):
    monkeypatch.chdir(made)


def test_both_encoders_with_all_labels_and_with_a_few(params):
    finetune.main(params, "digits")
    metrics = files.read_json("metrics/finetune/digits.json")
    for encoder in ("trained", "random"):
        assert metrics[encoder]["n"] == 60 and metrics[encoder]["lr"] == params.finetune.lr[0]
        assert (
            0
            <= metrics[encoder]["accuracy_low"]
            <= metrics[encoder]["accuracy"]
            <= metrics[encoder]["accuracy_high"]
        )
        few = metrics[encoder]["per_class_2"]
        assert (few["labels"], few["draws"]) == (20, 3) and few["accuracy_low"] <= few["accuracy"]
        assert metrics[encoder]["percent_12.5"] == few  # of 160 labels, so the same ones
    assert metrics["trained"]["epochs"] == 1 and not any(
        key.startswith("after_") for key in metrics["trained"]
    )
    tried = {count: metrics["random"][f"after_{count}_epochs"] for count in (1, 2)}
    chosen = min(tried, key=lambda count: tried[count]["nll_val"])
    assert (
        metrics["random"]["epochs"] == chosen
        and metrics["random"]["accuracy"] == tried[chosen]["accuracy"]
    )
    rows = files.read_csv("plots/finetune/digits.csv")
    counts = [
        int(row["count"])
        for row in rows
        if (row["encoder"], row["calibrated"]) == ("trained", "raw")
    ]
    assert sum(counts) == 60
    before = [Path(path).read_bytes() for path in WRITTEN]
    finetune.main(params, "digits")
    assert [Path(path).read_bytes() for path in WRITTEN] == before


def test_without_a_val_split_a_part_of_train_takes_its_place(params):
    finetune.main(params, "patches")
    metrics = files.read_json("metrics/finetune/patches.json")["trained"]
    assert metrics["n_val"] == 16 and "accuracy_top5" not in metrics


@pytest.mark.parametrize("validated", [True, False])
def test_streamed_images_have_the_labels_and_pixels_of_loaded_ones(
    tmp_path, monkeypatch, validated
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROSMIN_WORKERS", "0")
    pictures, labels = load_digits(n_class=3, return_X_y=True)
    for place, (picture, label) in enumerate(zip(pictures[:60], labels[:60], strict=True)):
        path = tmp_path / f"photos/{label}/{place:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = (picture.reshape(8, 8) * 15).astype(np.uint8)
        Image.fromarray(pixels).resize((70, 70 + place % 3)).save(path)
    (tmp_path / "data/photos").mkdir(parents=True)
    manifest = write_dataset(
        tmp_path / "data/photos",
        folder(str(tmp_path / "photos")),
        seed=0,
        val_fraction=0.2 * validated,
    )
    files.write_json("data/photos/manifest.json", manifest)
    size = store.ModelSettings("resnet18", 16, 1, (0.3,), (0.4,), 16, 8)
    streamed, loaded = (
        finetune.labelled_images("photos", size, 0, stream) for stream in (True, False)
    )
    views = ViewSettings(size=16, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0, jitter=0.0)
    for on_disk, in_memory in zip(streamed, loaded, strict=True):
        assert isinstance(on_disk.feed, Streamed) and isinstance(in_memory.feed, Resident)
        np.testing.assert_array_equal(on_disk.labels, in_memory.labels)
        assert sorted(set(on_disk.labels)) == [0, 1, 2]
        plain = [
            torch.cat(list(images.plain.batches(images.rows, 7))) for images in (on_disk, in_memory)
        ]
        assert plain[0].equal(plain[1])
        ((seen,),) = on_disk.feed.views(
            torch.from_numpy(on_disk.rows)[None], [geometry(views)], 0, 0, 0, 0
        )
        # A view of the whole image shows the image, up to the crop of its longer side.
        assert (seen * 255 - plain[0]).abs().mean() < 8
    assert streamed[0].feed is streamed[1].feed and len(set(streamed[0].rows)) == len(streamed[0])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digit", "finetune needs one of finetune.datasets, not 'digit'.*did you mean 'digits'"),
    ],
)
def test_what_cannot_be_is_one_sentence(params, name, message):
    with pytest.raises(UserError, match=message):
        finetune.main(params, name)


def test_a_dataset_without_labels_is_left_out(params):
    finetune.main(params, "digits_rotated")
    reason = "the train split of dataset 'digits_rotated' has no labels."
    assert files.read_json("metrics/finetune/digits_rotated.json") == {"left_out": reason}
    assert files.read_csv("plots/finetune/digits_rotated.csv") == []


def test_a_class_that_a_draw_lacks_is_named(params):
    many = params.model_copy(
        update={"finetune": params.finetune.model_copy(update={"per_class": (90,)})}
    )
    with pytest.raises(
        UserError, match="^finetune, digits, per_class_90: class 0 has .* fewer than the 90"
    ):
        finetune.main(many, "digits")
