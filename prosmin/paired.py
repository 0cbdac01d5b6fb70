"""The difference between two models on the same test images, with an interval.

Both are read on the same resamples of the images, so what makes an image hard for both cancels. A difference is worth
mentioning where its 95 % interval leaves out 0; two intervals that overlap say nothing of that.
"""

from typing import NamedTuple

import numpy as np

from prosmin import detection, metrics
from prosmin.metrics import Metric


class Difference(NamedTuple):
    """Of the second to the first, with its 95 % percentile bootstrap interval."""

    value: float
    low: float
    high: float

    @property
    def apart(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def difference(first: Metric, second: Metric, n: int, bootstrap: int, seed: int) -> Difference:
    """second - first, metrics of the same n samples as in ``prosmin.metrics.with_intervals``, on the same resamples."""
    drawn = [np.asarray(second(counts)) - np.asarray(first(counts)) for counts in metrics.resamples(n, bootstrap, seed)]
    return _of(float(second(None)) - float(first(None)), np.concatenate(drawn))


def auroc_difference(
    first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray], bootstrap: int, seed: int
) -> Difference:
    """second - first in AUROC, of scores (ID ``[N]``, OOD ``[M]``) of the same images each, high = OOD."""
    drawn = [detection.auroc_resamples(*each, resamples=bootstrap, seed=seed) for each in (first, second)]
    return _of(detection.auroc(*second) - detection.auroc(*first), drawn[1] - drawn[0])


def _of(value: float, drawn: np.ndarray) -> Difference:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Difference(value, float(low), float(high))
