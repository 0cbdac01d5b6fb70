"""What the runs of a study say: gains, verdicts, means, ranks and cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipelines.study.file import Study
from pipelines.study.judging import statistics
from pipelines.study.judging.claims import Claim, Quantity, quantities
from pipelines.study.judging.statistics import Gain, Verdict, gain, holm, verdict
from pipelines.study.results import TRAINING, Result
from prosmin.common.encoders import TRAINED, UNTRAINED
from prosmin.metrics import intervals
from prosmin.metrics.intervals import Interval

# The compared runs, by method and seed.
Runs = Mapping[str, Mapping[int, Result]]
FETCHING = "fetch"  # the stage that is no cost of a method


@dataclass(frozen=True)
class Comparison:
    """The gain of the method under test over another method in one quantity."""

    quantity: Quantity
    other: str
    gain: Gain


@dataclass(frozen=True)
class Mean:
    """A quantity of one method over seeds. rank: among the methods, 1 for the best."""

    interval: Interval
    seeds: int
    rank: float | None = None


@dataclass(frozen=True)
class Judged:
    """A claim with all that decides it.

    means: by quantity and method. untrained: means of the untrained encoder, by quantity.
    """

    name: str
    claim: Claim
    quantities: list[Quantity]
    comparisons: list[Comparison]
    means: Mapping[Quantity, Mapping[str, Mean]]
    untrained: Mapping[Quantity, float | None]

    @property
    def verdict(self) -> Verdict:
        """Over all comparisons."""
        return verdict([part.gain.verdict for part in self.comparisons])

    def against(self, other: str) -> Verdict | None:
        """The verdict over the comparisons with one method; None without any."""
        parts = [part.gain.verdict for part in self.comparisons if part.other == other]
        return verdict(parts) if parts else None

    def count(self, wanted: Verdict) -> int:
        """How many comparisons have this verdict."""
        return sum(part.gain.verdict == wanted for part in self.comparisons)

    def apart(self, better: bool) -> int:
        """How many intervals, which are not corrected, lie on the better or the worse side of 0."""
        return sum(part.gain.apart and (part.gain.mean > 0) == better for part in self.comparisons)

    def rank(self, method: str) -> float | None:
        """The mean rank of a method over the quantities; None where it lacks one."""
        ranks = [
            self.means[quantity][method].rank
            for quantity in self.quantities
            if method in self.means[quantity]
        ]
        known = [rank for rank in ranks if rank is not None]
        return float(np.mean(known)) if known and len(known) == len(self.quantities) else None


def judge(study: Study, runs: Runs) -> tuple[list[Judged], list[str]]:
    """All claims for which there are runs, and a line for each measure that was left out."""
    files = [result.files for of_method in runs.values() for result in of_method.values()]
    present, left_out = quantities(study.judged, files)
    judged = []
    for name, claim in study.judged.items():
        own = [quantity for quantity in present if quantity.claim == name]
        comparisons = []
        for quantity in own:
            for other in study.methods:
                if other == study.test:
                    continue
                if part := _compare(study.test, other, quantity, runs):
                    comparisons.append(part)
                else:
                    left_out.append(
                        f"{claim.title}: {quantity.label} is not compared with "
                        f"{study.title(other)}, because two seeds of both are not there."
                    )
        corrected = holm([part.gain.p for part in comparisons])
        comparisons = [
            replace(part, gain=replace(part.gain, holm=value))
            for part, value in zip(comparisons, corrected, strict=True)
        ]
        if comparisons:
            means = {quantity: _means(study, quantity, runs) for quantity in own}
            untrained = {quantity: _untrained(study, quantity, runs) for quantity in own}
            judged.append(Judged(name, claim, own, comparisons, means, untrained))
    return judged, left_out


def _values(quantity: Quantity, runs: Mapping[int, Result], tested: bool) -> dict[int, float]:
    """The number of every seed that has it."""
    values = {seed: quantity.of(run.files, TRAINED, tested) for seed, run in runs.items()}
    return {seed: value for seed, value in values.items() if value is not None}


def _compare(tested: str, other: str, quantity: Quantity, runs: Runs) -> Comparison | None:
    mine = _values(quantity, runs.get(tested, {}), True)
    theirs = _values(quantity, runs.get(other, {}), False)
    seeds = [seed for seed in mine if seed in theirs]
    higher = bool(quantity.entry.higher_is_better)
    found = gain([mine[seed] for seed in seeds], [theirs[seed] for seed in seeds], higher)
    return Comparison(quantity, other, found) if found else None


def _means(study: Study, quantity: Quantity, runs: Runs) -> dict[str, Mean]:
    """The mean of every method that has the quantity on two seeds."""
    means = {}
    for method in study.methods:
        values = _values(quantity, runs.get(method, {}), method == study.test)
        if len(values) > 1:
            interval = intervals.student(list(values.values()))
            entry = quantity.entry
            means[method] = Mean(intervals.within(interval, entry.low, entry.high), len(values))
    places = statistics.ranks(
        [mean.interval[0] for mean in means.values()], bool(quantity.entry.higher_is_better)
    )
    return {
        method: replace(mean, rank=rank)
        for (method, mean), rank in zip(means.items(), places, strict=True)
    }


def _untrained(study: Study, quantity: Quantity, runs: Runs) -> float | None:
    """The mean of the untrained encoders beside the runs of the method under test."""
    values = [quantity.of(run.files, UNTRAINED, True) for run in runs.get(study.test, {}).values()]
    numbers = [value for value in values if value is not None]
    return float(np.mean(numbers)) if numbers else None


def cost(runs: Sequence[Result]) -> tuple[float | None, float | None]:
    """Mean seconds of pretraining and of evaluation, over runs in which all of it ran here."""
    complete = [run.seconds for run in runs if TRAINING in run.seconds]
    if not complete:
        return None, None
    evaluation = [
        sum(
            seconds
            for stage, seconds in times.items()
            if stage.partition("@")[0] not in (TRAINING, FETCHING)
        )
        for times in complete
    ]
    return float(np.mean([times[TRAINING] for times in complete])), float(np.mean(evaluation))
