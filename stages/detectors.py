"""detectors: OOD detectors, fitted to the dataset, and the scores of its own test images.

Reads   results/embed/<dataset>, results/linear
Writes  results/detectors/<encoder>.safetensors:
            ``<statistic>.<array>``: of ``prosmin.evaluation.ood_statistics``
            ``standards.<detector>``: mean and spread, float64 [2] (``ood_scores.Fitted``)
            ``id.<detector>``: scores of the in-distribution (ID) test images, float64 [N]
            ``accuracy``: of the linear probe on these images, float64 [1]; only with labels
            ``made_of``: checksum of features, probe and settings, uint64 [1]

``ood`` compares these scores with those of each OOD set, and ``export`` takes its detectors from
here. The training features that k-NN searches stay in results/embed. The settings are keys of the
section ``ood``.
"""

import logging
from dataclasses import asdict

import numpy as np

from prosmin.common import files
from prosmin.common.compute.backend import blas
from prosmin.common.compute.stacked import Stack
from prosmin.common.encoders import ENCODERS
from prosmin.common.errors import ConfigError, UserError
from prosmin.evaluation.linear_probe import Probe
from prosmin.evaluation.ood_detectors import Sample, Settings
from prosmin.evaluation.ood_scores import Fitted
from prosmin.metrics import classification
from stages.common import layout
from stages.common.command import run
from stages.common.features import FITTED, Features, load_features
from stages.linear import load_probe
from stages.params.load import PARAMS, Params

REMEDY = "make it anew with `dvc repro detectors` or `python -m stages.detectors`"

log = logging.getLogger(__name__)


def main(params: Params) -> None:
    with files.whole_folder(layout.results("detectors")) as folder:
        for encoder in ENCODERS:
            files.write_arrays(folder / layout.detectors(encoder).name, _fit(params, encoder))


def _fit(params: Params, encoder: str) -> dict[str, np.ndarray]:
    """The arrays of the file of one encoder."""
    features, probe = load_features(params.dataset, encoder), load_probe(encoder)
    asked = settings(params)
    arrays = {"made_of": _made_of(features, probe, asked)}
    try:
        fitted = Fitted.fit(training(features, probe), asked)
        query = to_score(features, probe)
        scores = fitted.score(query)
    except ConfigError as error:
        raise UserError(f"{PARAMS}: ood.{error}") from None
    if query.logits is not None:
        _, labels = features.labelled("test")
        arrays["accuracy"] = np.array([classification.accuracy(query.logits, labels)])
    log.info("%s, %s encoder: %s", params.dataset, encoder, ", ".join(scores))
    return arrays | fitted.arrays() | {f"id.{name}": values for name, values in scores.items()}


def settings(params: Params) -> Settings:
    """The settings of the detectors."""
    asked = params.ood
    return Settings(asked.k, asked.temperature, asked.shrinkage, asked.vim_dim, params.seed)


def training(features: Features, probe: Probe | None) -> Sample:
    """All images that detectors are fitted to; no labels where any image lacks its label."""
    parts = [features.split(split) for split in _fitted(features)]
    labels = np.concatenate([part[1] for part in parts])
    sigmas = [part[2] for part in parts if part[2] is not None]
    with blas().limit(limits=1):  # so that the number of threads changes no digit
        head = None if probe is None else probe.linear
    return Sample(
        _table(features),
        log_sigma=np.concatenate(sigmas) if len(sigmas) == len(parts) else None,
        labels=labels if (labels >= 0).all() else None,
        head=head,
    )


def _fitted(features: Features) -> list[str]:
    """The splits that detectors are fitted to."""
    splits = [split for split in FITTED if split in features.splits]
    if not splits:
        raise UserError(
            f"dataset {features.dataset!r} has no train split for the detectors to be fitted to"
        )
    return splits


def _table(features: Features) -> Stack:
    """The features of these splits, one below the other."""
    return Stack(tuple(features.split(split)[0] for split in _fitted(features)))


def to_score(features: Features, probe: Probe | None) -> Sample:
    """The test images as detectors score them."""
    test, _, log_sigma = features.split("test")
    logits = None if probe is None else probe.logits(test)
    return Sample(test, log_sigma=log_sigma, logits=logits)


def load_detectors(
    params: Params, encoder: str, features: Features, probe: Probe | None
) -> tuple[Fitted, files.Arrays]:
    """The detectors that this stage fitted, and all arrays of their file.

    features, probe: of the dataset and the encoder.
    Raises ``UserError`` where the stage has not run, or has fitted them to other features, another
    probe or with other settings.
    """
    path, asked = layout.detectors(encoder), settings(params)
    try:
        arrays = files.read_arrays(path)
    except FileNotFoundError:
        raise UserError(
            f"{path} does not exist; run `dvc repro` or `python -m stages.detectors`"
        ) from None
    arrays.check({"made_of": ("uint64", "1")})
    if arrays["made_of"] != _made_of(features, probe, asked):
        raise UserError(
            f"{path} was fitted to other features of {params.dataset!r}, another linear probe or "
            f"with other settings of ood in {PARAMS}; {REMEDY}"
        )
    fitted = Fitted.of(arrays, _table(features), asked)
    if probe is not None:
        arrays.check({"accuracy": ("float64", "1")})
    return fitted, arrays


def _made_of(features: Features, probe: Probe | None, asked: Settings) -> np.ndarray:
    """A checksum, uint64 [1], of all that the file of an encoder is computed from.

    Of the features those of the test images stand for all: those of training images take seconds.
    """
    arrays = {
        name: array
        for name, array in features.arrays.items()
        if name == "test.features" or name.endswith((".labels", ".digest", ".log_sigma"))
    }
    if probe is not None:
        arrays |= {name: getattr(probe, name) for name in ("weight", "bias", "mean", "std")}
    head = {name: repr(value) for name, value in asdict(asked).items()}
    return np.array([int(files.checksum(arrays, head), 16)], np.uint64)


if __name__ == "__main__":
    run("detectors", main)
