"""Scores of a predicted distribution, in NumPy: mean score, skill and rank correlation.

``counts`` [R, N] are resamples as in ``prosmin.metrics.classification``: a value per resample.
"""

import math

import numpy as np

from prosmin.metrics import classification
from prosmin.metrics.intervals import Counts, Scale, on


@on(Scale(0.0, math.inf))
def mean_score(score: np.ndarray, counts: Counts | None = None) -> "float | np.ndarray":
    """Mean of scores [N] that are at least 0 and have no upper end, such as the CRPS."""
    return classification.mean(score, counts)


@on(Scale(-math.inf, 1.0))
def skill(
    score: np.ndarray, control: np.ndarray, counts: Counts | None = None
) -> "float | np.ndarray":
    """1 - mean score / mean control, of scores [N]: above 0 the score beats the control."""
    return 1 - classification.mean(score, counts) / classification.mean(control, counts)


@on(Scale(-1.0, 1.0))
def rank_correlation(
    first: np.ndarray, second: np.ndarray, counts: Counts | None = None
) -> "float | np.ndarray":
    """Spearman's rank correlation of [N] and [N], in [-1, 1].

    Ties share their mean rank. A constant has a correlation of 0.
    """
    rows = np.ones((1, len(first))) if counts is None else counts
    a, b = (_centred_ranks(scores, rows) for scores in (first, second))
    spread = np.sqrt((rows * a**2).sum(1) * (rows * b**2).sum(1))
    values = np.divide((rows * a * b).sum(1), spread, out=np.zeros(len(rows)), where=spread > 0)
    return float(values[0]) if counts is None else values


def _centred_ranks(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean rank of each value [N], less the mean of its row, in R resamples: [R, N].

    counts: [R, N], how often each sample is repeated in a resample.
    """
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    mass = np.concatenate([np.zeros((len(counts), 1)), np.cumsum(counts[:, order], axis=1)], axis=1)
    low, high = np.searchsorted(ordered, values, "left"), np.searchsorted(ordered, values, "right")
    ranks: np.ndarray = (mass[:, low] + mass[:, high]) / 2 - mass[:, -1:] / 2
    return ranks
