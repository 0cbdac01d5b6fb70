"""Resampling, and 95 % intervals that stay inside the range of their metric, in NumPy.

Near the ends of a range a percentile bootstrap covers far less than 95 %, and it has no width where
all resamples agree. Therefore an interval here is that of a score test (Wilson 1927): all values
theta from which the observed value lies within z standard errors, where the variance is taken at
theta and vanishes at the ends of the range. For a share of images this is Wilson's interval. For
another metric, the number of images is replaced by the number whose share would have the variance
that the bootstrap finds. ``python -m benchmarks.trust.coverage`` compares these intervals with
percentiles and BCa; docs/evaluation.md has the table.

Letters in shapes: N samples, R resamples.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import NormalDist
from typing import Any, TypeVar, overload

import numpy as np

from prosmin.common.seeds import generator

Counts = np.ndarray
Metric = Callable[[Counts | None], "float | np.ndarray"]
Interval = tuple[float, float, float]  # value, low, high
Open = tuple[float, float | None, float | None]  # the same, None where there is no interval

# Entries of a block of resampling counts: 32 MB of float64, which bounds the memory for any N.
_BLOCK = 2**22


# --- the scale of a metric ------------------------------------------------------------------------


@dataclass(frozen=True)
class Scale:
    """The range of a metric of n images, and the finest resolution of its value.

    proportion: the metric is the share of images for which something holds, so its variance is
        known.
    finest: lower bound of the variance: that of ``finest`` n images whose values are all at one end
        of the range or at the other. n images without, say, a confident error do not exclude such
        errors.
    unit: takes the place of the range in this bound where one end of the range is infinite.
    """

    low: float = 0.0
    high: float = 1.0
    proportion: bool = False
    finest: float = math.inf
    unit: float = 1.0


PROPORTION = Scale(proportion=True)
UNKNOWN = Scale(-math.inf, math.inf)

Function = TypeVar("Function", bound=Callable[..., Any])


def on(scale: Scale | Callable[[Any], Scale]) -> Callable[[Function], Function]:
    """Decorate a metric with its scale. scale: may be a function of the metric's first argument."""

    def mark(metric: Function) -> Function:
        vars(metric)["scale"] = scale
        return metric

    return mark


def scale_of(metric: Callable[..., Any]) -> Scale:
    """The scale of a metric whose data are bound by ``functools.partial``.

    ``UNKNOWN`` for a metric without the decorator ``on``.
    """
    bound: tuple[Any, ...] = ()
    while isinstance(metric, partial):
        bound, metric = (*metric.args, *bound), metric.func
    scale: Scale | Callable[[Any], Scale] = getattr(metric, "scale", UNKNOWN)
    return scale if isinstance(scale, Scale) else scale(bound[0])


# --- the bootstrap --------------------------------------------------------------------------------


def resamples(n: int, count: int, seed: int) -> Iterator[Counts]:
    """``count`` bootstrap resamples of n samples, as blocks of counts [R, n]; rows sum to n."""
    rng = generator(seed, "resamples", n)
    rows = max(1, _BLOCK // n)
    for start in range(0, count, rows):
        size = min(rows, count - start)
        cells = rng.integers(0, n, size=(size, n)) + n * np.arange(size)[:, None]
        yield _tally(cells, (size, n))


def resample_columns(rng: np.random.Generator, n: int, count: int) -> np.ndarray:
    """How often each of n samples is drawn in each of ``count`` resamples, [n, count].

    Cumulative sums over the samples are fast in this layout.
    """
    return _tally(rng.integers(n, size=(n, count)) * count + np.arange(count), (n, count))


def _tally(cells: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """How often each cell of an array of this shape is named, float64. cells: flat positions."""
    size = shape[0] * shape[1]
    return np.bincount(cells.ravel(), minlength=size).reshape(shape).astype(np.float64)


def on_resamples(
    metrics: Mapping[str, Metric], n: int, count: int, seed: int
) -> dict[str, np.ndarray]:
    """Every metric on the same ``count`` resamples of n samples, [count] each."""
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in metrics}
    for counts in resamples(n, count, seed) if metrics else ():
        for name, metric in metrics.items():
            drawn[name].append(np.asarray(metric(counts)))
    return {name: np.concatenate(values) for name, values in drawn.items()}


# --- intervals over test samples ------------------------------------------------------------------


def _z(level: float) -> float:
    return NormalDist().inv_cdf((1 + level) / 2)


@overload
def wilson(share: float, count: float, level: float = 0.95) -> tuple[float, float]: ...
@overload
def wilson(
    share: np.ndarray, count: np.ndarray, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray]: ...
def wilson(share: Any, count: Any, level: float = 0.95) -> tuple[Any, Any]:
    """(low, high) of a share of ``count`` independent images, in [0, 1] (Wilson 1927)."""
    z = _z(level)
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    reach = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    # At shares of 0 and 1, centre and reach are equal apart from rounding.
    low = np.where(share == 0, 0.0, np.maximum(centre - reach, 0.0))
    high = np.where(share == 1, 1.0, np.minimum(centre + reach, 1.0))
    return (low, high) if np.ndim(low) else (float(low), float(high))


def score(
    value: float, variance: float, n: float, scale: Scale, level: float = 0.95
) -> tuple[float, float]:
    """(low, high) of a metric of n images with this value and sampling variance.

    NaN where one of the two is not finite.
    """
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
    # Neither rounding nor a variance too large for the range may put the value outside.
    return min(scale.low + width * low, value), max(scale.low + width * high, value)


def _images(share: float, variance: float, n: float, finest: float) -> float:
    """The number of images whose share has this variance."""
    spread = share * (1 - share)
    if variance > 0 and spread > 0:
        return min(spread / variance, finest * n)
    return n * finest if math.isfinite(finest) else n


def _above(
    excess: float, variance: float, n: float, scale: Scale, level: float
) -> tuple[float, float]:
    """(low, high) of a metric without an upper end, ``excess`` above its lower end.

    The variance grows in proportion to the metric, like that of a count.
    """
    step = variance / excess if excess > 0 else 0.0  # variance per unit of the metric
    if math.isfinite(scale.finest):
        step = max(step, scale.unit / (scale.finest * n))
    elif step == 0:
        step = excess / n
    square = _z(level) ** 2 * step
    reach = math.sqrt(square * excess + square**2 / 4)
    low = max(excess + square / 2 - reach, 0.0)
    return scale.low + low, scale.low + excess + square / 2 + reach


def from_resamples(
    value: float, drawn: np.ndarray, n: float, scale: Scale, level: float = 0.95
) -> tuple[float, float]:
    """(low, high) of a metric of n images from its values [R] on bootstrap resamples.

    Resamples with an undefined value (NaN) are left out. On an ``UNKNOWN`` scale the interval is
    that of the percentiles.
    """
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        return math.nan, math.nan
    if scale == UNKNOWN:
        low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)
    return score(value, float(drawn.var()), n, scale, level)


# --- differences ----------------------------------------------------------------------------------


def difference(first: Interval, second: Interval, correlation: float) -> tuple[float, float]:
    """(low, high) of second - first, two values with intervals and correlated sampling errors.

    Square-and-add (Newcombe 1998, method 10; Zou & Donner 2008): the distance from the difference
    to one of its ends is computed from the distances of the two values to their ends. So the
    interval holds near the ends of the range too and never leaves the range.
    """
    (first_value, first_low, first_high), (second_value, second_low, second_high) = first, second

    def reach(down: float, up: float) -> float:
        return math.sqrt(max(down**2 + up**2 - 2 * correlation * down * up, 0.0))

    value = second_value - first_value
    below = reach(second_value - second_low, first_high - first_value)
    above = reach(second_high - second_value, first_value - first_low)
    return value - below, value + above


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Correlation of two metrics over the same resamples, [R] each; 0 where one is constant."""
    defined = np.isfinite(first) & np.isfinite(second)
    first, second = first[defined] - first[defined].mean(), second[defined] - second[defined].mean()
    spread = math.sqrt(float(first @ first) * float(second @ second))
    return float(first @ second) / spread if spread > 0 else 0.0


# --- intervals over repetitions -------------------------------------------------------------------


def student(values: Sequence[float], level: float = 0.95) -> Interval:
    """(mean, low, high): Student's t interval for the mean of at least two values.

    The values are, for example, those of several seeds. The interval may leave the range of the
    metric; ``within`` cuts it.
    """
    from scipy.special import stdtrit

    mean = float(np.mean(values))
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    reach = float(stdtrit(len(values) - 1, (1 + level) / 2)) * error
    return mean, mean - reach, mean + reach


def mean_of(members: Sequence[Open]) -> Open:
    """Mean of metrics that may depend on each other, such as AUROCs with the same ID images.

    The interval is the mean of the intervals. It is right where the metrics rise and fall together,
    and too wide otherwise: a mean never varies more than its members do on average. There is none
    where a member has none.
    """
    value, low, high = (
        None if any(end is None for end in ends) else float(np.mean(ends))
        for ends in zip(*members, strict=True)
    )
    assert value is not None
    return value, low, high


def within(interval: Interval, low: float, high: float) -> Interval:
    """(value, low, high) cut to the range of the metric."""
    value, lower, upper = interval
    return value, max(low, lower), min(high, upper)


def over_draws(shares: Sequence[float], n: int, level: float = 0.95) -> Interval:
    """(mean, low, high) of shares of the same n test images, one share per draw of the labels.

    The interval covers the draw of the labels (Student's t) and the draw of the test images
    (Wilson). The two are added as squares and cut to [0, 1]: more draws do not make the test set
    larger.
    """
    mean, low, _ = student(shares, level)
    lowest, highest = wilson(mean, n, level)
    below, above = (math.hypot(mean - low, abs(mean - end)) for end in (lowest, highest))
    return within((mean, mean - below, mean + above), 0.0, 1.0)
