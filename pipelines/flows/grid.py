"""A sweep: its file, its points, and the table that ranks them.

The file (``sweeps/lambda.yaml``):

    grid:                              # every combination is a point
      pretrain.objective.lambda: [0.8, 1.0, 1.2]
      seed: range(0, 3)                # 0, 1, 2; a third number is the step
    rank: metrics/linear.json:trained.accuracy_val
    lowest: false                      # the highest is best; left out: as the metric is better
    show: [metrics/linear.json:trained.accuracy]     # more columns
    stages: [linear]                   # with what they need; left out: all
"""

import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pipelines.compare.revisions import stale_in_experiment
from pipelines.graph import dag
from pipelines.graph.experiment import check
from pipelines.graph.snapshot import take_snapshot
from prosmin.common.errors import printable, shown
from prosmin.metrics.catalogue import higher_is_better
from stages.params.yaml_file import read, refusal

# Points of a sweep. More run for months, and the list of them alone would take the memory.
MOST = 10_000
Value = Any  # anything that params.yaml may hold: a number, text, true or false, a list, a section


class Sweep(BaseModel):
    """What a sweep runs and how it is ranked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    grid: dict[str, Any] = Field(min_length=1)
    rank: str
    lowest: bool | None = None
    show: list[str] = []
    stages: list[str] = []

    @field_validator("grid")
    @classmethod
    def _expanded(cls, grid: dict[str, Any]) -> dict[str, list[Value]]:
        for key, values in grid.items():
            if not expand(values):
                ranged = isinstance(values, str) and values.startswith("range(")
                long = f" and has at most {MOST} numbers" if ranged else ""
                raise ValueError(
                    f"{printable(key)} is {shown(values)}; it must be a list or a range that is "
                    f"not empty{long}, such as range(1, 9, 2)"
                )
        expanded = {key: expand(values) for key, values in grid.items()}
        if (count := math.prod(map(len, expanded.values()))) > MOST:
            raise ValueError(f"there are {shown(count)} points; there must be at most {MOST}")
        return expanded

    @field_validator("rank", "show")
    @classmethod
    def _is_metric(cls, value: Any) -> Any:
        for metric in [value] if isinstance(value, str) else value:
            if ".json:" not in metric:
                raise ValueError(
                    "must be a file and a key in it, such as metrics/linear.json:trained.accuracy"
                )
        return value

    @model_validator(mode="after")
    def _has_a_direction(self) -> "Sweep":
        if self.lowest is None and self._higher_is_better is None:
            raise ValueError(
                f"rank is {self.rank!r}, of which it is not known which way is better; "
                "give lowest: true or false"
            )
        return self

    @property
    def _higher_is_better(self) -> bool | None:
        return higher_is_better(self.rank.rpartition(".")[2])

    @property
    def lowest_first(self) -> bool:
        """Whether the lowest value of ``rank`` is best, by ``lowest`` or else by the metric."""
        return not self._higher_is_better if self.lowest is None else self.lowest

    def points(self) -> list[dict[str, Value]]:
        return [
            dict(zip(self.grid, values, strict=True))
            for values in itertools.product(*self.grid.values())
        ]


def expand(values: Any) -> list[Value]:
    """The values of a key of the grid.

    A list stays as it is. ``range(start, stop[, step])`` becomes its whole numbers, as in Python.
    Anything else, and a range of more than ``MOST`` numbers, becomes an empty list.
    """
    if isinstance(values, list):
        return values
    name, _, rest = values.partition("(") if isinstance(values, str) else ("", "", "")
    if name != "range" or not rest.endswith(")"):
        return []
    try:
        numbers = range(*map(int, rest.removesuffix(")").split(",")))
        return list(numbers) if len(numbers) <= MOST else []
    except (ValueError, TypeError, OverflowError):
        return []


def load_sweep(path: Path) -> Sweep:
    try:
        return Sweep.model_validate(read(path))
    except ValidationError as error:
        raise refusal(path, error, Sweep) from None


def written(value: Value) -> str:
    """A value in the grammar of ``dvc exp run -S``."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {written(item)}' for key, item in value.items())}}}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def prepare(sweep: Sweep) -> str:
    """Check a sweep before its first point runs; returns the snapshot that its points start from.

    Raises:
        UserError: for an unknown stage or key, and for a value that cannot be set.
    """
    dag.read(sweep.stages)
    check([f"{key}={written(value)}" for key, values in sweep.grid.items() for value in values])
    return take_snapshot()


def table(
    sweep: Sweep, names: Mapping[str, dict[str, Value]], failed: Mapping[str, str]
) -> list[dict[str, Any]]:
    """One row per point, the best first, with the interval of each metric; failed points last.

    A metric is left out where its file is not of the point but of the commit that it started from.

    Args:
        sweep: The sweep.
        names: The points by the name of their experiment.
        failed: Why a point failed, by the same name.
    """
    done = [name for name in names if name not in failed]
    with dag.opened() as repo:
        paths = [metric.partition(":")[0] for metric in (sweep.rank, *sweep.show)]
        metrics = repo.metrics.show(paths, revs=done) if done else {}
        stale = {name: stale_in_experiment(repo, name) for name in metrics}
    rows = []
    for name, point in names.items():
        files = metrics.get(name, {}).get("data", {})
        files = {path: file for path, file in files.items() if path not in stale.get(name, ())}
        row: dict[str, Any] = {"experiment": name}
        row |= {key: written(value) for key, value in point.items()}
        row |= {title(metric): interval(files, metric) for metric in [sweep.rank, *sweep.show]}
        rows.append((_value(files, sweep.rank), row | {"failed": failed.get(name, "")}))
    worst = float("inf") if sweep.lowest_first else float("-inf")
    rows.sort(
        key=lambda pair: worst if pair[0] is None else pair[0], reverse=not sweep.lowest_first
    )
    return [row for _, row in rows]


def title(metric: str) -> str:
    """``linear: trained.accuracy`` for ``metrics/linear.json:trained.accuracy``."""
    return metric.removeprefix("metrics/").replace(".json:", ": ")


def _value(files: Mapping[str, Any], metric: str, suffix: str = "") -> float | None:
    path, _, key = metric.partition(":")
    value: Any = files.get(path, {}).get("data", {})
    for step in f"{key}{suffix}".split("."):
        value = value.get(step) if isinstance(value, Mapping) else None
    return value if isinstance(value, int | float) else None


def interval(files: Mapping[str, Any], metric: str) -> str:
    """A metric with its 95 % interval where it has one; empty where there is no value."""
    value, low, high = (_value(files, metric, suffix) for suffix in ("", "_low", "_high"))
    if value is None:
        return ""
    return f"{value:.4g}" if low is None or high is None else f"{value:.4g} [{low:.4g}, {high:.4g}]"


def existing() -> set[str]:
    """The experiments that stand on the last commit."""
    with dag.opened() as repo:
        return {name for names in repo.experiments.ls(rev="HEAD").values() for name, _ in names}
