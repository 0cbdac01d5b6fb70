"""corrupt: accuracy and calibration of the linear probe on corrupted test images.

Reads   data/<dataset>, results/pretrain, results/linear, and what corrupt.path, frost and reference name
Writes  metrics/corrupt.json: for each encoder accuracy_clean; over the types of the benchmark mce_unnormalised, mce and
            relative_mce (``prosmin.robustness``) and ece_severity_<s>, the mean over types of the uncalibrated ECE; over
            the extra types mce_unnormalised_extra; error: the mean over severities for each type; how many types of
            the benchmark there are. A ratio that its reference leaves undefined is null.
        plots/corrupt/accuracy.csv: accuracy and ECE for each encoder, type and severity

Images are resized to the encoder's input first and corrupted there, as CIFAR-10-C and ImageNet-C are: the constants are
chosen by that size (``prosmin.corruptions``). Each cell is corrupted once and seen by both encoders. Generated cells
compare with each other, not with published files; those are read (``corrupt.source``).
"""

import logging
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch

from prosmin import calibration, corrupted, corruptions, data, export, files, metrics, robustness
from prosmin.embedding import embed
from prosmin.errors import UserError
from prosmin.robustness import Known, Measured
from stages.command import run
from stages.features import ENCODERS
from stages.params import Params
from stages.probing import load_probe

log = logging.getLogger(__name__)


def main(params: Params) -> None:
    asked = params.corrupt
    types, severities = asked.types, sorted(asked.severities)
    description, _ = export.load_description("results/pretrain")
    split = data.load_split(f"data/{params.dataset}", "test", description.image_size, description.channels)
    if missing := int((split.labels < 0).sum()):
        raise UserError(
            f"{missing} of {len(split)} images in the test split of dataset {params.dataset!r} have no label; "
            "accuracy under corruption needs one for each"
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    probes = {encoder: load_probe(encoder) for encoder in ENCODERS}
    networks = {encoder: export.load_encoder("results/pretrain", encoder).to(device) for encoder in ENCODERS}
    reference = None if asked.reference == "random" else robustness.known(asked.reference, _benchmark(types))
    cells = _cells(params, split, device)
    corrupted.check_labels(cells, split, params.dataset)

    def predict(encoder: str, images: torch.Tensor) -> np.ndarray:
        return probes[encoder].logits(embed(networks[encoder], images, asked.batch_size))

    clean = {encoder: predict(encoder, split.images).argmax(axis=1) == split.labels.numpy() for encoder in ENCODERS}
    hits = {encoder: np.empty((len(types), len(severities), len(split)), bool) for encoder in ENCODERS}
    ece = {encoder: np.empty((len(types), len(severities))) for encoder in ENCODERS}
    for row, name in enumerate(types):
        for column, severity in enumerate(severities):
            parts = [[predict(each, images) for each in ENCODERS] for images in cells.parts(name, severity)]
            for encoder, logits in zip(ENCODERS, map(np.concatenate, zip(*parts))):
                hits[encoder][row, column] = logits.argmax(axis=1) == cells.labels
                ece[encoder][row, column] = calibration.ece(metrics.softmax(logits), cells.labels)
        said = ", ".join(f"{encoder} {hits[encoder][row].mean():.3f}" for encoder in ENCODERS)
        log.info("%s: accuracy %s", name, said)

    measured = {encoder: Measured(hits[encoder], clean[encoder]) for encoder in ENCODERS}
    found = {}
    for encoder in ENCODERS:
        found[encoder] = _summary(
            measured[encoder], reference or measured["random"], types, asked.bootstrap, params.seed
        )
        by_severity = ece[encoder][_places(types, corruptions.BENCHMARK) or slice(None)].mean(axis=0)
        found[encoder] |= {f"ece_severity_{severity}": float(by_severity[i]) for i, severity in enumerate(severities)}
        found[encoder]["error"] = dict(zip(types, measured[encoder].by_type().tolist()))
        found[encoder] |= {"benchmark_types": len(_benchmark(types)), "n": len(split)}
    rows = [
        (encoder, name, severity, float(hits[encoder][i, j].mean()), float(ece[encoder][i, j]))
        for encoder in ENCODERS
        for i, name in enumerate(types)
        for j, severity in enumerate(severities)
    ]
    files.write_csv("plots/corrupt/accuracy.csv", ("encoder", "type", "severity", "accuracy", "ece"), rows)
    files.write_metrics("metrics/corrupt.json", found)


def _cells(params: Params, split: data.Split, device: str) -> corrupted.Cells:
    asked, size = params.corrupt, split.images.shape[-1]
    channels = split.images.shape[1]
    if asked.source == "folders":
        return corrupted.Folders(asked.path, asked.types, asked.severities, split.classes, size, channels)
    if asked.source == "arrays":
        return corrupted.Arrays(asked.path, asked.types, len(split.classes), size, channels)
    frost = None if asked.frost is None else corruptions.read_frost(asked.frost)
    return corrupted.Generated(split, params.seed, device, frost)


def _places(types: Sequence[str], group: Sequence[str]) -> list[int]:
    return [place for place, name in enumerate(types) if name in group]


def _benchmark(types: Sequence[str]) -> list[str]:
    return [name for name in types if name in corruptions.BENCHMARK]


def _summary(
    own: Measured, reference: Measured | Known, types: Sequence[str], resamples: int, seed: int
) -> dict[str, float | None]:
    """The single numbers of one encoder, those that a report leads with with their intervals."""
    benchmark, extra = _places(types, corruptions.BENCHMARK), _places(types, corruptions.EXTRA)
    values: dict[str, float] = {"accuracy_clean": float(own.clean.mean())}
    wanted = {}
    if benchmark:
        part = Measured(own.hits[benchmark], own.clean)
        other = reference if isinstance(reference, Known) else Measured(reference.hits[benchmark], reference.clean)
        wanted["mce_unnormalised"] = partial(robustness.mce_unnormalised, part)
        wanted["mce"] = partial(robustness.mce, part, other)
    if extra:
        wanted["mce_unnormalised_extra"] = partial(robustness.mce_unnormalised, Measured(own.hits[extra], own.clean))
    values |= metrics.with_intervals(wanted, len(own.clean), resamples, seed)
    if benchmark and own is reference:
        values |= {"mce_low": values["mce"], "mce_high": values["mce"]}  # 1 by definition, with any images
    if benchmark:
        values["relative_mce"] = float(robustness.relative_mce(part, other))
    return {name: value if np.isfinite(value) else None for name, value in values.items()}


if __name__ == "__main__":
    run("corrupt", main)
