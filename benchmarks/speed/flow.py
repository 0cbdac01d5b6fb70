"""The flow against ``dvc repro``, on the default run.

    python -m benchmarks.speed.flow [--rounds 3] [--whole]

In a fresh clone of the last commit, after a first ``dvc repro``:

- fan_out: seconds of ``pipelines.run --force --downstream embed prediction finetune`` over those of
  ``dvc repro`` with the same words (all evaluations and the report; the encoder stays), in pairs
  that alternate in order. The flow reports to a server that is running.
- same_bytes: whether dvc.lock, metrics/, plots/ and results/ are equal to the byte after each run
- whole (with --whole): the same for the whole graph, pretraining included
- nothing_to_do: seconds of a flow with nothing to do, with that server and without any
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.record import record
from pipelines.engine.execute import environment
from pipelines.flows import server

LEFT = ("dvc.lock", "summary.json", "metrics", "plots", "results")
DVC, FLOW = ("dvc", "repro"), ("pipelines.run",)


def run(folder: Path, module: str, *arguments: str, api: Mapping[str, str] | None = None) -> float:
    """Seconds of ``python -m module arguments``. api: variables of a running server, if any."""
    variables = {name: value for name, value in environment().items() if name != "PREFECT_API_URL"}
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env={**variables, **(api or {})},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(f"error: {module} {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
    return time.perf_counter() - begun


def left(folder: Path) -> dict[str, bytes]:
    paths = [
        path
        for name in LEFT
        for path in [folder / name, *(folder / name).rglob("*")]
        if path.is_file()
    ]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def compare(
    folder: Path, arguments: Sequence[str], rounds: int, api: Mapping[str, str]
) -> dict[str, Any]:
    """Both in turn; the median of the ratios, pair by pair."""
    seconds: dict[str, list[float]] = {"dvc_repro": [], "flow": []}
    same = True
    before = None
    for place in range(rounds):
        pair = [("dvc_repro", DVC, None), ("flow", FLOW, api)]
        for name, command, known in pair if place % 2 == 0 else reversed(pair):
            seconds[name].append(run(folder, *command, *arguments, api=known))
            now = left(folder)
            same, before = same and before in (None, now), now
            print(
                f"{' '.join(arguments)}: {name} {seconds[name][-1]:.1f} s",
                file=sys.stderr,
                flush=True,
            )
    ratios = [
        mine / theirs for mine, theirs in zip(seconds["flow"], seconds["dvc_repro"], strict=True)
    ]
    return {
        "rounds": rounds,
        "seconds": {
            name: [round(value, 2) for value in values] for name, values in seconds.items()
        },
        "ratio": round(statistics.median(ratios), 3),
        "same_bytes": same,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed.flow", description="The flow against dvc repro."
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--whole", action="store_true", help="also the whole graph, pretraining included"
    )
    parser.add_argument("--clone", type=Path, help="where to make the clone, which then stays")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.clone or Path(scratch) / "clone"
        subprocess.run(["git", "clone", "--quiet", ".", str(folder)], check=True)
        os.environ["PREFECT_HOME"] = str(Path(scratch) / "prefect")
        server.settle()
        figures: dict[str, Any] = {"first_dvc_repro_seconds": round(run(folder, *DVC), 1)}
        with server.started(server.free_port()) as here:
            api = here.variables()
            run(folder, *FLOW, api=api)  # the first run on a new database is slower
            figures["fan_out"] = compare(
                folder,
                ["--force", "--downstream", "embed", "prediction", "finetune"],
                given.rounds,
                api,
            )
            if given.whole:
                figures["whole"] = compare(folder, ["--force"], given.rounds, api)
            idle = [run(folder, *FLOW, api=api) for _ in range(given.rounds)]
        alone = [run(folder, *FLOW) for _ in range(given.rounds)]
        figures["nothing_to_do"] = {
            "with_server_seconds": [round(value, 2) for value in idle],
            "without_server_seconds": [round(value, 2) for value in alone],
        }
    record("flow", ["dvc", "prefect", "torch"], figures)


if __name__ == "__main__":
    main()
