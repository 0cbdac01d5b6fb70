"""``make study``: methods compared on the whole evaluation, over seeds, with equal tuning effort.

``python -m pipelines.study studies/digits.yaml``; ``pipelines/study/file.py`` describes the file.

Every run is a DVC experiment in a folder of its own, as the points of a sweep are. A run whose
experiment exists for this commit is not run again, so a study that was stopped or killed goes on
where it was. At the end stands results/study/<name>/index.html, and the same as Markdown in
results.md beside it. Both are functions of the experiments alone.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from pipelines.flows.server import reached, settle
from pipelines.graph.workspace import tidy
from pipelines.run import command, flush
from pipelines.study.plan import plan_of


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.study",
        description="Compare methods on the whole evaluation, over seeds.",
    )
    parser.add_argument("file", type=Path, help="such as studies/digits.yaml")
    parser.add_argument("--slots", type=int, default=2, help="runs at the same time (default: 2)")
    parser.add_argument(
        "--set",
        dest="changes",
        metavar="KEY=VALUE",
        action="extend",
        nargs="+",
        default=[],
        help="further settings of every run",
    )
    parser.add_argument(
        "--folder",
        dest="folders",
        metavar="NAME=PATH",
        action="append",
        default=[],
        help="a folder that the file asks for",
    )
    parser.add_argument(
        "--name", help="before the names of the experiments (default: the name of the file)"
    )
    options = parser.parse_args(given)
    if options.slots < 1:
        parser.error(f"--slots is {options.slots}; it must be at least 1")
    return options


def main(options: argparse.Namespace) -> int:
    name = options.name or options.file.stem
    tidy()
    plan_of(options.file, name, options.changes, options.folders)  # faults before the server starts
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    settle()
    with reached():
        from pipelines.study.flow import run_study

        try:
            state = run_study(
                file=str(options.file),
                name=name,
                changes=options.changes,
                folders=options.folders,
                slots=options.slots,
                echo=True,
                return_state=True,
            )
        finally:
            flush()
    print(state.message)
    return 0 if state.is_completed() else 1


if __name__ == "__main__":
    command(lambda: main(arguments()))
