"""``make sweep``: run every point of a grid as a DVC experiment and rank them by a metric.

``python -m pipelines.sweep sweeps/lambda.yaml``; ``pipelines/flows/grid.py`` describes the file.

Each point runs in a process and a folder of its own (``pipelines/graph/experiment.py``), with its
share of cores and GPUs. A point that fails stops no other point. A point whose experiment exists
for this commit is not run again, so a stopped sweep goes on where it was.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from pipelines.flows.grid import load_sweep, prepare
from pipelines.flows.server import reached, settle
from pipelines.graph.workspace import tidy
from pipelines.run import command, flush


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.sweep",
        description="Run every point of a grid as a DVC experiment.",
    )
    parser.add_argument("file", type=Path, help="such as sweeps/lambda.yaml")
    parser.add_argument("--slots", type=int, default=2, help="points at the same time (default: 2)")
    parser.add_argument(
        "--name", help="of the experiments, before their number (default: the name of the file)"
    )
    options = parser.parse_args(given)
    if options.slots < 1:
        parser.error(f"--slots is {options.slots}; it must be at least 1")
    return options


def main(options: argparse.Namespace) -> int:
    sweep = load_sweep(options.file)
    tidy()
    prepare(sweep)
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    settle()
    with reached():
        from pipelines.flows.sweep_flow import run_sweep

        try:
            state = run_sweep(
                name=options.name or options.file.stem,
                slots=options.slots,
                echo=True,
                return_state=True,
                **sweep.model_dump(),
            )
        finally:
            flush()
    print(state.message)
    return 0 if state.is_completed() else 1


if __name__ == "__main__":
    command(lambda: main(arguments()))
