"""Paired differences: against a bootstrap by hand, against truth, and where they are none."""

from functools import partial

import numpy as np
import pytest

from prosmin.common.seeds import generator
from prosmin.metrics import classification, detection
from prosmin.metrics.paired import auroc_difference, difference


def values(seed: int, n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Two measurements of each of n images, which share what makes an image hard."""
    rng = np.random.default_rng(seed)
    hard = rng.normal(size=n)
    return hard + 0.3 * rng.normal(size=n), hard + 0.3 * rng.normal(size=n) + 0.1


def test_it_is_the_bootstrap_of_the_differences():
    first, second = values(0)
    gain = difference(
        partial(classification.mean, first), partial(classification.mean, second), 300, 500, 3
    )
    rng = generator(3, "resamples", 300)
    picked = rng.integers(0, 300, size=(500, 300))
    low, high = np.quantile((second - first)[picked].mean(1), [0.025, 0.975])
    assert gain == (
        pytest.approx((second - first).mean()),
        pytest.approx(low),
        pytest.approx(high),
    )


def test_its_interval_covers_the_truth_and_is_tighter_than_that_of_two_samples():
    inside, narrower = 0, 0
    for seed in range(300):
        first, second = values(seed)
        gain = difference(
            partial(classification.mean, first),
            partial(classification.mean, second),
            300,
            300,
            seed,
        )
        inside += gain.low <= 0.1 <= gain.high
        apart = np.sqrt(first.var() / 300 + second.var() / 300) * 3.92
        narrower += gain.high - gain.low < apart
    assert 0.91 <= inside / 300 <= 0.98 and narrower == 300


def test_a_model_does_not_differ_from_itself():
    first, _ = values(1)
    metric = partial(classification.mean, first)
    gain = difference(metric, metric, 300, 200, 0)
    assert gain == (0, 0, 0) and not gain.apart
    scores = (first[:100], first[100:])
    assert auroc_difference(scores, scores, 200, 0) == (0, 0, 0)


def test_auroc_is_resampled_by_image():
    rng = np.random.default_rng(2)
    good = (rng.normal(size=120), rng.normal(size=80) + 2)
    poor = tuple(part + rng.normal(size=len(part)) * 2 for part in good)
    gain = auroc_difference(poor, good, 400, 1)
    assert gain.value == detection.auroc(*good) - detection.auroc(*poor)
    assert gain.apart and gain.low < gain.value < gain.high
    # Far from the ends of the range it is the percentile interval of the paired resamples.
    drawn = [detection.auroc_resamples(*scores, resamples=400, seed=1) for scores in (poor, good)]
    low, high = np.quantile(drawn[1] - drawn[0], [0.025, 0.975])
    assert (gain.low, gain.high) == (pytest.approx(low, abs=0.01), pytest.approx(high, abs=0.01))
    assert auroc_difference(good, poor, 400, 1).high == pytest.approx(-gain.low)
