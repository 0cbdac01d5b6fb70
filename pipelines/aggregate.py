"""``python -m pipelines.aggregate EXPERIMENT...``: the headline numbers over seeds.

The experiments (or branches, commits, ``workspace``; 'seeds-*' names all that match) must differ in their seed alone. For each metric: the
mean over seeds with its 95 % t interval, each seed's number, and the mean of the untrained floor, as a Markdown table. With ``--against``
others, run with other settings and the same seeds, it tells the mean difference to them, paired by seed, and *better* or *worse* only
where its interval leaves out 0. Nothing runs: what is read is what each has left in git.
"""

import argparse
import fnmatch
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipelines.compare import WORKSPACE
from pipelines.graph import dag
from pipelines.graph.revisions import stale
from pipelines.run import command
from prosmin.common.errors import UserError, nearest
from prosmin.metrics import intervals
from stages.common.headlines import SIMILARITY, Row, rows
from stages.params.load import Params, load


class Run(NamedTuple):
    """The headline metrics of one revision, by their label."""

    name: str
    params: Params
    found: dict[str, Row]


def resolve(given: Sequence[str]) -> list[str]:
    """The revisions named, patterns replaced by the experiments that match, by name."""
    from dvc.repo import Repo

    found: list[str] = []
    for name in given:
        if not any(mark in name for mark in "*?["):
            found.append(name)
            continue
        with Repo() as repo:
            known = {
                each
                for names in repo.experiments.ls(all_commits=True).values()
                for each, _ in names
            }
        matching = sorted(fnmatch.filter(known, name))
        if not matching:
            raise UserError(
                f"no experiment matches {name!r}{nearest(name, known)}; `dvc exp list --all` has them"
            )
        found += matching
    return list(dict.fromkeys(found))


def fetch(revision: str, folder: Path) -> Run:
    """Bring the params and the metrics of ``revision`` into ``folder``. Raises ``UserError`` where there are none."""
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException
    from scmrepo.exceptions import SCMError

    try:
        source = DVCFileSystem(rev=None if revision == WORKSPACE else revision)
        source.get_file("params.yaml", str(folder / "params.yaml"))
        for path in source.find("metrics"):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            source.get_file(path, str(folder / path))
    except (DvcException, SCMError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{revision} cannot be read ({reason}); `dvc exp show` lists what there is"
        ) from None
    try:
        params = load(folder / "params.yaml")
        found = rows(params, folder / "metrics", without=stale(source, folder))
    except UserError as error:
        lines = str(error).replace(f"{folder}/", "").splitlines()
        raise UserError("\n".join(f"{revision}: {line}" for line in lines)) from None
    return Run(revision, params, {row.label: row for row in found})


def by_seed(runs: Sequence[Run]) -> dict[int, Run]:
    """Raises ``UserError`` for runs that differ in more than the seed, or of which two have the same."""
    first, found = runs[0], {}
    for run in runs:
        if key := _differing(first.params, run.params):
            raise UserError(f"{first.name} and {run.name} differ in {key}; only seed may differ")
        if run.params.seed in found:
            raise UserError(
                f"{found[run.params.seed].name} and {run.name} have the same seed, {run.params.seed}"
            )
        found[run.params.seed] = run
    if len(found) < 2:
        raise UserError(f"{first.name} is one run; an interval over seeds needs at least two")
    return dict(sorted(found.items()))


def _differing(first: Params, second: Params) -> str:
    """The first dotted key, other than the seed, in which they differ; empty where there is none."""

    def flat(content: Any, key: str) -> Iterator[tuple[str, Any]]:
        if isinstance(content, dict) and content:
            for name, value in content.items():
                yield from flat(value, f"{key}.{name}" if key else str(name))
        else:
            yield key, content

    one, other = (
        dict(flat(each.model_dump(mode="json", by_alias=True), "")) for each in (first, second)
    )
    absent = object()
    keys = (
        key
        for key in {**one, **other}
        if key != "seed" and one.get(key, absent) != other.get(key, absent)
    )
    return next(keys, "")


def table(runs: dict[int, Run], against: dict[int, Run] | None = None) -> Iterator[str]:
    """Lines of Markdown: a row for each metric that all runs have."""
    yield (
        f"| | mean | 95 % interval | seeds {', '.join(map(str, runs))} | untrained |"
        + " difference | |" * bool(against)
    )
    yield "|---|---|---|---|---|" + "---|---|" * bool(against)
    for label in next(iter(runs.values())).found:
        if not all(label in run.found for run in runs.values()):
            continue
        values = [run.found[label].value for run in runs.values()]
        mean, low, high = over_seeds([run.found[label] for run in runs.values()])
        floors = [run.found[label].random for run in runs.values()]
        floor = "" if None in floors else f"{np.mean(floors):.3f}"
        each = " ".join(f"{value:.3f}" for value in values)
        line = f"| {label} | {mean:.3f} | [{low:.3f}, {high:.3f}] | {each} | {floor} |"
        yield line + (_difference(label, runs, against) if against else "")


def over_seeds(found: Sequence[Row]) -> tuple[float, float, float]:
    """Mean of one metric, a share in [0, 1] as all that stand here are but a cosine, and its interval over seeds.

    Student's t, cut to that range, and no narrower than what the test images of the runs, drawn apart, allow: seeds that agree to
    the last digit, as where an AUROC is 1, do not make the metric known.
    """
    mean, low, high = intervals.student([row.value for row in found])
    if all(row.low is not None and row.high is not None for row in found):
        low = min(
            low, mean - float(np.linalg.norm([row.value - row.low for row in found])) / len(found)
        )
        high = max(
            high, mean + float(np.linalg.norm([row.high - row.value for row in found])) / len(found)
        )
    return intervals.within((mean, low, high), -1.0 if found[0].label == SIMILARITY else 0.0, 1.0)


def _difference(label: str, runs: dict[int, Run], against: dict[int, Run]) -> str:
    if not all(label in run.found for run in against.values()):
        return " | |"
    gains = [
        run.found[label].value - against[seed].found[label].value for seed, run in runs.items()
    ]
    mean, low, high = intervals.within(intervals.student(gains), -1.0, 1.0)
    verdict = ""
    if low < high and (low > 0 or high < 0):  # equal gains say nothing of their spread
        higher_is_better = next(iter(runs.values())).found[label].higher_is_better
        verdict = "better" if (mean > 0) == higher_is_better else "worse"
    return f" {mean:+.3f} [{low:+.3f}, {high:+.3f}] | {verdict} |"


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.aggregate",
        description="Headline numbers over runs that differ in their seed alone.",
    )
    names = "experiments, branches or commits; a pattern such as 'seeds-*' stands for the experiments that match"
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
        seeds = (", ".join(map(str, each)) for each in (runs, against))
        raise UserError(
            "the seeds are {} and, of --against, {}; a paired difference needs the same".format(
                *seeds
            )
        )
    print("\n".join(table(runs, against)))
    return 0


if __name__ == "__main__":
    command(lambda: main(arguments()))
