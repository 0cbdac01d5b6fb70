"""A workplace for the stages that read features: synthetic features, images and networks.

Features are class means and noise with a decaying spectrum, in the format of ``stages.embed``.
Images are black and 8 pixels wide. The network for them is a small ResNet at random weights, with
as many features, so that stages which embed images themselves (``calibrate``, ``uncertainty``) run
too.
"""

import io
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from prosmin.common import files
from prosmin.common.encoders import ENCODERS
from prosmin.data.arrow import Layout, SplitWriter
from prosmin.evaluation.embedding import describe
from prosmin.evaluation.linear_probe import Probe
from prosmin.models import store
from stages.common import layout
from stages.common.pretraining import used
from stages.params.load import Params, load

ROOT = Path(__file__).parents[1]
# Names of params.yaml; the features are others. The twin is the dataset under another name.
DATASET, TWIN, SET = "digits", "digits_inverted", "patches"
OUTSIDE = 2000  # images of the OOD set, as in ImageNet-O
AUDITED = 50_000  # images of each split, as in recipes/imagenet.yaml
# Of the class means, in deviations of the noise: the best classifier is right for 73 % of 1000
# classes of 384 features, about as many as a linear probe of ImageNet. Classes that do not overlap
# would have no finite best probe, and its fit no end but by the l2.
APART = 0.2
BLOCK = 8192  # synthetic images made at a time


def synthetic(count: int, width: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features [count, width] of every class, and their labels."""
    shared, own = np.random.default_rng(0), np.random.default_rng(seed)
    spectrum = np.arange(1, width + 1, dtype=np.float32) ** -0.7
    mixing = np.linalg.qr(shared.normal(size=(width, width)))[0].astype(np.float32)
    means = shared.normal(size=(classes, width)).astype(np.float32) * spectrum * APART
    drawn = own.integers(0, classes, max(0, count - classes))
    labels = own.permutation(np.concatenate([np.arange(min(classes, count)), drawn]))
    features = np.empty((count, width), np.float32)
    for start in range(0, count, BLOCK):
        part = labels[start : start + BLOCK]
        noise = own.normal(size=(len(part), width)).astype(np.float32) * spectrum
        features[start : start + BLOCK] = (means[part] + noise) @ mixing + 0.3
    return features, labels.astype(np.int64)


def splits(count: int, classes: int) -> dict[str, int]:
    """Images per split, at least one of each class; ``count`` are train and val together."""
    sizes = {"train": count - count // 5, "val": count // 5, "test": count // 25}
    return {split: max(size, classes) for split, size in sizes.items()}


def write(folder: Path, count: int, width: int, classes: int) -> None:
    """Write all that stages read beside the results of each other."""
    _write_params(folder)
    params = load(folder / "params.yaml")
    scores = _write_networks(folder / layout.PRETRAINED, params, width)
    sizes = splits(count, classes)
    for number, encoder in enumerate(ENCODERS):
        arrays: dict[str, np.ndarray] = {}
        for place, (split, size) in enumerate(sizes.items()):
            features, labels = synthetic(size, width, classes, 10 * number + place + 1)
            arrays |= {
                f"{split}.features": features,
                f"{split}.labels": labels,
                f"{split}.digest": np.arange(size, dtype=np.uint64) + 2**50 * place,
            }
            arrays |= {f"{split}.{score}": features[:, 0] for score in scores}
            if not number:
                _write_images(folder / "data" / DATASET / f"{split}.arrow", labels)
        files.write_arrays(folder / layout.features(DATASET, encoder), arrays)
        weight = np.random.default_rng(number).normal(size=(classes, width)).astype(np.float32)
        bias, mean = np.zeros(classes, np.float32), np.zeros(width, np.float32)
        for selected in (False, True):
            Probe(weight, bias, mean, mean + 1).save(folder / layout.probe(encoder, selected))
        outside, labels = synthetic(OUTSIDE, width, classes, 10 * number + 9)
        arrays = {
            "test.features": np.ascontiguousarray(outside[:, ::-1]),
            "test.labels": labels,
            "test.digest": np.arange(OUTSIDE, dtype=np.uint64) + 2**60,
        }
        files.write_arrays(folder / layout.features(SET, encoder), arrays)
    _write_images(folder / "data" / SET / "test.arrow", labels)
    for name, counts in ((DATASET, sizes), (SET, {"test": OUTSIDE})):
        files.write_arrays(folder / layout.prediction_scores(name), {})
        _write_manifest(folder, name, counts, classes)
    shutil.copytree(folder / "data" / DATASET, folder / "data" / TWIN, copy_function=os.link)
    for encoder in ENCODERS:
        twin = folder / layout.features(TWIN, encoder)
        twin.parent.mkdir(exist_ok=True)
        os.link(folder / layout.features(DATASET, encoder), twin)


def _write_params(folder: Path) -> None:
    """Those of the default run, but that the twin is the target of transfer and shift."""
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["transfer"]["targets"] = content["shift"]["sets"] = [TWIN]
    content["audit"]["images"] = AUDITED
    (folder / "params.yaml").write_text(yaml.safe_dump(content))


def _write_networks(folder: Path, params: Params, width: int) -> list[str]:
    """Write networks of ``width`` features; returns the fields of their scores in files."""
    asked = params.pretrain
    kwargs = asked.encoder.kwargs | {"channels": [8, 8, 8, width]}
    settings = store.ModelSettings(
        asked.encoder.name,
        asked.image_size,
        asked.channels,
        *((0.5,) * asked.channels, (0.5,) * asked.channels),
        asked.projector.hidden_dim,
        asked.projector.dim,
        asked.encoder.cifar_stem,
        kwargs,
        asked.objective,
    )
    for number, weights in enumerate(store.WEIGHTS.values()):
        model = store.build_model(settings, number).eval()
        store.save_state(folder / weights, model.state_dict())
        if not number:
            store.save_state(
                folder / layout.ENCODER_WEIGHTS.name, model.encoder.backbone.state_dict()
            )
    facts: Mapping[str, Any] = {
        "dataset": DATASET,
        "images": 0,
        "seed": 0,
        "prosmin": "benchmark",
        "params": used(params),
    }
    store.save_description(folder, settings, facts)
    size = asked.image_size
    seen = describe(model, torch.zeros(2, asked.channels, size, size, dtype=torch.uint8))
    scores = [f"{layout.DOUBT}{name}" for name in seen.doubts]
    return scores + ["log_sigma"] * (seen.log_sigma is not None)


def _write_images(path: Path, labels: np.ndarray) -> None:
    """Write a black image per label."""
    black = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(black, "PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    with SplitWriter(path, Layout("encoded", 1)) as file:
        for place, label in enumerate(labels.tolist()):
            file.add(black.getvalue(), label, f"{label}/{place}.png")


def _write_manifest(folder: Path, name: str, counts: Mapping[str, int], classes: int) -> None:
    named = [f"class {label}" for label in range(classes)]
    summary = {split: {"count": count, "sha256": ""} for split, count in counts.items()}
    manifest = {"classes": named, "channels": 1, "encoding": "encoded", "splits": summary}
    files.write_json(folder / "data" / name / "manifest.json", manifest)
    facts = {"channels": 1, "classes": classes, "duplicates_across_splits": 0, "quarantined": 0}
    files.write_metrics(folder / layout.metrics("fetch", name), summary | facts)
