"""95 % intervals that stay inside the range of their metric and hold near its ends, in NumPy.

A percentile bootstrap near 0 or 1 covers far less than it says, and has no width where all
resamples agree. So an interval here is that of a score test (Wilson 1927): the values theta from
which the one observed lies within z standard errors, where the variance is that *at theta* and
vanishes at the ends of the range. For a share of images it is Wilson's; for another metric the
number of images is the one whose share would vary as the bootstrap says that the metric does.
``python -m benchmarks.coverage`` compares them with percentiles and BCa; docs/evaluation.md has its
table.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import NormalDist
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Scale:
    """The range of a metric of n images, and how finely they can tell it.

    proportion: it is the share of images for which something holds, so its variance is known.
    finest: its variance is taken for no smaller than that of ``finest`` n images of which each is at
        one end of the range or at the other: what n images did not show, such as a first confident
        error, they have not excluded.
    unit: in the place of the range in that bound, where one end of the range is infinite.
    """

    low: float = 0.0
    high: float = 1.0
    proportion: bool = False
    finest: float = math.inf
    unit: float = 1.0


PROPORTION = Scale(proportion=True)
UNKNOWN = Scale(-math.inf, math.inf)


def on(scale: "Scale | Callable[[Any], Scale]") -> Callable[[Callable], Callable]:
    """Say beside its definition on which scale a metric is. scale: or a function of its first
    argument that gives it."""

    def mark(metric: Callable) -> Callable:
        metric.scale = scale
        return metric

    return mark


def scale_of(metric: Callable) -> Scale:
    """The scale of a metric whose data are bound by ``functools.partial``; ``UNKNOWN`` where it has
    not said one."""
    bound: tuple[Any, ...] = ()
    while isinstance(metric, partial):
        bound, metric = (*metric.args, *bound), metric.func
    scale = getattr(metric, "scale", UNKNOWN)
    return scale if isinstance(scale, Scale) else scale(bound[0])


def _z(level: float) -> float:
    return NormalDist().inv_cdf((1 + level) / 2)


def wilson(
    share: "float | np.ndarray", count: "float | np.ndarray", level: float = 0.95
) -> "tuple[float | np.ndarray, float | np.ndarray]":
    """(low, high) of a share of ``count`` independent images (Wilson 1927), in [0, 1]; both [...]."""
    z = _z(level)
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    reach = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    # At 0 and 1 the two are equal but for rounding.
    low = np.where(share == 0, 0.0, np.maximum(centre - reach, 0.0))
    high = np.where(share == 1, 1.0, np.minimum(centre + reach, 1.0))
    return (low, high) if np.ndim(low) else (float(low), float(high))


def score(
    value: float, variance: float, n: float, scale: Scale, level: float = 0.95
) -> tuple[float, float]:
    """(low, high) around a metric of n images whose sampling variance is ``variance``; NaN where that
    is not known."""
    if not (math.isfinite(value) and math.isfinite(variance)):
        return math.nan, math.nan
    if math.isinf(scale.low) and math.isinf(scale.high):
        reach = _z(level) * math.sqrt(variance)
        return value - reach, value + reach
    if math.isinf(scale.low):
        mirrored = Scale(-scale.high, math.inf, False, scale.finest, scale.unit)
        low, high = score(-value, variance, n, mirrored, level)
        return -high, -low
    if math.isinf(scale.high):
        return _above(value - scale.low, variance, n, scale, level)
    width = scale.high - scale.low
    share = min(max((value - scale.low) / width, 0.0), 1.0)
    images = n if scale.proportion else _images(share, variance / width**2, n, scale.finest)
    low, high = wilson(share, images, level)
    # A variance beyond all that the range allows, and rounding, must not put the value outside.
    return min(scale.low + width * low, value), max(scale.low + width * high, value)


def _images(share: float, variance: float, n: float, finest: float) -> float:
    """The number of images of which a share varies so."""
    spread = share * (1 - share)
    if variance > 0 and spread > 0:
        return min(spread / variance, finest * n)
    return n * finest if math.isfinite(finest) else n


def _above(
    excess: float, variance: float, n: float, scale: Scale, level: float
) -> tuple[float, float]:
    """A metric without an upper end, ``excess`` above its lower one: the variance rises as the metric
    does, as that of a count."""
    step = variance / excess if excess > 0 else 0.0  # the variance a unit of the metric
    if math.isfinite(scale.finest):
        step = max(step, scale.unit / (scale.finest * n))
    elif step == 0:
        step = excess / n
    square = _z(level) ** 2 * step
    reach = math.sqrt(square * excess + square**2 / 4)
    return scale.low + max(
        excess + square / 2 - reach, 0.0
    ), scale.low + excess + square / 2 + reach


def from_resamples(
    value: float, drawn: np.ndarray, n: float, scale: Scale, level: float = 0.95
) -> tuple[float, float]:
    """(low, high) around the value of a metric, from its values [R] on bootstrap resamples of the n images.

    Resamples on which it is undefined (NaN) are left out. A metric of unknown scale has the
    percentiles of ``drawn``.
    """
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        return math.nan, math.nan
    if scale == UNKNOWN:
        low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)
    return score(value, float(drawn.var()), n, scale, level)


def difference(
    first: tuple[float, float, float], second: tuple[float, float, float], correlation: float
) -> tuple[float, float]:
    """(low, high) of second - first, of each its (value, low, high), whose sampling errors correlate.

    Square-and-add (Newcombe 1998, method 10; Zou & Donner 2008): the reach of a difference towards an
    end is made of the reaches of the two towards theirs, so that it too holds near the ends of the
    range and never leaves it.
    """
    (one, one_low, one_high), (other, other_low, other_high) = first, second

    def reach(down: float, up: float) -> float:
        return math.sqrt(max(down**2 + up**2 - 2 * correlation * down * up, 0.0))

    value = other - one
    below, above = (
        reach(other - other_low, one_high - one),
        reach(other_high - other, one - one_low),
    )
    return value - below, value + above


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Of two metrics over the same resamples [R], [R]; 0 where one does not vary."""
    defined = np.isfinite(first) & np.isfinite(second)
    first, second = first[defined] - first[defined].mean(), second[defined] - second[defined].mean()
    spread = math.sqrt(float(first @ first) * float(second @ second))
    return float(first @ second) / spread if spread > 0 else 0.0


def student(values: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """(mean, low, high): Student's t interval for the mean of at least two values, such as those of
    several seeds. It knows no range; ``within`` cuts it."""
    from scipy.special import stdtrit

    mean = float(np.mean(values))
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    reach = float(stdtrit(len(values) - 1, (1 + level) / 2)) * error
    return mean, mean - reach, mean + reach


def within(
    interval: tuple[float, float, float], low: float, high: float
) -> tuple[float, float, float]:
    """A (value, low, high) cut to the range of its metric."""
    value, lower, upper = interval
    return value, max(low, lower), min(high, upper)


def over_draws(shares: Sequence[float], n: int, level: float = 0.95) -> tuple[float, float, float]:
    """(mean, low, high) of shares of the same n test images, one for each draw of the labels.

    It covers the draw of the labels (Student's t) and that of the test images (Wilson), added as
    squares and cut to [0, 1]: draws that agree do not make the test set any larger.
    """
    mean, low, _ = student(shares, level)
    ends = wilson(mean, n, level)
    below, above = (math.hypot(mean - low, abs(mean - end)) for end in ends)
    return within((mean, mean - below, mean + above), 0.0, 1.0)
