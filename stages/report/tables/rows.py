"""Rows of the tables: one metric of both encoders with its intervals and a plain verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from prosmin.common.encoders import ENCODERS
from prosmin.metrics.catalogue import Entry, entry_of
from stages.report.inputs import Missing


class Value(NamedTuple):
    """A number and its 95 % interval, None where it has no interval."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Row:
    """One metric of both encoders.

    metric: name in ``prosmin.metrics.catalogue``.
    bar: upper end of the scale on which the intervals are drawn, which starts at 0.
    """

    metric: str
    label: str
    trained: Value
    random: Value | None
    bar: float

    @property
    def entry(self) -> Entry:
        """The definition of the metric."""
        return entry_of(self.metric)

    @property
    def digits(self) -> int:
        """Decimals to show: one more where both values are small."""
        return 4 if max(value.value for value in (self.trained, self.random) if value) < 0.1 else 3

    @property
    def verdict(self) -> str:
        """``overlap`` of the 95 % intervals, else ``better`` or ``worse`` for the trained encoder.

        Empty where an interval is missing, where neither direction is better, and for ratios to a
        reference, as a rule the untrained encoder, whose own ratio is 1 by definition.
        """
        if self.random is None or self.entry.relative or self.entry.higher_is_better is None:
            return ""
        low, high = self.trained.low, self.trained.high
        other_low, other_high = self.random.low, self.random.high
        if low is None or high is None or other_low is None or other_high is None:
            return ""
        if low <= other_high and other_low <= high:
            return "overlap"
        return self.entry.verdict(self.trained.value - self.random.value)


class Group(NamedTuple):
    """The rows of one evaluation. missing: why there are none."""

    title: str
    note: str
    rows: list[Row]
    missing: Missing | None = None


def value(metrics: Mapping[str, Any] | None, name: str) -> Value | None:
    """A metric with its interval, None where it is missing or undefined."""
    if not metrics or metrics.get(name) is None:
        return None
    return Value(metrics[name], metrics.get(f"{name}_low"), metrics.get(f"{name}_high"))


def row(content: Mapping[str, Any], metric: str, label: str = "", section: str = "") -> Row | None:
    """A metric of both encoders, None where the trained encoder has none.

    content: of a metrics file. label: that of the catalogue if empty.
    section: key in the metrics of each encoder, below which the metric stands.
    """
    parts = [content.get(encoder) or {} for encoder in ENCODERS]
    trained, random = (value(part.get(section) if section else part, metric) for part in parts)
    if trained is None:
        return None
    entry = entry_of(metric)
    ends = [end for number in (trained, random) if number for end in number if end is not None]
    bar = 1.0 if entry.higher_is_better else max(ends) or 1.0
    return Row(metric, label or entry.label, trained, random, bar)


@dataclass(frozen=True)
class Tally:
    """The number of rows with one verdict, and the groups that have them."""

    count: int
    where: str


def verdicts(groups: Sequence[Group]) -> dict[str, Tally]:
    """The tally of each verdict; ``where`` reads ``k-NN on digits (1 of 1), ...``."""
    tallies: dict[str, Tally] = {}
    for verdict in ("better", "overlap", "worse"):
        counts = {
            group.title: [row.verdict == verdict for row in group.rows if row.verdict]
            for group in groups
        }
        where = ", ".join(
            f"{title} ({sum(hits)} of {len(hits)})" for title, hits in counts.items() if any(hits)
        )
        tallies[verdict] = Tally(sum(map(sum, counts.values())), where)
    return tallies
