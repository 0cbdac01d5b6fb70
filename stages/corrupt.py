"""corrupt: accuracy and calibration of the linear probe on corrupted test images.

Reads   data/<dataset>, results/pretrain, results/linear
Writes  metrics/corrupt.json: for each encoder accuracy_clean, mce_unnormalised, mce and relative_mce
            (``prosmin.robustness``; the reference is the random encoder), ece_severity_<s>: the mean over types of the
            uncalibrated ECE, and error: the mean over severities for each type. A ratio that its reference leaves
            undefined is null.
        plots/corrupt/accuracy.csv: accuracy and ECE for each encoder, type and severity

Images are resized to the encoder's input first and corrupted there, as CIFAR-10-C and ImageNet-C are: the constants are
chosen by that size (``prosmin.corruptions``). Each cell is corrupted once, always on the CPU so that the draws are the
same on every machine, and seen by both encoders. Results compare with each other, not with published files.
"""

import logging
from functools import partial

import numpy as np
import torch

from prosmin import calibration, corruptions, data, export, files, metrics, robustness
from prosmin.embedding import embed
from prosmin.errors import UserError
from stages.command import run
from stages.features import ENCODERS
from stages.params import Params
from stages.probing import load_probe

REFERENCE = "random"

log = logging.getLogger(__name__)


def main(params: Params) -> None:
    types, severities = params.corrupt.types, sorted(params.corrupt.severities)
    description, _ = export.load_description("results/pretrain")
    split = data.load_split(f"data/{params.dataset}", "test", description.image_size, description.channels)
    labels = split.labels.numpy()
    if missing := int((labels < 0).sum()):
        raise UserError(
            f"{missing} of {len(labels)} images in the test split of dataset {params.dataset!r} have no label; "
            "accuracy under corruption needs one for each"
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    probes = {encoder: load_probe(encoder) for encoder in ENCODERS}
    networks = {encoder: export.load_encoder("results/pretrain", encoder).to(device) for encoder in ENCODERS}

    def predict(encoder: str, images: torch.Tensor) -> np.ndarray:
        return probes[encoder].logits(embed(networks[encoder], images, params.corrupt.batch_size))

    clean = {encoder: predict(encoder, split.images).argmax(axis=1) == labels for encoder in ENCODERS}
    hits = {encoder: np.empty((len(types), len(severities), len(labels)), bool) for encoder in ENCODERS}
    ece = {encoder: np.empty((len(types), len(severities))) for encoder in ENCODERS}
    for row, name in enumerate(types):
        for column, severity in enumerate(severities):
            corrupted = corruptions.corrupt(split.images, name, severity, params.seed)
            for encoder in ENCODERS:
                logits = predict(encoder, corrupted)
                hits[encoder][row, column] = logits.argmax(axis=1) == labels
                ece[encoder][row, column] = calibration.ece(metrics.softmax(logits), labels)
        said = ", ".join(f"{encoder} {hits[encoder][row].mean():.3f}" for encoder in ENCODERS)
        log.info("%s: accuracy %s", name, said)

    found = {encoder: _summary(hits, clean, encoder, params.corrupt.bootstrap, params.seed) for encoder in ENCODERS}
    for encoder in ENCODERS:
        by_severity, by_type = ece[encoder].mean(axis=0), robustness.error(hits[encoder]).mean(axis=1)
        found[encoder] |= {f"ece_severity_{severity}": float(by_severity[i]) for i, severity in enumerate(severities)}
        found[encoder] |= {"error": {name: float(by_type[i]) for i, name in enumerate(types)}, "n": len(labels)}
    rows = [
        (encoder, name, severity, float(hits[encoder][i, j].mean()), float(ece[encoder][i, j]))
        for encoder in ENCODERS
        for i, name in enumerate(types)
        for j, severity in enumerate(severities)
    ]
    files.write_csv("plots/corrupt/accuracy.csv", ("encoder", "type", "severity", "accuracy", "ece"), rows)
    files.write_metrics("metrics/corrupt.json", found)


def _summary(
    hits: dict[str, np.ndarray], clean: dict[str, np.ndarray], encoder: str, resamples: int, seed: int
) -> dict[str, float | None]:
    """The single numbers of one encoder, those that a report leads with with their intervals."""
    own, reference = (hits[encoder], clean[encoder]), (hits[REFERENCE], clean[REFERENCE])
    wanted = {
        "mce_unnormalised": partial(robustness.mce_unnormalised, own[0]),
        "mce": partial(robustness.mce, own[0], reference[0]),
    }
    values = {
        "accuracy_clean": float(clean[encoder].mean()),
        **metrics.with_intervals(wanted, len(clean[encoder]), resamples, seed),
        "relative_mce": float(robustness.relative_mce(*own, *reference)),
    }
    return {name: value if np.isfinite(value) else None for name, value in values.items()}


if __name__ == "__main__":
    run("corrupt", main)
