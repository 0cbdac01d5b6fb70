"""recipes/imagenet.yaml from the files to the report, with its values shrunk, on a tiny tree."""

import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import yaml
from accelerate.state import AcceleratorState
from PIL import Image
from sklearn.datasets import load_sample_images

from prosmin.common import files
from prosmin.corruptions import BENCHMARK
from stages import (
    audit,
    calibrate,
    corrupt,
    detectors,
    embed,
    export,
    fetch,
    knn,
    linear,
    lowshot,
    ood,
    prediction,
    pretrain,
    shift,
    transfer,
    uncertainty,
)
from stages.params.load import load
from stages.report import __main__ as report
from tests.stages.conftest import ROOT

CLASSES = [f"n0000000{place}" for place in range(4)]
TREES = {  # folder of a set: number of images per class
    "imagenet/train": 12,
    "imagenet/val": 4,
    "imagenet-o": 3,
    "imagenet-a": 3,
    "imagenet-r": 3,
    "pets": 12,
    "flowers": 12,
    "textures": 12,
}
SHRUNK = {
    "pretrain.image_size": 32,
    "pretrain.encoder.kwargs": {
        "dynamic_img_size": True,
        "drop_path_rate": 0.1,
        "patch_size": 8,
        "embed_dim": 16,
        "depth": 1,
        "num_heads": 2,
    },
    "pretrain.projector": {"hidden_dim": 16, "dim": 8},
    "pretrain.views.local": {"count": 1, "size": 16, "scale": [0.05, 0.25]},
    "pretrain.epochs": 1,
    "pretrain.batch_size": 16,
    "pretrain.warmup_epochs": 0,
    "pretrain.compile": False,  # needs a compiler
    "fetch.imagenet.val_fraction": 0.25,
    "fetch.imagenet.short_side": 96,
    "linear.l2": [0.01, 0.1],
    "transfer.l2": [0.01, 0.1],
    "knn.k": [1, 3],
    "calibrate.severities": [5],
    "audit.k": 3,
    "lowshot.per_class": [1],
    "lowshot.percent": [50],
    "lowshot.draws": 3,
    "prediction.views": 2,
    "report.examples": 2,
}


_whole = cache(load_sample_images)


def photograph(rng: np.random.Generator, place: int) -> tuple[Image.Image, dict]:
    """A part of a photograph as ImageNet has them: grey, CMYK and turned ones among RGB."""
    height, width = rng.integers(100, 140, 2).tolist()
    whole = _whole().images[place % 2]
    top, left = int(rng.integers(0, 427 - height)), int(rng.integers(0, 640 - width))
    picture = Image.fromarray(whole[top : top + height, left : left + width])
    if place % 5 == 1:
        return picture.convert("L"), {}
    if place % 5 == 2:
        return picture.convert("CMYK"), {}
    if place % 5 == 3:
        exif = picture.getexif()
        exif[0x0112] = 6
        return picture, {"exif": exif}
    return picture, {}


@pytest.fixture
def params(tmp_path, monkeypatch):
    rng, place = np.random.default_rng(0), 0
    for tree, count in TREES.items():
        for name in CLASSES:
            folder = tmp_path / "sets" / tree / name
            folder.mkdir(parents=True)
            for row in range(count):
                picture, options = photograph(rng, place)
                picture.save(folder / f"{row}.JPEG", "JPEG", quality=90, **options)
                place += 1
    for kind in BENCHMARK:
        for severity in range(1, 6):
            cell = tmp_path / f"sets/imagenet-c/{kind}/{severity}"
            shutil.copytree(tmp_path / "sets/imagenet/val", cell)
    content = yaml.safe_load((ROOT / "recipes/imagenet.yaml").read_text())
    for key, value in SHRUNK.items():
        *sections, name = key.split(".")
        section = content
        for step in sections:
            section = section[step]
        assert name in section, key
        section[name] = value
    for section in content.values():
        if isinstance(section, dict) and "bootstrap" in section:
            section["bootstrap"] = 100
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROSMIN_WORKERS", "0")
    return load()


@pytest.fixture(autouse=True)
def precision():
    """Accelerate keeps the precision of a process, which is another one here."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.integration
def test_the_imagenet_recipe_runs_from_the_files_to_the_report(params):
    for name in params.fetch:
        fetch.main(params, name)
    manifest = files.read_json("data/imagenet/manifest.json")
    counts = {split: facts["count"] for split, facts in manifest["splits"].items()}
    assert counts == {"train": 36, "val": 12, "test": 16} and manifest["channels"] == 3
    assert {"grey", "CMYK", "turned", "shrunk"} <= set(manifest["converted"])
    assert manifest["image_sizes"]["height"][0] >= 96 and not manifest["quarantined"]
    assert manifest["settings"]["short_side"] == 96
    pretrain.main(params)
    model = files.read_json("results/pretrain/model.json")["model"]
    assert (model["crop_pct"], model["interpolation"]) == (0.875, "bicubic")
    for name in params.fetch:
        embed.main(params, name)
    for stage in (linear, detectors, calibrate, knn, lowshot):
        stage.main(params)
    for name in ("imagenet", *params.ood.sets):
        prediction.main(params, name)
    for name in params.ood.sets:
        ood.main(params, name)
    corrupt.main(params)
    for name in params.shift.sets:
        shift.main(params, name)
    for name in params.transfer.targets:
        transfer.main(params, name)
    for name in params.uncertainty.datasets:
        uncertainty.main(params, name)
    for name in params.audit.datasets:
        audit.main(params, name)
    for stage in (export, report):
        stage.main(params)
    assert files.read_json("metrics/corrupt.json")["trained"]["mce"] > 0
    assert files.read_json("results/export/config.json")["pretrained_cfg"]["crop_pct"] == 0.875
    page = Path("results/report/index.html").read_text()
    assert "imagenet_a" in page and "imagenet_o" in page
