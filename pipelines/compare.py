"""``python -m pipelines.compare REVISION REVISION...``: runs side by side, and what sets them apart.

A revision is whatever git or DVC has a name for: an experiment, a branch, a commit; ``workspace`` is the folder as it is. What
each has left is taken from DVC's cache, so nothing runs. Every other revision is held against the first on the same resamples of
the same test images; where their checksums differ there is no difference to tell. The table goes to the terminal, and with the
curves of all to results/compare/index.html.
"""

import argparse
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipelines.graph import dag
from pipelines.graph.revisions import stale
from pipelines.run import command
from prosmin.common import files
from prosmin.common.errors import UserError
from prosmin.evaluation import knn
from prosmin.evaluation.linear_probe import Probe
from prosmin.metrics import classification, detection, selective
from prosmin.metrics.classification import Metric
from prosmin.metrics.paired import Difference, auroc_difference, difference
from stages.common.current import belongs
from stages.common.directions import higher_is_better
from stages.common.features import read_features
from stages.params.load import Params, load

WORKSPACE = "workspace"
PAGE = Path("results/compare/index.html")
DETECTORS = ("knn", "mahalanobis", "msp", "combined", "sigma")


class Row(NamedTuple):
    """One metric, named as in docs/evaluation.md, and what it is of."""

    of: str
    metric: str

    @property
    def label(self) -> str:
        return f"{self.of}: {self.metric}"

    @property
    def higher_is_better(self) -> bool:
        return higher_is_better(self.metric)

    @property
    def better(self) -> str:
        return "higher is better" if self.higher_is_better else "lower is better"


class Cell(NamedTuple):
    """One metric of one revision, with its 95 % interval; against: its difference from the first revision, None where the test
    images are others."""

    value: float
    low: float
    high: float
    against: Difference | None

    def mark(self, row: Row) -> str:
        """``better`` or ``worse`` where the interval of the difference leaves out 0, else nothing."""
        if self.against is None or not self.against.apart:
            return ""
        return "better" if (self.against.value > 0) == row.higher_is_better else "worse"


@dataclass
class Left:
    """What a revision has left. digests: of its test images; samples: metrics over them; scores: (ID, OOD) by set and detector."""

    name: str
    params: Params
    folder: Path
    digests: np.ndarray | None = None
    samples: dict[Row, Metric] = field(default_factory=dict)
    scores: dict[Row, tuple[str, np.ndarray, np.ndarray]] = field(default_factory=dict)
    others: dict[str, np.ndarray] = field(
        default_factory=dict
    )  # digests of the test images of each OOD set


def fetch(revision: str, folder: Path) -> Left:
    """Bring what ``revision`` has left into ``folder``. Raises ``UserError`` where there is no such revision, or no results."""
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException
    from scmrepo.exceptions import SCMError

    try:
        source = DVCFileSystem(rev=None if revision == WORKSPACE else revision)
        source.get_file("params.yaml", str(folder / "params.yaml"))
        params = load(folder / "params.yaml")
        wanted = ["results/linear/trained.safetensors", "metrics/knn.json"]
        wanted += [
            f"results/embed/{name}/trained.safetensors"
            for name in (params.dataset, *params.ood.sets)
        ]
        wanted += [f"results/ood/{name}/scores.safetensors" for name in params.ood.sets]
        wanted += [
            "plots/linear/reliability.csv",
            "plots/pretrain/loss.csv",
            "plots/pretrain/diagnostics.csv",
        ]
        other = stale(source, folder)
        for path in wanted:
            if belongs(path, other) and source.exists(path):
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                source.get_file(path, str(folder / path))
    except (DvcException, SCMError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{revision} cannot be read ({reason}); `dvc exp show` lists what there is"
        ) from None
    try:
        return read(Left(revision, params, folder))
    except UserError as error:
        raise UserError(f"{revision}: {str(error).replace(f'{folder}/', '')}") from None


def read(left: Left) -> Left:
    """Fill in the metrics that the files of ``left`` allow."""
    embedded = left.folder / f"results/embed/{left.params.dataset}/trained.safetensors"
    if not embedded.is_file():
        raise UserError(
            f"{left.name} has no results of its own in DVC's cache; run it, or `dvc pull`"
        )
    arrays = read_features(embedded, left.params.dataset).arrays
    left.digests, labels = arrays["test.digest"], arrays["test.labels"]
    if (probe := left.folder / "results/linear/trained.safetensors").is_file():
        fitted = Probe.load(probe)
        logits = fitted.logits(arrays["test.features"])
        scaled = logits / fitted.temperature
        probabilities = classification.softmax(scaled)
        left.samples |= {
            Row("linear probe", "accuracy"): partial(classification.accuracy, logits, labels),
            Row("linear probe", "nll_calibrated"): partial(classification.nll, scaled, labels),
            Row("linear probe", "brier_calibrated"): partial(
                classification.brier, probabilities, labels
            ),
            Row("linear probe", "aurc_calibrated"): partial(selective.aurc, probabilities, labels),
        }
    if (chosen := left.folder / "metrics/knn.json").is_file():
        best = files.read_metrics(chosen).section("trained")
        k, temperature = int(best.number("k")), best.number("temperature")
        splits = [split for split in ("train", "val") if f"{split}.features" in arrays]
        bank, known = (
            np.concatenate([arrays[f"{split}.{what}"] for split in splits])
            for what in ("features", "labels")
        )
        similarity, index = knn.neighbours(bank, arrays["test.features"], k)
        votes = knn.vote(
            similarity, known[index], temperature, int(max(known.max(), labels.max())) + 1
        )
        left.samples[Row("k-NN", "accuracy")] = partial(classification.accuracy, votes, labels)
    for name, distance in left.params.ood.sets.items():
        path = left.folder / f"results/ood/{name}/scores.safetensors"
        if path.is_file():
            scores = files.read_arrays(path)
            outside = left.folder / f"results/embed/{name}/trained.safetensors"
            left.others[name] = read_features(outside, name).digests("test")
            for detector in DETECTORS:
                if f"trained.{detector}.id" in scores:
                    scores.check(
                        {
                            f"trained.{detector}.{kind}": (files.NUMBER, kind[0])
                            for kind in ("id", "ood")
                        }
                    )
                    pair = (scores[f"trained.{detector}.{kind}"] for kind in ("id", "ood"))
                    left.scores[Row(f"OOD, {name} ({distance}), {detector}", "auroc")] = (
                        name,
                        *pair,
                    )
    return left


def table(runs: Sequence[Left], bootstrap: int) -> dict[Row, list[Cell | None]]:
    """The rows that any of ``runs`` has, a cell for each run; None where it lacks the metric."""
    first, seed = runs[0], runs[0].params.seed
    found: dict[Row, list[Cell | None]] = {}
    for row in dict.fromkeys(row for run in runs for row in (*run.samples, *run.scores)):
        found[row] = [_cell(row, run, first, bootstrap, seed) for run in runs]
    return found


def _cell(row: Row, run: Left, first: Left, bootstrap: int, seed: int) -> Cell | None:
    paired = run is not first and np.array_equal(run.digests, first.digests)
    against = None
    if metric := run.samples.get(row):
        n = len(run.digests)
        own = classification.with_intervals({"": metric}, n, bootstrap, seed)
        if paired and row in first.samples:
            against = difference(first.samples[row], metric, n, bootstrap, seed)
        return Cell(own[""], own["_low"], own["_high"], against)
    if row not in run.scores:
        return None
    name, *pair = run.scores[row]
    if paired and row in first.scores and np.array_equal(run.others[name], first.others[name]):
        against = auroc_difference(first.scores[row][1:], tuple(pair), bootstrap, seed)
    low, high = detection.auroc_interval(*pair, resamples=bootstrap, seed=seed)
    return Cell(detection.auroc(*pair), low, high, against)


def lines(runs: Sequence[Left], found: dict[Row, list[Cell | None]]) -> Iterator[str]:
    """The table as text: a block for each metric, a line for each revision; then how many marks chance alone gives."""
    width = max(len(run.name) for run in runs)
    for row, cells in found.items():
        yield f"{row.label} ({row.better})"
        for run, cell in zip(runs, cells, strict=True):
            if cell is None:
                yield f"  {run.name.ljust(width)}  -"
                continue
            text = f"  {run.name.ljust(width)}  {cell.value:.4f}  {cell.low:.4f} - {cell.high:.4f}"
            if cell.against:
                text += f"  {cell.against.value:+.4f}  {cell.against.low:+.4f} - {cell.against.high:+.4f}"
            elif run is not runs[0]:
                text += "  other test images"
            yield f"{text}  {cell.mark(row)}".rstrip()
    told = sum(
        cell is not None and cell.against is not None for cells in found.values() for cell in cells
    )
    if told:
        yield f"\n{chance(told)}"


def chance(told: int) -> str:
    """What as many differences would show by chance."""
    return (
        f"Each of the {told} differences is a test at 5 % by itself: if there were none, "
        f"about {told / 20:.1f} would be marked all the same."
    )


def page(runs: Sequence[Left], found: dict[Row, list[Cell | None]], bootstrap: int) -> str:
    """The table and the curves of each revision side by side, as one HTML file that refers to nothing outside it."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from stages import report
    from stages.report import figures
    from stages.report.inputs import Inputs

    folders = [Path(__file__).parent, *map(Path, report.__path__)]
    environment = Environment(
        loader=FileSystemLoader(folders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    curves: dict[str, Any] = {"Training": [], "Reliability of the linear probe": []}
    for place, run in enumerate(runs):
        inputs = Inputs(run.folder, run.params)
        panels = figures.training(inputs.plot("pretrain/loss"), inputs.plot("pretrain/diagnostics"))
        curves["Training"].append((run.name, [each.svg for each in panels]))
        if rows := inputs.plot("linear/reliability"):
            drawn = figures.reliability(rows, "trained", run.name, f"compare-{place}")
            curves["Reliability of the linear probe"].append((run.name, [drawn.svg]))
    return environment.get_template("compare.html").render(
        runs=runs, found=found, curves=curves, bootstrap=bootstrap, colours=figures.COLOURS
    )


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.compare",
        description="Runs side by side, with intervals of their differences.",
    )
    parser.add_argument(
        "revisions",
        nargs="+",
        help=f"experiments, branches or commits; {WORKSPACE}: the folder as it is",
    )
    parser.add_argument(
        "--bootstrap", type=int, default=1000, help="resamples behind each interval (default: 1000)"
    )
    found = parser.parse_args(given)
    if len(found.revisions) < 2 or len(set(found.revisions)) < len(found.revisions):
        parser.error("name at least two revisions, each once")
    if found.bootstrap < 100:
        parser.error(f"--bootstrap is {found.bootstrap}; it must be at least 100")
    return found


def main(given: argparse.Namespace) -> int:
    os.environ.setdefault("DVC_NO_ANALYTICS", "1")
    dag.read([])  # says that this is no project, where it is none
    with tempfile.TemporaryDirectory() as scratch:
        runs = []
        for place, revision in enumerate(given.revisions):
            folder = Path(scratch) / str(place)
            folder.mkdir()
            runs.append(fetch(revision, folder))
        found = table(runs, given.bootstrap)
        print("\n".join(lines(runs, found)))
        with files.whole_folder(PAGE.parent) as out:
            files.write_text(out / PAGE.name, page(runs, found, given.bootstrap))
    print(f"\nPage: {PAGE}")
    return 0


if __name__ == "__main__":
    command(lambda: main(arguments()))
