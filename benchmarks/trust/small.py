"""The small project of ``benchmarks.trust.mutants``: the stages make it in a few seconds.

It has a file of every kind that they read. Longer than 300 lines, because a kind and the stage that
makes its files stand together.
"""

import importlib
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from PIL import Image

from benchmarks.trust import mutations
from pipelines.engine import measured
from pipelines.flows.grid import load_sweep
from pipelines.graph import lockfile
from prosmin.common import files
from prosmin.common.errors import UserError, say
from prosmin.evaluation import corrupted_sets
from prosmin.metrics import corruption_error
from prosmin.models import light_imports, store
from prosmin.training.checkpoint import Checkpoints
from prosmin.training.weights import external
from stages import (
    audit,
    calibrate,
    detectors,
    embed,
    knn,
    linear,
    lowshot,
    ood,
    prediction,
    shift,
    transfer,
    uncertainty,
)
from stages import export as exporting
from stages import fetch as fetching
from stages.common import command, headlines, pretraining
from stages.params.load import Params, load
from stages.report import __main__ as report

# Modules that stages import when they need them, imported once for all mutants.
for name in (
    *("prosmin.training.loop", "prosmin.data.feed", "stages.report.page"),
    *("scipy.optimize", "scipy.special", "scipy.stats", "sklearn.datasets"),
    *("pyarrow.parquet", "safetensors.torch"),
):
    importlib.import_module(name)
light_imports.timm()

ROOT = Path(__file__).parents[2]
CELLS = {"source": "folders", "severities": [1, 2, 3, 4, 5]}  # of a reference of mCE
# Options of PIL by format.
IMAGES = {suffix: {} for suffix in ("png", "jpg", "gif", "webp", "bmp")}
IMAGES |= {"tif": {"compression": "tiff_lzw"}, "ppm": {}}
SHAPE = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "zero_init_last": False}
LOCK = """schema: '2.0'
stages:
  elsewhere:
    cmd: python -m stages.elsewhere
    deps:
    - path: data/elsewhere
      hash: md5
      md5: 0123456789abcdef0123456789abcdef.dir
      size: 100
      nfiles: 4
    params:
      params.yaml:
        dataset: digits
    outs:
    - path: results/elsewhere
      hash: md5
      md5: 123456789abcdef0123456789abcdef0.dir
      size: 100
      nfiles: 4
"""
CHANGES = {
    "fetch.digits.limit": {"train": 60, "val": 30, "test": 40},
    "fetch.digits.human_labels": "people.parquet",
    "fetch.patches.limit": {"train": 40, "val": 20, "test": 30},
    "fetch.photos": {"source": "folder", "path": "photos", "max_unreadable": 0.5},
    "fetch.table": {
        "source": "parquet",
        "files": {"train": "table.parquet"},
        "image": "image",
        "label": "label",
    },
    "pretrain.encoder.kwargs": SHAPE,
    "pretrain.projector": {"hidden_dim": 32, "dim": 8},
    "ood.sets": {"patches": "far"},
    "fetch.more": {
        "source": "builtin",
        "name": "digits",
        "limit": {"train": 40, "val": 20, "test": 30},
    },
    "shift.sets": ["more"],
    "finetune.datasets": [],
    "uncertainty.datasets": ["digits"],
    "uncertainty.head": {"images": 20, "epochs": 1},
    "audit.datasets": ["digits"],
    "lowshot.per_class": [1],
    "lowshot.percent": [],
    "linear.l2": [0.01, 1.0],
    "calibrate.severities": [5],
    "transfer.l2": [0.01, 1.0],
    "prediction.views": 2,
    "prediction.corruptions": ["contrast"],
} | {
    f"{stage}.bootstrap": 100
    for stage in (
        *("linear", "calibrate", "knn", "ood", "transfer", "prediction", "corrupt"),
        *("shift", "uncertainty", "audit"),
    )
}


class Kind(NamedTuple):
    """Files of one kind.

    files: pattern of their paths.
    changes: mutations that suit them.
    readers: one of them is called with the path of a mutated file.
    """

    files: str
    changes: list[Callable[..., bytes]]
    readers: list[Callable[[Path], Any]]


def stage(module: Any, *arguments: str) -> Callable[[Path], None]:
    """A reader that runs the stage as a process of its own would."""
    name = module.__name__.removeprefix("stages.").removesuffix(".__main__")

    def read(path: Path) -> None:
        sys.argv = [name, *arguments]
        command.run(name, module.main)

    return read


def library(work: Callable[[Path], Any]) -> Callable[[Path], None]:
    """A reader that calls the library and says what it refuses as a stage does."""

    def read(path: Path) -> None:
        try:
            work(path)
        except UserError as error:
            say(error)
            sys.exit(2)

    return read


def _weights(path: Path) -> None:
    params = load()
    weights = external.from_file("theirs")
    settings = pretraining.model_settings(
        params.pretrain, *(weights.normalisation("resnet18") or ([0.5], [0.5]))
    )
    external.load_backbone(weights, settings)


def _arrays(path: Path) -> None:
    cells = corrupted_sets.Arrays("arrays", ["fog"], 10, 8, 1)
    assert sum(
        len(part()) for severity in range(1, 6) for part in cells.parts("fog", severity)
    ) == 5 * len(cells.labels)


def _checkpoint(path: Path) -> None:
    if Checkpoints("checkpoints", "key").newest() is None:
        raise UserError("the checkpoint is put aside")


def _lock(path: Path) -> None:
    list(lockfile.mend())
    lockfile.restore_order(lockfile.snapshot(["linear"]), ["linear"])


BYTES = mutations.BYTES
JSON = [mutations.as_json, *BYTES]
TENSORS = [mutations.head, *[mutations.arrays] * 4, *BYTES]
EMBED, PREDICT = (
    {name: stage(module, name) for name in ("digits", "patches")} for module in (embed, prediction)
)
PROBES = [stage(module) for module in (linear, knn, lowshot)]
OOD, SHIFT, TRANSFER = stage(ood, "patches"), stage(shift, "more"), stage(transfer, "patches")
UNCERTAINTY, AUDIT = stage(uncertainty, "digits"), stage(audit, "digits")
EXPORT, REPORT, PHOTOS = stage(exporting), stage(report), stage(fetching, "photos")
HEADLINES = library(lambda path: headlines.rows(load()))
ERRORS = library(lambda path: corruption_error.known(str(path), ["fog"], CELLS))
DURATIONS = library(lambda path: measured.SECONDS.save(measured.SECONDS.load()))
KINDS = {
    **{f"image, {suffix}": Kind(f"photos/*/*.{suffix}", BYTES, [PHOTOS]) for suffix in IMAGES},
    "parquet": Kind("table.parquet", BYTES, [stage(fetching, "table")]),
    "table of people": Kind("people.parquet", BYTES, [stage(fetching, "digits")]),
    "labels of people": Kind("data/digits/human_labels.safetensors", TENSORS, [UNCERTAINTY]),
    "arrow": Kind("data/digits/*.arrow", BYTES, [EMBED["digits"], PREDICT["digits"], OOD]),
    "manifest": Kind("data/digits/manifest.json", JSON, [EMBED["digits"], SHIFT]),
    "model.json": Kind(
        "results/pretrain/model.json", JSON, [EMBED["patches"], EXPORT, PREDICT["patches"]]
    ),
    "weights": Kind("results/pretrain/*m.safetensors", TENSORS, [EMBED["patches"]]),
    "features": Kind(
        "results/embed/digits/*.safetensors", TENSORS, [*PROBES, *PROBES, OOD, UNCERTAINTY, AUDIT]
    ),
    "features of others": Kind("results/embed/patches/*.safetensors", TENSORS, [OOD, TRANSFER]),
    "ways of calibration": Kind("results/calibrate/*.safetensors", TENSORS, [SHIFT]),
    "probe": Kind("results/linear/*.safetensors", TENSORS, [OOD, SHIFT]),
    "detectors": Kind("results/detectors/*.safetensors", TENSORS, [OOD, EXPORT]),
    "prediction scores": Kind("results/prediction/*/scores.safetensors", TENSORS, [OOD]),
    "metrics": Kind("metrics/**/*.json", JSON, [REPORT, EXPORT, HEADLINES]),
    "plots": Kind("plots/**/*.csv", [mutations.words, *BYTES], [REPORT]),
    "pictures": Kind("results/ood/patches/*.safetensors", TENSORS, [REPORT]),
    "external weights": Kind("theirs/model.safetensors", TENSORS, [library(_weights)]),
    "config.json": Kind("theirs/config.json", JSON, [library(_weights)]),
    "npy": Kind("arrays/*.npy", [mutations.words, *BYTES], [library(_arrays)]),
    "checkpoint": Kind("checkpoints/key/*.safetensors", TENSORS, [library(_checkpoint)]),
    "reference of mCE": Kind("errors.json", JSON, [ERRORS]),
    "sweep": Kind("sweep.yaml", [mutations.settings], [library(load_sweep)]),
    "durations": Kind(".prosmin/seconds.json", JSON, [DURATIONS]),
    "dvc.lock": Kind("dvc.lock", [mutations.words, *BYTES], [library(_lock), PROBES[0]]),
}


def checked_params() -> None:
    """Read params.yaml as a stage does at its start, and build the model that it asks for."""

    def main(params: Params) -> None:
        settings = params.pretrain
        if settings.external is None:
            channels = settings.channels
            model = store.build_model(
                pretraining.model_settings(settings, [0.5] * channels, [0.25] * channels),
                params.seed,
            )
            model.eval().encoder(torch.zeros(2, channels, settings.image_size, settings.image_size))

    sys.argv = ["pretrain"]
    command.run("pretrain", main)


def build() -> None:
    """Make the project in the current folder."""
    logging.disable(logging.INFO)
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    for name in ("digits_halves", "digits_rotated", "digits_inverted"):
        del content["fetch"][name]
    for key, value in CHANGES.items():
        *steps, last = key.split(".")
        section = content
        for step in steps:
            section = section[step]
        section[last] = value
    files.write_text("params.yaml", yaml.safe_dump(content, sort_keys=False))
    files.write_text("dvc.yaml", (ROOT / "dvc.yaml").read_text())
    files.write_text(
        "dvc.lock", LOCK
    )  # that says nothing of the files here, so that their readers see them damaged
    files.write_text("sweep.yaml", (ROOT / "sweeps/lambda.yaml").read_text())
    files.write_json(".prosmin/seconds.json", {"linear": 1.5, "pretrain": 20.0})
    files.write_json(
        "errors.json", {"errors": {"fog": 0.5, "snow": 0.6}, "accuracy_clean": 0.9} | CELLS
    )
    _pictures()
    params = load()
    for name in ("digits", "patches", "more"):
        fetching.main(params, name)
    _model(params)
    embed.main(params, "more")
    for name in ("digits", "patches"):
        embed.main(params, name)
        prediction.main(params, name)
    for each in (linear, detectors, calibrate, knn, lowshot):
        each.main(params)
    ood.main(params, "patches")
    transfer.main(params, "patches")
    uncertainty.main(params, "digits")
    audit.main(params, "digits")


def _pictures() -> None:
    rng = np.random.default_rng(0)
    rows: dict[str, list[Any]] = {"image": [], "label": []}
    for label in range(2):
        Path("photos", str(label)).mkdir(parents=True)
        for suffix, options in IMAGES.items():
            for place in range(2):
                path = Path("photos", str(label), f"{place}.{suffix}")
                Image.fromarray(rng.integers(0, 256, (24, 20, 3), np.uint8)).save(path, **options)
                rows["image"].append(path.read_bytes())
                rows["label"].append(label)
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(rows), "table.parquet")
    people = rng.dirichlet(np.full(10, 0.2), 1797)  # of the digits of scikit-learn
    columns = {f"p{label}": people[:, label] for label in range(10)}
    pyarrow.parquet.write_table(pyarrow.table(columns), "people.parquet")
    Path("arrays").mkdir()
    np.save("arrays/fog.npy", rng.integers(0, 256, (50, 8, 8, 3), np.uint8))
    np.save("arrays/labels.npy", np.tile(np.arange(10), 5))


def _model(params: Params) -> None:
    """Results of a pretraining of no steps, a checkpoint, and the same encoder as one of others."""
    settings = pretraining.model_settings(params.pretrain, [0.3], [0.3])
    model = store.build_model(settings)
    facts, images = {"images": 60}, torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    with files.whole_folder("results/pretrain") as folder:
        pretraining.save(folder, model, settings, images, params, facts)
        views = np.zeros((2, 1, 8, 8), np.uint8)
        files.write_arrays(
            folder / "views.safetensors", {"images": views, "views": np.stack([views, views], 1)}
        )
    files.write_json(
        "metrics/pretrain.json",
        {"loss": 1.0, "epochs": 1, "steps": 3, "images": 60, "encoder_parameters": 5000},
    )
    files.write_csv(
        "plots/pretrain/loss.csv", ("step", "epoch", "loss"), [(1, 0.5, 1.0), (2, 1.0, 0.9)]
    )
    diagnostics = ("step", "epoch", "knn_accuracy", "rankme", "feature_std")
    files.write_csv(
        "plots/pretrain/diagnostics.csv",
        diagnostics,
        [(0, 0.0, 0.5, 3.0, 0.1), (2, 1.0, 0.6, 4.0, 0.2)],
    )
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    Checkpoints("checkpoints", "key").save(3, state, {"step": 3, "loss": [1.0, 0.5]})
    backbone = Path("results/pretrain/encoder.safetensors").read_bytes()
    files.write_bytes("theirs/model.safetensors", backbone)
    config = {
        "architecture": "resnet18",
        "num_classes": 0,
        "pretrained_cfg": {"mean": [0.5], "std": [0.5]},
    }
    files.write_json("theirs/config.json", config)
