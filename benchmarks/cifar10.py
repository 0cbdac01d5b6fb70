"""The recipe of CIFAR-10: pretraining, then the whole suite.

    python -m benchmarks.cifar10 SETS

SETS is the folder of Parquet files that recipes/cifar10.yaml describes. In a fresh clone of the
last commit, with the recipe as its ``params.yaml``, it fetches and pretrains. Then the flow runs
every evaluation. The figures are the seconds of both, the largest memory of all processes of the
second together (RSS, sampled; shared memory counts once per process) and the headline numbers.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.record import record
from pipelines.engine.execute import environment
from pipelines.recipe import SETS
from stages.common.declared import PARAMS
from stages.common.headlines import rows
from stages.params.load import Params, load

RECIPE = Path("recipes/cifar10.yaml")
PAUSE = 0.25  # seconds between two looks at the memory


def recipe() -> Params:
    """The settings of the recipe."""
    return load(Path(__file__).parents[1] / RECIPE)


def flow(folder: Path, *stages: str) -> tuple[float, float]:
    """Seconds and GiB of ``python -m pipelines.run stages``."""
    begun, most = time.perf_counter(), 0
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.run", *stages],
        cwd=folder,
        env=environment(),
        stdout=sys.stderr,
    )
    while process.poll() is None:
        most = max(most, used(process.pid))
        time.sleep(PAUSE)
    if process.returncode:
        sys.exit(f"error: the flow failed ({process.returncode})")
    return time.perf_counter() - begun, most / 2**30


def used(pid: int) -> int:
    """Bytes of a process and of all that it has started."""
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    total = 0
    for member in family:
        try:
            total += member.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cifar10", description="The recipe of CIFAR-10."
    )
    parser.add_argument("sets", type=Path, help="the folder that the recipe calls sets/")
    parser.add_argument("--clone", type=Path, help="where to make the clone, which then stays")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.clone or Path(scratch) / "clone"
        subprocess.run(["git", "clone", "--quiet", ".", str(folder)], check=True)
        shutil.copy(folder / RECIPE, folder / PARAMS)
        (folder / SETS).symlink_to(given.sets.resolve())
        pretraining, _ = flow(folder, "pretrain")
        suite, memory = flow(folder)
        results = {
            row.label: {
                "value": row.value,
                "low": row.low,
                "high": row.high,
                "random": row.untrained,
            }
            for row in rows(load(folder / PARAMS), folder / "metrics")
        }
    figures = {
        "seconds": {"fetch_and_pretrain": round(pretraining, 1), "suite": round(suite, 1)},
        "memory_gib": round(memory, 2),
        "results": results,
    }
    record("cifar10", ["torch", "prefect", "dvc"], figures)


if __name__ == "__main__":
    main()
