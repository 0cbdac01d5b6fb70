"""The difference between two models on the same test images, with an interval.

Both models are evaluated on the same resamples of the images, so images that are hard for both do
not widen the interval. A difference counts where its 95 % interval excludes 0. Whether the
intervals of the two models overlap does not tell that.
"""

from functools import partial
from typing import NamedTuple

import numpy as np

from prosmin.metrics import detection, intervals
from prosmin.metrics.intervals import Metric, Scale


class Difference(NamedTuple):
    """Second minus first, with the 95 % interval of ``prosmin.metrics.intervals.difference``."""

    value: float
    low: float
    high: float

    @property
    def apart(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


NONE = Difference(0.0, 0.0, 0.0)


def difference(first: Metric, second: Metric, n: int, bootstrap: int, seed: int) -> Difference:
    """second - first, two metrics of the same n samples, on the same resamples.

    The metrics are functions of the counts, as in
    ``prosmin.metrics.classification.with_intervals``.
    """
    if _same(first, second):
        return NONE
    pair = {"first": first, "second": second}
    drawn = intervals.on_resamples(pair, n, bootstrap, seed)
    values = float(first(None)), float(second(None))
    scale = intervals.scale_of(second)
    return _of(values, (drawn["first"], drawn["second"]), n, scale)


def _same(first: Metric, second: Metric) -> bool:
    """Whether both are one function of equal arrays, so that the difference is 0."""
    if not (isinstance(first, partial) and isinstance(second, partial)):
        return False
    pairs = zip(first.args, second.args)
    return first.func is second.func and all(np.array_equal(a, b) for a, b in pairs)


def auroc_difference(
    first: tuple[np.ndarray, np.ndarray],
    second: tuple[np.ndarray, np.ndarray],
    bootstrap: int,
    seed: int,
) -> Difference:
    """second - first in AUROC, of two scores of the same images.

    first, second: scores of the ID images ``[N]`` and of the OOD images ``[M]``, high = OOD.
    """
    if all(np.array_equal(a, b) for a, b in zip(first, second, strict=True)):
        return NONE
    drawn = (
        detection.auroc_resamples(*first, resamples=bootstrap, seed=seed),
        detection.auroc_resamples(*second, resamples=bootstrap, seed=seed),
    )
    values = detection.auroc(*first), detection.auroc(*second)
    return _of(values, drawn, sum(map(len, first)), detection.AUROC)


def _of(
    values: tuple[float, float], drawn: tuple[np.ndarray, np.ndarray], n: int, scale: Scale
) -> Difference:
    """From the values of the two metrics and their values on the resamples, [R] each."""
    value = values[1] - values[0]
    if scale == intervals.UNKNOWN:
        return Difference(value, *intervals.from_resamples(value, drawn[1] - drawn[0], n, scale))
    first = values[0], *intervals.from_resamples(values[0], drawn[0], n, scale)
    second = values[1], *intervals.from_resamples(values[1], drawn[1], n, scale)
    correlation = intervals.correlation(*drawn)
    return Difference(value, *intervals.difference(first, second, correlation))
