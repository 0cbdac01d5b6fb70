"""A sweep: every point of a grid as a DVC experiment, some at the same time, ranked by one metric at the end.

``python -m pipelines.sweep sweeps/lambda.yaml`` or the deployment "sweep" on the dashboard. The file:

    grid:                              # every combination is a point
      pretrain.objective.lambda: [0.8, 1.0, 1.2]
      seed: range(0, 3)                # 0, 1, 2; a third number is the step
    rank: metrics/linear.json:trained.accuracy_val
    lowest: false                      # the highest is best; left out: as the metric is better
    show: [metrics/linear.json:trained.accuracy]     # more columns
    stages: [linear]                   # with what they need; left out: all

Each point runs in a process and a folder of its own (``pipelines/graph/experiment.py``), with its share of cores and GPUs. A point that
fails fails alone. A point whose experiment exists for this commit is not run again, so a sweep that was stopped goes on.
"""

import argparse
import itertools
import math
import os
import queue
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pipelines.engine import machine
from pipelines.engine.execute import ended, guarded
from pipelines.flows.server import reached, settle, stop
from pipelines.graph import dag
from pipelines.graph.experiment import check, take_snapshot
from pipelines.graph.revisions import stale_in_experiment
from pipelines.graph.workspace import tidy
from prosmin.common.errors import UserError, printable, shown
from prosmin.metrics.catalogue import higher_is_better
from stages.params.yaml_file import first, read, sentences

MOST = (
    10_000  # points of a sweep: more run for months, and to list them alone would take the memory
)
Value = Any  # what params.yaml may hold: a number, text, true or false, a list, a section


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
                long = (
                    f" and has at most {MOST} numbers"
                    if isinstance(values, str) and values.startswith("range(")
                    else ""
                )
                raise ValueError(
                    f"{printable(key)} is {shown(values)}; it must be a list or a range that is not empty{long}, "
                    "such as range(1, 9, 2)"
                )
        expanded = {key: expand(values) for key, values in grid.items()}
        if (count := math.prod(map(len, expanded.values()))) > MOST:
            raise ValueError(f"there are {shown(count)} points; there must be at most {MOST}")
        return expanded

    @field_validator("rank", "show")
    @classmethod
    def _is_metric(cls, value: Any) -> Any:
        for each in [value] if isinstance(value, str) else value:
            if ".json:" not in each:
                raise ValueError(
                    "must be a file and a key in it, such as metrics/linear.json:trained.accuracy"
                )
        return value

    @model_validator(mode="after")
    def _has_a_direction(self) -> "Sweep":
        if self.lowest is None and self._higher_is_better is None:
            raise ValueError(
                f"rank is {self.rank!r}, of which it is not known which way is better; give lowest: true or false"
            )
        return self

    @property
    def _higher_is_better(self) -> bool | None:
        return higher_is_better(self.rank.rpartition(".")[2])

    @property
    def lowest_first(self) -> bool:
        """Whether the lowest value of ``rank`` is the best: as said, else as the metric is better."""
        return not self._higher_is_better if self.lowest is None else self.lowest

    def points(self) -> list[dict[str, Value]]:
        return [
            dict(zip(self.grid, values, strict=True))
            for values in itertools.product(*self.grid.values())
        ]


def expand(values: Any) -> list[Value]:
    """A list as it is; ``range(start, stop[, step])`` as its whole numbers, without the stop; empty for anything else, and for more
    than ``MOST``."""
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
        raise UserError(
            "\n".join(f"{path}: {line}" for line in first(sentences(error, Sweep)))
        ) from None


def written(value: Value) -> str:
    """A value in the grammar of ``dvc exp run -S``."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {written(item)}' for key, item in value.items())}}}"
    return (
        {None: "null", True: "true", False: "false"}[value]
        if value is None or isinstance(value, bool)
        else str(value)
    )


class Slots:
    """The machine in equal parts, one for each point that runs."""

    def __init__(self, count: int):
        cores, gpus = machine.cores(), machine.gpus()
        self._free: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
        for slot in range(count):
            devices = ",".join(gpus[slot::count])
            self._free.put(
                {"PROSMIN_CORES": str(max(1, cores // count)), "CUDA_VISIBLE_DEVICES": devices}
            )

    @contextmanager
    def one(self) -> Iterator[dict[str, str]]:
        slot = self._free.get()
        try:
            yield slot
        finally:
            self._free.put(slot)


class Points:
    """Runs points as processes below guards; ``stop`` ends them all."""

    def __init__(self, sweep: Sweep, snapshot: str, slots: int):
        self.sweep, self.snapshot, self.slots = sweep, snapshot, Slots(slots)
        self._running: dict[str, Any] = {}
        self._guard, self._stopped = threading.Lock(), False

    def run(self, name: str, point: Mapping[str, Value], show: Any) -> str:
        """Run one point; returns why it failed, or an empty string."""
        changes = [f"{key}={written(value)}" for key, value in point.items()]
        command = [
            sys.executable,
            "-m",
            "pipelines.run",
            *self.sweep.stages,
            "--name",
            name,
            "--snapshot",
            self.snapshot,
            "--set",
            *changes,
        ]
        with self.slots.one() as share:
            with self._guard:
                if self._stopped:
                    return "stopped"
                process = self._running[name] = guarded(command, share)
            last = ""
            try:
                for line in process.stdout:
                    show(line.rstrip("\n"))
                    last = line.strip() if line.startswith("error: ") else last
                code = ended(process)
            finally:
                stop(process)
                with self._guard:
                    del self._running[name]
            return (
                ""
                if code == 0
                else "stopped"
                if self._stopped
                else last.removeprefix("error: ") or f"ended with code {code}"
            )

    def stop(self) -> None:
        with self._guard:
            self._stopped = True
            for process in self._running.values():
                if process.poll() is None:
                    process.terminate()


def table(
    sweep: Sweep, names: Mapping[str, dict[str, Value]], failed: Mapping[str, str]
) -> list[dict[str, Any]]:
    """A row a point, the best first, with the interval of every metric that has one; what failed stands last. A metric that the
    point has not made, but found in the commit that it started from, is left out."""
    with dag.opened() as repo:
        found = (
            repo.metrics.show(revs=[name for name in names if name not in failed])
            if len(failed) < len(names)
            else {}
        )
        other = {name: stale_in_experiment(repo, name) for name in found}
    rows = []
    for name, point in names.items():
        row: dict[str, Any] = {"experiment": name} | {
            key: written(value) for key, value in point.items()
        }
        data = found.get(name, {}).get("data", {})
        data = {path: each for path, each in data.items() if path not in other.get(name, ())}
        for metric in [sweep.rank, *sweep.show]:
            row[title(metric)] = interval(data, metric)
        rows.append((_value(data, sweep.rank), row | {"failed": failed.get(name, "")}))
    worst = float("inf") if sweep.lowest_first else float("-inf")
    rows.sort(
        key=lambda each: worst if each[0] is None else each[0], reverse=not sweep.lowest_first
    )
    return [row for _, row in rows]


def title(metric: str) -> str:
    """``linear: trained.accuracy`` for ``metrics/linear.json:trained.accuracy``."""
    return metric.removeprefix("metrics/").replace(".json:", ": ")


def _value(data: Mapping[str, Any], metric: str, suffix: str = "") -> float | None:
    path, _, key = metric.partition(":")
    found: Any = data.get(path, {}).get("data", {})
    for step in f"{key}{suffix}".split("."):
        found = found.get(step) if isinstance(found, Mapping) else None
    return found if isinstance(found, int | float) else None


def interval(data: Mapping[str, Any], metric: str) -> str:
    value, low, high = (_value(data, metric, suffix) for suffix in ("", "_low", "_high"))
    if value is None:
        return ""
    return f"{value:.4g}" if low is None or high is None else f"{value:.4g} [{low:.4g}, {high:.4g}]"


def existing() -> set[str]:
    """The experiments that stand on the last commit."""
    with dag.opened() as repo:
        return {name for names in repo.experiments.ls(rev="HEAD").values() for name, _ in names}


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.sweep",
        description="Run every point of a grid as a DVC experiment.",
    )
    parser.add_argument("file", type=Path, help="such as sweeps/lambda.yaml")
    parser.add_argument("--slots", type=int, default=2, help="points at the same time (default: 2)")
    parser.add_argument(
        "--name",
        help="what the experiments are called, before their number (default: the name of the file)",
    )
    found = parser.parse_args(given)
    if found.slots < 1:
        parser.error(f"--slots is {found.slots}; it must be at least 1")
    return found


def main(given: argparse.Namespace) -> int:
    sweep = load_sweep(given.file)
    tidy()
    prepare(sweep)
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    settle()
    from pipelines.run import flush

    with reached():
        from pipelines.flows.sweep_flow import run_sweep

        try:
            state = run_sweep(
                name=given.name or given.file.stem,
                slots=given.slots,
                echo=True,
                return_state=True,
                **sweep.model_dump(),
            )
        finally:
            flush()
    print(state.message)
    return 0 if state.is_completed() else 1


def prepare(sweep: Sweep) -> str:
    """Everything that can be told before the first point runs; returns the snapshot that all points start from."""
    dag.read(sweep.stages)
    check([f"{key}={written(value)}" for key, values in sweep.grid.items() for value in values])
    return take_snapshot()


if __name__ == "__main__":
    from pipelines.run import command

    command(lambda: main(arguments()))
