"""Accuracy under corruption in single numbers (Hendrycks & Dietterich, ICLR 2019, sec. 4), in NumPy.

Cells are types x severities. ``counts`` [R,N] are resamples as in ``prosmin.metrics.classification``: one value a resample. Every cell
and a measured reference see the same resampled images, so an interval is that of the paired comparison.
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
    """What a model has right: hits bool [T,S,N] in each cell, clean bool [N] without corruption."""

    hits: np.ndarray
    clean: np.ndarray

    def by_type(self, counts: Counts | None = None) -> np.ndarray:
        """Error of each type, mean over severities, [T]; [R,T] with counts."""
        return error(self.hits, counts).mean(axis=-1)

    def without(self, counts: Counts | None = None) -> np.ndarray:
        """Error without corruption, []; [R] with counts."""
        return error(self.clean, counts)


@dataclass(frozen=True)
class Known:
    """A model of which only the errors are known: errors [T], means over severities; clean: None where it is not known."""

    errors: np.ndarray
    clean: float | None = None

    def by_type(self, counts: Counts | None = None) -> np.ndarray:
        return self.errors

    def without(self, counts: Counts | None = None) -> np.ndarray:
        return np.float64(np.nan if self.clean is None else self.clean)


def error(hits: np.ndarray, counts: Counts | None = None) -> np.ndarray:
    """Error rates [...] of hits [...,N]; [R,...] with counts."""
    if counts is None:
        return 1 - hits.mean(axis=-1)
    flat = hits.reshape(-1, hits.shape[-1]).astype(np.float64)
    errors = 1 - counts @ flat.T / counts.sum(axis=1, keepdims=True)
    return errors.reshape(len(counts), *hits.shape[:-1])


def _scale(model: Measured, high: float) -> Scale:
    """One image is looked at in each cell: at the most that is as many looks apart."""
    return Scale(0.0, high, finest=model.hits[..., 0].size)


@on(lambda model: _scale(model, 1.0))
def mce_unnormalised(model: Measured, counts: Counts | None = None) -> "float | np.ndarray":
    """Mean error over all types and severities, in [0, 1]."""
    return model.by_type(counts).mean(axis=-1)


@on(lambda model: _scale(model, math.inf))
def mce(
    model: Measured, reference: Measured | Known, counts: Counts | None = None
) -> "float | np.ndarray":
    """Mean corruption error as a ratio: the mean over types of sum_s error / sum_s error of the reference.

    The reference therefore has 1 itself (the paper gives per cent, 100). NaN where it makes no error in a type.
    """
    return _ratios(model.by_type(counts), reference.by_type(counts))


def relative_mce(
    model: Measured, reference: Measured | Known, counts: Counts | None = None
) -> "float | np.ndarray":
    """The same for the error that corruption adds: mean over types of sum_s (error - clean) / the reference's.

    NaN where a type does not add to the error of the reference: the ratio then compares nothing.
    """
    own, other = (
        each.by_type(counts) - each.without(counts)[..., None] for each in (model, reference)
    )
    return _ratios(own, other)


def cosines(features: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """Cosine [N] between features [N, F] of corrupted images and those of the same images without corruption.

    Both are centred on the mean of the clean features: features share a large offset, which alone
    would put every cosine near 1. 0 where an image lies on that mean.
    """
    centre = clean.mean(axis=0, dtype=np.float64)
    own, other = features - centre, clean - centre
    lengths = np.linalg.norm(own, axis=1) * np.linalg.norm(other, axis=1)
    return np.divide((own * other).sum(axis=1), lengths, out=np.zeros(len(own)), where=lengths > 0)


@on(Scale(-1.0, 1.0))
@on(Scale(-1.0, 1.0))
def feature_similarity(
    similarity: np.ndarray, counts: Counts | None = None
) -> "float | np.ndarray":
    """Mean cosine over types, severities and images, at most 1: features that no corruption changes.

    similarity: ``cosines`` of every cell, [T, S, N]. Needs no labels.
    """
    images = similarity.mean(axis=(0, 1), dtype=np.float64)
    return images.mean() if counts is None else counts @ images / counts.sum(axis=1)


def _ratios(own: np.ndarray, reference: np.ndarray) -> "float | np.ndarray":
    """Mean over the last axis of own / reference. Means of a few error rates: below 1e-9 is none but for rounding."""
    defined = reference > 1e-9
    return np.where(defined, own / np.where(defined, reference, 1), np.nan).mean(axis=-1)


# --- references -----------------------------------------------------------------------------------

# Errors of AlexNet on ImageNet-C, means over the five severities, as published with the benchmark; its error without
# corruption is that of the paper's table 1.
ALEXNET_CLEAN = 0.435
ALEXNET_NEEDS = "its errors are of ImageNet-C's published files; needed: source folders, its 15 types, severities 1 to 5"
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
    """A reference by name (``alexnet``) or from a JSON file of its errors by type under ``error``, means over severities,
    and, if known, its ``accuracy_clean``: an encoder's part of ``metrics/corrupt.json`` is such a file.

    cells: what tells the corrupted images here from others, by name, at least ``source`` and ``severities`` (ascending). A
    file must say the same of its own. AlexNet's are the published files of ImageNet-C, all 15 types at all five severities.
    Raise ``ConfigError`` where there is no such reference, or where it is of other images or lacks one of the types.
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
            other = f"its {key} is {content[key]}, here it is {value}; errors of other images are no reference"
            raise ConfigError("reference", reference, other)
    if missing := [name for name in types if name not in errors]:
        raise ConfigError("reference", reference, f"it has no error for {', '.join(missing)}")
    count = len(cells["severities"]) * cells.get("n", 0)
    clean = None if accuracy is None else 1 - _share(accuracy, cells.get("n", 0))
    return Known(np.array([_share(errors[name], count) for name in types]), clean)


def _share(value: float, count: int) -> float:
    """The share of ``count`` that this is when a metrics file has rounded it, so that a model is to itself as 1 to 1."""
    exact = round(value * count) / count if count else value
    return exact if rounded(exact) == rounded(value) else value


def _read(file: str) -> tuple[dict[str, Any], dict[str, float], float | None]:
    """All that the file holds, its errors by type and its accuracy without corruption."""
    try:
        content = read_json(Path(file).expanduser())
        accuracy = content.get("accuracy_clean")
        errors = {name: float(value) for name, value in content["error"].items()}
        if not all(0 <= each <= 1 for each in (*errors.values(), accuracy or 0)):
            raise ValueError
        return content, errors, accuracy
    except FileNotFoundError:
        raise ConfigError(
            "reference", file, "allowed: random, alexnet, or a JSON file, and there is no such file"
        ) from None
    except (UserError, ValueError, KeyError, AttributeError, TypeError, OverflowError):
        raise ConfigError(
            "reference", file, 'needed: JSON {"error": {type: a share in [0, 1]}}'
        ) from None
