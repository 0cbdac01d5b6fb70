"""``make sweep``: run every point of a grid as a DVC experiment and rank them by a metric.

``python -m pipelines.sweep sweeps/lambda.yaml``; ``pipelines/flows/grid.py`` describes the file.

Each point runs in a process and a folder of its own (``pipelines/graph/experiment.py``), with its
share of cores and GPUs. A point that fails stops no other point. A point whose experiment exists
for this commit is not run again, so a stopped sweep goes on where it was.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.flows.grid import load_sweep, prepare
from pipelines.flows.points import add_slots, check_slots
from pipelines.graph.workspace import tidy
from pipelines.machines.workers import add_others, others_of
from pipelines.run import command, points_run

if TYPE_CHECKING:
    from prefect.states import State


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.sweep",
        description="Run every point of a grid as a DVC experiment.",
    )
    parser.add_argument("file", type=Path, help="such as sweeps/lambda.yaml")
    add_slots(parser, "points")
    add_others(parser, "points")
    parser.add_argument(
        "--name", help="of the experiments, before their number (default: the name of the file)"
    )
    options = parser.parse_args(given)
    check_slots(parser, options.slots)
    options.workers = others_of(parser, options)
    return options


def main(options: argparse.Namespace) -> int:
    sweep = load_sweep(options.file)
    tidy()
    prepare(sweep)

    def start() -> "State[Any]":
        from pipelines.flows.sweep_flow import run_sweep

        return run_sweep(
            name=options.name or options.file.stem,
            slots=options.slots,
            echo=True,
            workers=options.workers,
            return_state=True,
            **sweep.model_dump(),
        )

    return points_run(start, options.workers)


if __name__ == "__main__":
    command(lambda: main(arguments()))
