"""``python -m pipelines.aggregate EXPERIMENT...``: the headline numbers over seeds.

The experiments may differ in their seed alone. Branches, commits and ``workspace`` are allowed
too; a pattern such as 'seeds-*' stands for all experiments that match. The output is a Markdown
table. Per metric: the mean over seeds with its 95 % t interval, the value of each seed, and the
mean of the untrained encoder.

``--against`` names runs with other settings and the same seeds. Then the table has the mean
difference to them, paired by seed, and *better* or *worse* where the interval of the difference
excludes 0.

Nothing runs: all numbers are read from git.
"""

import argparse
import fnmatch
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipelines.compare.results import opened
from pipelines.compare.revisions import stale
from pipelines.graph import dag
from pipelines.run import command
from prosmin.common.encoders import UNTRAINED
from prosmin.common.errors import UserError, nearest
from prosmin.metrics import intervals
from stages.common.headlines import Row, rows
from stages.common.layout import METRICS
from stages.params.load import Params, load


class Run(NamedTuple):
    """The headline numbers of one revision, by label."""

    name: str
    params: Params
    headlines: dict[str, Row]


def resolve(given: Sequence[str]) -> list[str]:
    """The given revisions; a pattern is replaced by the matching experiments, sorted by name."""
    from dvc.repo import Repo

    revisions: list[str] = []
    for name in given:
        if not any(mark in name for mark in "*?["):
            revisions.append(name)
            continue
        with Repo() as repo:
            known = {
                experiment
                for names in repo.experiments.ls(all_commits=True).values()
                for experiment, _ in names
            }
        matching = sorted(fnmatch.filter(known, name))
        if not matching:
            raise UserError(
                f"no experiment matches {name!r}{nearest(name, known)}; "
                "`dvc exp list --all` has them"
            )
        revisions += matching
    return list(dict.fromkeys(revisions))


def fetch(revision: str, folder: Path) -> Run:
    """Copy the params and metrics of ``revision`` to ``folder`` and read them.

    Raises ``UserError`` where the revision does not exist or cannot be read.
    """
    with opened(revision) as source:
        source.get_file("params.yaml", str(folder / "params.yaml"))
        for path in source.find(str(METRICS)):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            source.get_file(path, str(folder / path))
    try:
        params = load(folder / "params.yaml")
        headlines = rows(params, folder / METRICS, without=stale(source, folder))
    except UserError as error:
        lines = str(error).replace(f"{folder}/", "").splitlines()
        raise UserError("\n".join(f"{revision}: {line}" for line in lines)) from None
    return Run(revision, params, {row.label: row for row in headlines})


def by_seed(runs: Sequence[Run]) -> dict[int, Run]:
    """The runs by their seed, in rising order.

    Raises ``UserError`` where runs differ in another setting, where two have the same seed, and
    for a single run.
    """
    first = runs[0]
    run_of_seed: dict[int, Run] = {}
    for run in runs:
        if key := _differing(first.params, run.params):
            raise UserError(f"{first.name} and {run.name} differ in {key}; only seed may differ")
        if run.params.seed in run_of_seed:
            other = run_of_seed[run.params.seed].name
            raise UserError(f"{other} and {run.name} have the same seed, {run.params.seed}")
        run_of_seed[run.params.seed] = run
    if len(run_of_seed) < 2:
        raise UserError(f"{first.name} is one run; an interval over seeds needs at least two")
    return dict(sorted(run_of_seed.items()))


def _differing(first: Params, second: Params) -> str:
    """The first dotted key apart from the seed in which both differ; empty where none does."""

    def flat(content: Any, key: str) -> Iterator[tuple[str, Any]]:
        if isinstance(content, dict) and content:
            for name, value in content.items():
                yield from flat(value, f"{key}.{name}" if key else str(name))
        else:
            yield key, content

    first_flat, second_flat = (
        dict(flat(params.model_dump(mode="json", by_alias=True), "")) for params in (first, second)
    )
    absent = object()
    keys = (
        key
        for key in {**first_flat, **second_flat}
        if key != "seed" and first_flat.get(key, absent) != second_flat.get(key, absent)
    )
    return next(keys, "")


def table(runs: dict[int, Run], against: dict[int, Run] | None = None) -> Iterator[str]:
    """Lines of Markdown: one row per metric that all runs have."""
    floor = next(iter(runs.values())).params.pretrain.shown[UNTRAINED]
    yield (
        f"| | mean | 95 % interval | seeds {', '.join(map(str, runs))} | {floor} |"
        + " difference | |" * bool(against)
    )
    yield "|---|---|---|---|---|" + "---|---|" * bool(against)
    for label in next(iter(runs.values())).headlines:
        if not all(label in run.headlines for run in runs.values()):
            continue
        values = [run.headlines[label].value for run in runs.values()]
        mean, low, high = over_seeds([run.headlines[label] for run in runs.values()])
        shown = " ".join(f"{value:.3f}" for value in values)
        untrained = [run.headlines[label].untrained for run in runs.values()]
        floors = [value for value in untrained if value is not None]
        floor = f"{np.mean(floors):.3f}" if len(floors) == len(runs) else ""
        line = f"| {label} | {mean:.3f} | [{low:.3f}, {high:.3f}] | {shown} | {floor} |"
        yield line + (_difference(label, runs, against) if against else "")


def over_seeds(per_seed: Sequence[Row]) -> tuple[float, float, float]:
    """(mean, low, high) of one metric over seeds, in the range of the metric.

    The interval is Student's t, and at least as wide as the test images allow, which differ
    between seeds. Otherwise it would have no width where all seeds agree, as on an AUROC of 1.
    """
    mean, low, high = intervals.student([row.value for row in per_seed])
    below = [row.value - row.low for row in per_seed if row.low is not None]
    above = [row.high - row.value for row in per_seed if row.high is not None]
    if len(below) == len(above) == len(per_seed):
        low = min(low, mean - float(np.linalg.norm(below)) / len(per_seed))
        high = max(high, mean + float(np.linalg.norm(above)) / len(per_seed))
    return intervals.within((mean, low, high), per_seed[0].entry.low, per_seed[0].entry.high)


def _difference(label: str, runs: dict[int, Run], against: dict[int, Run]) -> str:
    if not all(label in run.headlines for run in against.values()):
        return " | |"
    gains = [
        run.headlines[label].value - against[seed].headlines[label].value
        for seed, run in runs.items()
    ]
    metric = next(iter(runs.values())).headlines[label].entry
    width = metric.high - metric.low
    mean, low, high = intervals.within(intervals.student(gains), -width, width)
    verdict = ""
    if low < high and (low > 0 or high < 0):  # equal gains say nothing about their spread
        verdict = metric.verdict(mean)
    return f" {mean:+.3f} [{low:+.3f}, {high:+.3f}] | {verdict} |"


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.aggregate",
        description="Headline numbers over runs that differ in their seed alone.",
    )
    names = (
        "experiments, branches or commits; a pattern such as 'seeds-*' stands for the experiments "
        "that match"
    )
    parser.add_argument("revisions", nargs="+", help=names)
    parser.add_argument(
        "--against", nargs="+", default=[], help="runs of the same seeds to tell the difference to"
    )
    return parser.parse_args(given)


def main(given: argparse.Namespace) -> int:
    os.environ.setdefault("DVC_NO_ANALYTICS", "1")
    dag.read([])  # says that this is no project, where it is none
    with tempfile.TemporaryDirectory() as scratch:

        def read(names: list[str]) -> dict[int, Run]:
            runs = []
            for name in resolve(names):
                folder = Path(tempfile.mkdtemp(dir=scratch))
                runs.append(fetch(name, folder))
            return by_seed(runs)

        runs, against = read(given.revisions), read(given.against) if given.against else None
    if against and list(runs) != list(against):
        seeds = (", ".join(map(str, group)) for group in (runs, against))
        raise UserError(
            "the seeds are {} and, of --against, {}; a paired difference needs the same".format(
                *seeds
            )
        )
    print("\n".join(table(runs, against)))
    return 0


if __name__ == "__main__":
    command(lambda: main(arguments()))
