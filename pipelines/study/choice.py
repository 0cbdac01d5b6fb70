"""The choice of a point per method, with equal effort, and which runs are due next.

All of it is a function of the metrics that exist, so a study that was stopped goes on where it was.

1. Every point of every grid is measured on val.
2. While the best point of some method lies at the edge of its grid, for at most ``choose.extend``
   rounds: every method gets one more point. At an edge it lies beyond the edge, by the step from
   the neighbour; elsewhere it halves the way to the better neighbour. Steps are factors where all
   values of the axis are above 0.
3. The best point of each method is run with every seed.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pipelines.flows.grid import Value
from pipelines.study.file import Settings, Study, is_number
from pipelines.study.plan import Plan, Run
from prosmin.metrics.catalogue import higher_is_better

DIGITS = 3  # of a value that a round adds


class Failed(str):
    """Why a run failed."""


# What is known of a run: its metric on val, why it failed, or None while it has not ended.
Outcome = Callable[[Run], "float | Failed | None"]


@dataclass(frozen=True)
class Trial:
    """One point of a grid. outcome: the metric on val, or why the run failed."""

    settings: Settings
    run: Run | None
    outcome: float | Failed
    round: int = 0

    @property
    def value(self) -> float | None:
        """The metric on val; None where the run failed."""
        return None if isinstance(self.outcome, Failed) else self.outcome


class Edge(NamedTuple):
    """The chosen value of an axis is its ``end``: highest or lowest."""

    key: str
    value: Value
    end: str


@dataclass
class Tuning:
    """The points of one method. higher: whether the highest value is best."""

    trials: list[Trial] = field(default_factory=list)
    higher: bool = True

    @property
    def best(self) -> Trial | None:
        """The first of the best points; None where all have failed."""
        done = [trial for trial in self.trials if trial.value is not None]
        return max(done, key=self._rank, default=None)

    def _rank(self, trial: Trial) -> float:
        value = trial.value
        assert value is not None
        return value if self.higher else -value

    def axis(self, key: str) -> list[Value]:
        """The values of a key, in rising order; empty where they have no order."""
        values: list[Value] = []
        for trial in self.trials:
            if trial.settings[key] not in values:
                values.append(trial.settings[key])
        return sorted(values) if _ordered(values) else []

    def edges(self) -> list[Edge]:
        """The axes at whose end the best point lies."""
        edges = []
        for key, value in (self.best.settings if self.best else {}).items():
            values = self.axis(key)
            if len(values) > 1 and value in (values[0], values[-1]):
                edges.append(Edge(key, value, "lowest" if value == values[0] else "highest"))
        return edges

    def next_settings(self, allowed: Callable[[Settings], bool]) -> Settings | None:
        """The point that a round adds: beyond an edge, else between the best and a neighbour.

        None where no axis has two numbers, and where nothing else is allowed.
        """
        if self.best is None:
            return None
        best = self.best.settings
        at_edge = {edge.key for edge in self.edges()}
        for key in sorted(best, key=lambda key: key not in at_edge):
            values = self.axis(key)
            if len(values) < 2 or not all(map(is_number, values)):
                continue
            place = values.index(best[key])
            if key in at_edge:
                neighbour = values[1] if place == 0 else values[-2]
                settings = best | {key: _beyond(neighbour, best[key], values)}
                if allowed(settings) and self._is_new(settings):
                    return settings
            for neighbour in self._better_first(key, values, place):
                settings = best | {key: _between(best[key], neighbour, values)}
                if allowed(settings) and self._is_new(settings):
                    return settings
        return None

    def _is_new(self, settings: Settings) -> bool:
        return all(trial.settings != settings for trial in self.trials)

    def _better_first(self, key: str, values: Sequence[Value], place: int) -> list[Value]:
        """The neighbours of the best value, by the metric of their points."""
        best = self.best
        assert best
        ranks = {}
        for near in (place - 1, place + 1):
            if 0 <= near < len(values):
                settings = best.settings | {key: values[near]}
                same = [trial for trial in self.trials if trial.settings == settings]
                known = same and same[0].value is not None
                ranks[near] = self._rank(same[0]) if known else -math.inf
        return [values[near] for near in sorted(ranks, key=lambda near: -ranks[near])]


def _ordered(values: Sequence[Value]) -> bool:
    """Whether values have an order: all numbers, or lists of as many numbers."""
    if all(map(is_number, values)):
        return True
    return all(isinstance(value, list) and all(map(is_number, value)) for value in values) and (
        len(set(map(len, values))) == 1
    )


def _tidy(value: float, values: Sequence[Value]) -> Value:
    """A new value: a whole number where all others are, else of ``DIGITS`` digits."""
    if all(isinstance(other, int) for other in values):
        return round(value)
    return float(f"{value:.{DIGITS}g}")


def _beyond(neighbour: float, edge: float, values: Sequence[Value]) -> Value:
    positive = all(value > 0 for value in values)
    return _tidy(edge * edge / neighbour if positive else 2 * edge - neighbour, values)


def _between(first: float, second: float, values: Sequence[Value]) -> Value:
    positive = all(value > 0 for value in values)
    return _tidy(math.sqrt(first * second) if positive else (first + second) / 2, values)


class Due(NamedTuple):
    """What a study needs next.

    tunings: by method. runs: those that have not ended. final: the compared runs by method, once
    all choices are made.
    """

    tunings: dict[str, Tuning]
    runs: list[Run]
    final: dict[str, list[Run]]

    @property
    def all_runs(self) -> list[Run]:
        """All runs of the study as far as they are known, ended or not."""
        tried = [trial.run for tuning in self.tunings.values() for trial in tuning.trials]
        compared = [run for of_method in self.final.values() for run in of_method]
        return [run for run in (*tried, *compared) if run]


def due(plan: Plan, outcome: Outcome, allowed: Callable[[Run], bool]) -> Due:
    """The runs that a study needs next, from what is known of the earlier runs.

    outcome: of any run. allowed: whether the settings of a run can be set.
    """
    study = plan.study
    tunings = {name: Tuning(higher=_higher(study)) for name in study.methods}
    added = {name: method.points for name, method in study.methods.items()}
    rounds = study.choose.extend if study.choose else 0
    for number in range(rounds + 1):
        missing = _measure(plan, tunings, added, number, outcome)
        if missing:
            return Due(tunings, in_turn(missing), {})
        if not _at_an_edge(tunings):
            break
        added = {}
        for name in study.tuned if number < rounds else ():
            allows = _allows(plan, name, tunings[name], allowed)
            if settings := tunings[name].next_settings(allows):
                added[name] = [settings]
    final = {
        name: [plan.final_run(name, tuning.best.settings, seed) for seed in study.seeds]
        for name, tuning in tunings.items()
        if tuning.best
    }
    left = [run for runs in final.values() for run in runs if outcome(run) is None]
    return Due(tunings, in_turn(left), final)


def _measure(
    plan: Plan,
    tunings: dict[str, Tuning],
    points: Mapping[str, Sequence[Settings]],
    number: int,
    outcome: Outcome,
) -> list[Run]:
    """Add the points of one round to ``tunings``; returns the runs that have not ended."""
    missing = []
    for name, added in points.items():
        trials = tunings[name].trials
        for settings in added:
            if len(added) == 1 and not number:  # nothing to choose from
                trials.append(Trial(settings, None, math.nan))
                continue
            run = plan.choice_run(name, len(trials), settings)
            known = outcome(run)
            if known is None:
                missing.append(run)
            trials.append(Trial(settings, run, math.nan if known is None else known, number))
    return missing


def in_turn(runs: Sequence[Run]) -> list[Run]:
    """The first run of all methods, then the second of all: a stopped study is balanced."""
    by_method: dict[str, list[Run]] = {}
    for run in runs:
        by_method.setdefault(run.method, []).append(run)
    lists = list(by_method.values())
    most = max(map(len, lists), default=0)
    return [own[place] for place in range(most) for own in lists if place < len(own)]


def _higher(study: Study) -> bool:
    if study.choose is None:
        return True
    return bool(higher_is_better(study.choose.by.rpartition(".")[2]))


def _at_an_edge(tunings: dict[str, Tuning]) -> bool:
    """Whether the best point of some method lies at an end of an axis of numbers."""
    return any(is_number(edge.value) for tuning in tunings.values() for edge in tuning.edges())


def _allows(
    plan: Plan, name: str, tuning: Tuning, allowed: Callable[[Run], bool]
) -> Callable[[Settings], bool]:
    def check(settings: Settings) -> bool:
        return allowed(plan.choice_run(name, len(tuning.trials), settings))

    return check
