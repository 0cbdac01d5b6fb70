"""Paired differences over seeds, Holm's correction, and verdicts.

A gain is the difference between the method under test and another method on one seed, signed so
that above 0 the method under test is better. Gains of several seeds have a mean, a 95 % interval
(Student's t) and a two-sided p value (paired t-test). The p values of one claim are corrected
together (Holm 1979): the chance that any of them is marked, were there no difference at all, is at
most 5 %.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from prosmin.metrics import intervals

Verdict = Literal["shown", "not shown", "contradicted"]
LEVEL = 0.05


@dataclass(frozen=True)
class Gain:
    """The gain over one method. p: of the paired t-test; holm: corrected by ``holm``."""

    mean: float
    low: float
    high: float
    p: float
    seeds: int
    holm: float = 1.0

    @property
    def verdict(self) -> Verdict:
        """Whether the corrected p value tells the method under test to be better, or worse."""
        if self.holm >= LEVEL:
            return "not shown"
        return "shown" if self.mean > 0 else "contradicted"

    @property
    def apart(self) -> bool:
        """Whether the interval, which is not corrected, excludes 0."""
        return self.p < LEVEL


def gain(tested: Sequence[float], other: Sequence[float], higher_is_better: bool) -> Gain | None:
    """The gain over at least two seeds, in the same order; None for fewer."""
    if len(tested) < 2:
        return None
    sign = 1 if higher_is_better else -1
    values = [sign * (mine - theirs) for mine, theirs in zip(tested, other, strict=True)]
    mean, low, high = intervals.student(values)
    return Gain(mean, low, high, t_test(values), len(values))


def t_test(values: Sequence[float]) -> float:
    """The two-sided p value of Student's t-test that the mean of at least two values is 0.

    1 where all values are equal: their spread over more seeds is not known.
    """
    from scipy.special import stdtr

    spread = float(np.std(values, ddof=1))
    mean = float(np.mean(values))
    if spread <= 1e-12 * max(1.0, abs(mean)):
        return 1.0
    t = mean / (spread / math.sqrt(len(values)))
    return float(2 * stdtr(len(values) - 1, -abs(t)))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values of one family, corrected by Holm's step-down procedure (1979)."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = highest
    return corrected


def verdict(parts: Sequence[Verdict]) -> Verdict:
    """Of a claim, from the verdicts of its comparisons.

    Shown where all comparisons are shown, contradicted where one is contradicted.
    """
    if "contradicted" in parts:
        return "contradicted"
    return "shown" if parts and set(parts) == {"shown"} else "not shown"


def ranks(values: Sequence[float], higher_is_better: bool) -> list[float]:
    """The place of each value, 1 for the best; equal values share the mean of their places."""
    better = [-value if higher_is_better else value for value in values]
    return [
        1 + sum(other < value for other in better) + (better.count(value) - 1) / 2
        for value in better
    ]
