"""``make study``: methods compared on the whole evaluation, over seeds, with equal tuning effort.

``python -m pipelines.study studies/digits.yaml``; ``pipelines/study/file.py`` describes the file.

Every run is a DVC experiment in a folder of its own, as the points of a sweep are. A run whose
experiment exists for this commit is not run again, so a study that was stopped or killed goes on
where it was. At the end stands results/study/<name>/index.html, the same as Markdown in results.md
beside it, and the runs in runs.json. All are functions of the experiments alone.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.flows.points import add_slots, check_slots
from pipelines.graph.workspace import tidy
from pipelines.machines.workers import add_others, others_of
from pipelines.run import add_settings, command, points_run
from pipelines.study.page import write
from pipelines.study.progress import planned

if TYPE_CHECKING:
    from prefect.states import State


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.study",
        description="Compare methods on the whole evaluation, over seeds.",
    )
    parser.add_argument("file", type=Path, help="such as studies/digits.yaml")
    add_slots(parser, "runs")
    add_others(parser, "runs")
    add_settings(parser, "further settings of every run")
    parser.add_argument(
        "--folder",
        dest="folders",
        metavar="NAME=PATH",
        action="append",
        default=[],
        help="a folder that the file asks for",
    )
    parser.add_argument(
        "--recorded",
        metavar="FILE",
        action="append",
        default=[],
        help="runs.json of this study from another commit or machine; its runs are not repeated",
    )
    parser.add_argument(
        "--page", action="store_true", help="write the page of what there is; run nothing"
    )
    parser.add_argument(
        "--name", help="before the names of the experiments (default: the name of the file)"
    )
    options = parser.parse_args(given)
    check_slots(parser, options.slots)
    options.workers = others_of(parser, options)
    return options


def main(options: argparse.Namespace) -> int:
    name = options.name or options.file.stem
    tidy()
    # Faults are reported before the server starts.
    given = (options.file, name, options.changes, options.folders, options.recorded)
    progress = planned(*given)
    if options.page:
        print("page:", write(progress.plan, progress.due(), progress.known))
        return 0

    def start() -> "State[Any]":
        from pipelines.study.flow import PLANNED, run_study

        PLANNED.set(progress)
        return run_study(
            file=str(options.file),
            name=name,
            changes=options.changes,
            folders=options.folders,
            recorded=options.recorded,
            slots=options.slots,
            echo=True,
            workers=options.workers,
            return_state=True,
        )

    return points_run(start, options.workers)


if __name__ == "__main__":
    command(lambda: main(arguments()))
