"""``python -m pipelines.compare REVISION REVISION...``: runs side by side, with their differences.

A revision is an experiment, a branch or a commit; ``workspace`` is the folder as it is. Their
results come from DVC's cache, so nothing runs. Every revision is compared with the first on the
same resamples of the same test images. Where the checksums of the test images differ, no
difference is given. The table goes to the terminal; results/compare/index.html has it too, with
the curves of all revisions.
"""

import argparse
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipelines.compare.results import WORKSPACE, Results, Row, fetch
from pipelines.graph import dag
from pipelines.run import command
from prosmin.common import files
from prosmin.common.encoders import TRAINED
from prosmin.metrics import classification, detection, intervals
from prosmin.metrics.paired import Difference, auroc_difference, difference
from stages.common import layout


class Cell(NamedTuple):
    """One metric of one revision, with its 95 % interval.

    against: the difference from the first revision, None for other test images.
    """

    value: float
    low: float
    high: float
    against: Difference | None

    def mark(self, row: Row) -> str:
        """``better`` or ``worse`` where the interval of the difference excludes 0, else empty."""
        if self.against is None or not self.against.apart:
            return ""
        return row.entry.verdict(self.against.value)


def table(runs: Sequence[Results], bootstrap: int) -> dict[Row, list[Cell | None]]:
    """The rows of all runs with one cell per run; None where a run lacks the metric."""
    first, seed = runs[0], runs[0].params.seed
    comparison: dict[Row, list[Cell | None]] = {}
    for row in dict.fromkeys(row for run in runs for row in (*run.samples, *run.scores)):
        comparison[row] = [_cell(row, run, first, bootstrap, seed) for run in runs]
    for row in dict.fromkeys(row for run in runs for row in run.means):
        comparison[row] = [
            _mean([comparison[member][place] for member in run.means[row]])
            if row in run.means
            else None
            for place, run in enumerate(runs)
        ]
    return comparison


def _mean(cells: Sequence[Cell | None]) -> Cell:
    """The mean over OOD sets; without a difference where any set lacks it."""
    present = [cell for cell in cells if cell is not None]
    gains = [cell.against for cell in present if cell.against is not None]
    against = Difference(*intervals.mean_of(gains)) if len(gains) == len(present) else None
    return Cell(*intervals.mean_of([cell[:3] for cell in present]), against)


def _cell(row: Row, run: Results, first: Results, bootstrap: int, seed: int) -> Cell | None:
    """One metric of ``run`` and its difference from ``first``; None where it lacks the metric."""
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
        _, *other = first.scores[row]
        against = auroc_difference((other[0], other[1]), (pair[0], pair[1]), bootstrap, seed)
    low, high = detection.auroc_interval(*pair, resamples=bootstrap, seed=seed)
    return Cell(detection.auroc(*pair), low, high, against)


def lines(runs: Sequence[Results], comparison: dict[Row, list[Cell | None]]) -> Iterator[str]:
    """The table as text: one block per metric, one line per revision.

    The last line is the number of marks to expect by chance.
    """
    width = max(len(run.name) for run in runs)
    for row, cells in comparison.items():
        yield f"{row.label} ({row.better})"
        for run, cell in zip(runs, cells, strict=True):
            if cell is None:
                yield f"  {run.name.ljust(width)}  -"
                continue
            text = f"  {run.name.ljust(width)}  {cell.value:.4f}  {cell.low:.4f} - {cell.high:.4f}"
            if cell.against:
                gain = cell.against
                text += f"  {gain.value:+.4f}  {gain.low:+.4f} - {gain.high:+.4f}"
            elif run is not runs[0]:
                text += "  other test images"
            yield f"{text}  {cell.mark(row)}".rstrip()
    told = sum(
        cell is not None and cell.against is not None
        for cells in comparison.values()
        for cell in cells
    )
    if told:
        yield f"\n{chance(told)}"


def chance(told: int) -> str:
    """The number of marks to expect by chance among ``told`` differences."""
    return (
        f"Each of the {told} differences is a test at 5 % by itself: if there were none, "
        f"about {told / 20:.1f} would be marked all the same."
    )


def page(runs: Sequence[Results], comparison: dict[Row, list[Cell | None]], bootstrap: int) -> str:
    """HTML with the table and the curves of the revisions side by side, in a single file."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from stages.report.figures import calibration, training
    from stages.report.figures.drawing import COLOURS
    from stages.report.inputs import Inputs
    from stages.report.page import TEMPLATES

    folders = [Path(__file__).parent, TEMPLATES]
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
        plots = (layout.LOSS, layout.DIAGNOSTICS, layout.ONLINE_PROBE)
        panels = training.curves(*map(inputs.plot, plots))
        curves["Training"].append((run.name, [panel.svg for panel in panels]))
        if rows := inputs.plot(layout.RELIABILITY):
            drawn = calibration.reliability(rows, TRAINED, run.name, f"compare-{place}")
            curves["Reliability of the linear probe"].append((run.name, [drawn.svg]))
    return environment.get_template("compare.html").render(
        runs=runs, comparison=comparison, curves=curves, bootstrap=bootstrap, colours=COLOURS
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
        "--bootstrap", type=int, default=1000, help="resamples per interval (default: 1000)"
    )
    parsed = parser.parse_args(given)
    if len(parsed.revisions) < 2 or len(set(parsed.revisions)) < len(parsed.revisions):
        parser.error("name at least two revisions, each once")
    if parsed.bootstrap < 100:
        parser.error(f"--bootstrap is {parsed.bootstrap}; it must be at least 100")
    return parsed


def main(given: argparse.Namespace) -> int:
    os.environ.setdefault("DVC_NO_ANALYTICS", "1")
    dag.read([])  # says that this is no project, where it is none
    with tempfile.TemporaryDirectory() as scratch:
        runs = []
        for place, revision in enumerate(given.revisions):
            folder = Path(scratch) / str(place)
            folder.mkdir()
            runs.append(fetch(revision, folder))
        comparison = table(runs, given.bootstrap)
        print("\n".join(lines(runs, comparison)))
        with files.whole_folder(layout.COMPARISON.parent) as out:
            files.write_text(out / layout.COMPARISON.name, page(runs, comparison, given.bootstrap))
    print(f"\nPage: {layout.COMPARISON}")
    return 0


if __name__ == "__main__":
    command(lambda: main(arguments()))
