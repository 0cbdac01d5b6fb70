"""The 95 % intervals hold the truth as often as they say: 1000 repetitions on synthetic data whose truth is known."""

from functools import partial

import numpy as np
import pytest
from scipy.stats import norm

from prosmin import detection, metrics

REPETITIONS = 1000


def share_inside(interval, truth: float) -> float:
    found = [interval(seed) for seed in range(REPETITIONS)]
    return float(np.mean([low <= truth <= high for low, high in found]))


def of(metric, n, seed):
    found = metrics.with_intervals({"it": metric}, n, 300, seed)
    return found["it_low"], found["it_high"]


def accuracy(seed: int) -> tuple[float, float]:
    """400 images of which each is right with probability 0.8."""
    labels = np.zeros(400, int)
    right = np.random.default_rng(seed).random(400) < 0.8
    return of(partial(metrics.accuracy, np.stack([right, ~right], 1).astype(float), labels), 400, seed)


def brier(seed: int) -> tuple[float, float]:
    """300 images of two classes with calibrated probabilities p uniform in [0, 1]: the mean of 2 p (1 - p) is 1/3."""
    rng = np.random.default_rng(seed)
    p = rng.random(300)
    labels = (rng.random(300) < p).astype(int)
    return of(partial(metrics.brier, np.stack([1 - p, p], 1), labels), 300, seed)


def nll(seed: int) -> tuple[float, float]:
    """The same images: the mean of -p log p - (1 - p) log(1 - p) is 1/2 nat."""
    rng = np.random.default_rng(seed)
    p = rng.random(300)
    labels = (rng.random(300) < p).astype(int)
    return of(partial(metrics.nll, np.log(np.stack([1 - p, p], 1)), labels), 300, seed)


def auroc(seed: int) -> tuple[float, float]:
    """150 ID scores of N(0, 1) and 150 OOD scores of N(1, 1)."""
    rng = np.random.default_rng(seed)
    return detection.auroc_interval(rng.normal(size=150), rng.normal(size=150) + 1, resamples=300, seed=seed)


@pytest.mark.parametrize(
    ("interval", "truth"),
    [(accuracy, 0.8), (brier, 1 / 3), (nll, 0.5), (auroc, norm.cdf(1 / np.sqrt(2)))],
    ids=["accuracy", "brier", "nll", "auroc"],
)
def test_intervals_cover_what_they_say(interval, truth):
    assert 0.93 <= share_inside(interval, truth) <= 0.97
