"""The difference between two models on the same test images, with an interval.

Both are read on the same resamples of the images, so what makes an image hard for both cancels. A difference is worth
mentioning where its 95 % interval leaves out 0; two intervals that overlap say nothing of that.
"""

from functools import partial
from typing import NamedTuple

import numpy as np

from prosmin.metrics import classification, detection, intervals
from prosmin.metrics.classification import Metric


class Difference(NamedTuple):
    """Of the second to the first, with its 95 % interval (``prosmin.metrics.intervals.difference``)."""

    value: float
    low: float
    high: float

    @property
    def apart(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def difference(first: Metric, second: Metric, n: int, bootstrap: int, seed: int) -> Difference:
    """second - first, metrics of the same n samples as in ``prosmin.metrics.classification.with_intervals``, on the same resamples."""
    if _same(first, second):
        return Difference(0.0, 0.0, 0.0)
    drawn = ([], [])
    for counts in classification.resamples(n, bootstrap, seed):
        for values, metric in zip(drawn, (first, second), strict=True):
            values.append(np.asarray(metric(counts)))
    values = tuple(float(metric(None)) for metric in (first, second))
    return _of(values, tuple(map(np.concatenate, drawn)), n, intervals.scale_of(second))


def _same(first: Metric, second: Metric) -> bool:
    """Whether both are one function of equal arrays: outputs of one model, whose difference is 0."""
    if not (isinstance(first, partial) and isinstance(second, partial)):
        return False
    pairs = zip(first.args, second.args)
    return first.func is second.func and all(np.array_equal(*each) for each in pairs)


def auroc_difference(
    first: tuple[np.ndarray, np.ndarray],
    second: tuple[np.ndarray, np.ndarray],
    bootstrap: int,
    seed: int,
) -> Difference:
    """second - first in AUROC, of scores (ID ``[N]``, OOD ``[M]``) of the same images each, high = OOD."""
    drawn = tuple(
        detection.auroc_resamples(*each, resamples=bootstrap, seed=seed) for each in (first, second)
    )
    values = detection.auroc(*first), detection.auroc(*second)
    if all(np.array_equal(*each) for each in zip(first, second, strict=True)):
        return Difference(0.0, 0.0, 0.0)
    return _of(values, drawn, sum(map(len, first)), detection.AUROC)


def _of(
    values: tuple[float, float],
    drawn: tuple[np.ndarray, np.ndarray],
    n: int,
    scale: intervals.Scale,
) -> Difference:
    """From the values of the two metrics and those on the resamples [R]."""
    value = values[1] - values[0]
    if scale == intervals.UNKNOWN:
        return Difference(value, *intervals.from_resamples(value, drawn[1] - drawn[0], n, scale))
    each = [
        (one, *intervals.from_resamples(one, on, n, scale))
        for one, on in zip(values, drawn, strict=True)
    ]
    return Difference(value, *intervals.difference(*each, intervals.correlation(*drawn)))
