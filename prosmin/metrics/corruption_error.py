"""Accuracy under corruption in single numbers, in NumPy (Hendrycks & Dietterich, ICLR 2019).

Letters in shapes: T types, S severities, N images, R resamples. A cell is one type at one severity.
``counts`` [R, N] are resamples as in ``prosmin.metrics.classification``, with one value per
resample. All cells and a measured reference see the same resampled images, so an interval is that
of the paired comparison.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prosmin.common.errors import ConfigError, UserError
from prosmin.common.files import read_json, rounded
from prosmin.metrics.classification import Counts
from prosmin.metrics.intervals import Scale, on


@dataclass(frozen=True)
class Measured:
    """Whether a model is right on every image.

    hits: bool [T, S, N], under corruption.
    clean: bool [N], without corruption.
    """

    hits: np.ndarray
    clean: np.ndarray

    def by_type(self, counts: Counts | None = None) -> np.ndarray:
        """Error of each type, mean over severities, [T]; [R, T] with counts."""
        errors: np.ndarray = error(self.hits, counts).mean(axis=-1)
        return errors

    def without(self, counts: Counts | None = None) -> np.ndarray:
        """Error without corruption, []; [R] with counts."""
        return error(self.clean, counts)


@dataclass(frozen=True)
class Known:
    """A model whose errors alone are known.

    errors: [T], means over severities.
    clean: error without corruption, None where it is unknown.
    """

    errors: np.ndarray
    clean: float | None = None

    def by_type(self, counts: Counts | None = None) -> np.ndarray:
        """Error of each type, [T]."""
        return self.errors

    def without(self, counts: Counts | None = None) -> np.ndarray:
        """Error without corruption, []; NaN where it is unknown."""
        return np.asarray(np.nan if self.clean is None else self.clean, np.float64)


def error(hits: np.ndarray, counts: Counts | None = None) -> np.ndarray:
    """Error rates [...] of hits [..., N]; [R, ...] with counts."""
    if counts is None:
        return np.asarray(1 - hits.mean(axis=-1))
    flat = hits.reshape(-1, hits.shape[-1]).astype(np.float64)
    errors: np.ndarray = 1 - counts @ flat.T / counts.sum(axis=1, keepdims=True)
    return errors.reshape(len(counts), *hits.shape[:-1])


def _scale(model: Measured, high: float) -> Scale:
    """Scale of a mean over cells: an image counts as at most one independent image per cell."""
    return Scale(0.0, high, finest=model.hits[..., 0].size)


@on(lambda model: _scale(model, 1.0))
def mce_unnormalised(model: Measured, counts: Counts | None = None) -> "float | np.ndarray":
    """Mean error over all types and severities, in [0, 1]."""
    errors: float | np.ndarray = model.by_type(counts).mean(axis=-1)
    return errors


@on(lambda model: _scale(model, math.inf))
def mce(
    model: Measured, reference: Measured | Known, counts: Counts | None = None
) -> "float | np.ndarray":
    """Mean corruption error: mean over types of sum_s error / sum_s error of the reference.

    The reference itself has 1 (100 per cent in the paper, sec. 4). NaN where the reference makes no
    error in a type.
    """
    return _ratios(model.by_type(counts), reference.by_type(counts))


def relative_mce(
    model: Measured, reference: Measured | Known, counts: Counts | None = None
) -> "float | np.ndarray":
    """``mce`` of the error that corruption adds: error minus error without corruption.

    NaN where a type does not add to the error of the reference.
    """
    own, other = (
        errors.by_type(counts) - errors.without(counts)[..., None] for errors in (model, reference)
    )
    return _ratios(own, other)


def cosines(features: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """Cosine [N] between features [N, F] of images with and without corruption.

    Both are centred on the mean of the clean features, because features share a large offset, which
    alone would bring every cosine near 1. The cosine is 0 where an image lies on this mean.
    """
    centre = clean.mean(axis=0, dtype=np.float64)
    own, other = features - centre, clean - centre
    lengths = np.linalg.norm(own, axis=1) * np.linalg.norm(other, axis=1)
    cosine = np.zeros(len(own))
    np.divide((own * other).sum(axis=1), lengths, out=cosine, where=lengths > 0)
    return cosine


@on(Scale(-1.0, 1.0))
def feature_similarity(
    similarity: np.ndarray, counts: Counts | None = None
) -> "float | np.ndarray":
    """Mean cosine over types, severities and images; 1 where no corruption changes the features.

    similarity: ``cosines`` of every cell, [T, S, N].
    """
    images: np.ndarray = similarity.mean(axis=(0, 1), dtype=np.float64)
    if counts is None:
        return float(images.mean())
    resampled: np.ndarray = counts @ images / counts.sum(axis=1)
    return resampled


def _ratios(own: np.ndarray, reference: np.ndarray) -> "float | np.ndarray":
    """Mean over the last axis of own / reference, NaN where a reference is 0.

    An error rate below 1e-9 is 0 apart from rounding.
    """
    defined = reference > 1e-9
    ratios: np.ndarray = np.where(defined, own / np.where(defined, reference, 1), np.nan)
    mean: float | np.ndarray = ratios.mean(axis=-1)
    return mean


# --- references -----------------------------------------------------------------------------------

# Errors of AlexNet on ImageNet-C, means over the five severities, as published with the benchmark.
# The error without corruption is from table 1 of the paper.
ALEXNET_CLEAN = 0.435
ALEXNET_NEEDS = (
    "its errors are of ImageNet-C's published files; needed: source folders, its 15 types, "
    "severities 1 to 5"
)
ALEXNET = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}


def known(reference: str, types: Sequence[str], cells: Mapping[str, Any]) -> Known:
    """A reference by name (``alexnet``) or from a JSON file.

    The file holds the error by type under ``error``, means over severities, and may hold
    ``accuracy_clean``. The metrics of one encoder under corruption are such a file.

    types: of corruption, in the order of the result.
    cells: the facts that identify the corrupted images, by name, at least ``source`` and
        ``severities`` (ascending). A file must state the same facts. For AlexNet they are the
        published files of ImageNet-C, all 15 types at all five severities.
    Raises ``ConfigError`` where there is no such reference, where it is of other images, and where
    it lacks a type.
    """
    if reference == "alexnet":
        if (
            cells["source"] != "folders"
            or len(cells["severities"]) < 5
            or set(types) != set(ALEXNET)
        ):
            raise ConfigError("reference", reference, ALEXNET_NEEDS)
        return Known(np.array([ALEXNET[name] for name in types]), ALEXNET_CLEAN)
    content, errors, accuracy = _read(reference)
    for key, value in cells.items():
        if key not in content:
            lacking = f"it does not say of which {key} its errors are; here it is {value}"
            raise ConfigError("reference", reference, lacking)
        if content[key] != value:
            other = (
                f"its {key} is {content[key]}, here it is {value}; "
                "errors of other images are no reference"
            )
            raise ConfigError("reference", reference, other)
    if missing := [name for name in types if name not in errors]:
        raise ConfigError("reference", reference, f"it has no error for {', '.join(missing)}")
    count = len(cells["severities"]) * cells.get("n", 0)
    clean = None if accuracy is None else 1 - _share(accuracy, cells.get("n", 0))
    return Known(np.array([_share(errors[name], count) for name in types]), clean)


def _share(value: float, count: int) -> float:
    """The share of ``count`` images that a metrics file has rounded to ``value``.

    Without rounding a model has exactly 1 against its own file.
    """
    exact = round(value * count) / count if count else value
    return exact if rounded(exact) == rounded(value) else value


def _read(file: str) -> tuple[dict[str, Any], dict[str, float], float | None]:
    """The content of a file, its errors by type and its accuracy without corruption."""
    try:
        content = read_json(Path(file).expanduser())
        accuracy = content.get("accuracy_clean")
        errors = {name: float(value) for name, value in content["errors"].items()}
        if not all(0 <= share <= 1 for share in (*errors.values(), accuracy or 0)):
            raise ValueError
        return content, errors, accuracy
    except FileNotFoundError:
        raise ConfigError(
            "reference", file, "allowed: random, alexnet, or a JSON file, and there is no such file"
        ) from None
    except (UserError, ValueError, KeyError, AttributeError, TypeError, OverflowError):
        raise ConfigError(
            "reference", file, 'needed: JSON {"errors": {type: a share in [0, 1]}}'
        ) from None
