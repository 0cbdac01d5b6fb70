"""The lock writer of the flow against DVC's own: ``python -m benchmarks.speed.lock``.

A project with five trivial stages per dataset is run once. Its entries in ``dvc.lock`` are as long
as those of the default graph: 25 params and 20 files of code per stage. Then one stage is run again
by force, in pairs that alternate in order:

- plain: ``dvc repro --single-item --force``
- quick: the same with the lock writer of ``pipelines/engine/dvc_command.py``, as ``make flow`` does

Measured: seconds of a core per stage, and whether both leave the same ``dvc.lock``.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.record import record
from pipelines.engine.dvc_command import QUICK
from pipelines.engine.execute import DVC, environment

CHAIN = {"fetch": "", "embed": "fetch", "linear": "embed", "knn": "embed", "calibrate": "linear"}
STAGE = """
  {name}:
    foreach: ${{fetch}}
    do:
      cmd: mkdir -p data/{name} && echo {name} ${{key}} > data/{name}/${{key}}
      params: [{params}]
      deps: [{deps}]
      outs: ["data/{name}/${{key}}"]
"""


def make(folder: Path, datasets: int) -> None:
    """A git repository with the graph."""
    code = [f"code/m{number}.py" for number in range(20)]
    (folder / "code").mkdir(parents=True)
    for path in code:
        (folder / path).write_text(f"# {path}\n")
    keys = [f"k{number}" for number in range(25)]
    names = "".join(f"  d{number:02}: {{name: d{number}}}\n" for number in range(datasets))
    values = "".join(f"  {key}: {key}\n" for key in keys)
    (folder / "params.yaml").write_text(f"fetch:\n{names}options:\n{values}")
    text = "stages:"
    for name, need in CHAIN.items():
        deps = [*code, f'"data/{need}/${{key}}"'] if need else code
        params = [f"options.{key}" for key in keys]
        text += STAGE.format(name=name, params=", ".join(params), deps=", ".join(deps))
    (folder / "dvc.yaml").write_text(text)
    (folder / ".gitignore").write_text("/data/\n")
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=folder, check=True)


def repro(folder: Path, *words: str) -> float:
    """Seconds of a core that a command of DVC takes, with its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    variables = environment({"PYTHONPATH": os.getcwd()})
    done = subprocess.run(
        [*DVC, *words], cwd=folder, env=variables, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"error: {' '.join(words)} failed:\n{done.stdout}{done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.lock", description=__doc__)
    parser.add_argument("--datasets", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    seconds: dict[str, list[float]] = {"plain": [], "quick": []}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "project"
        make(folder, given.datasets)
        whole = repro(folder, QUICK, "repro")
        lock = (folder / "dvc.lock").read_bytes()
        for place in range(given.rounds):
            ways = [("plain", []), ("quick", [QUICK])]
            for name, words in ways if place % 2 == 0 else reversed(ways):
                command = [*words, "repro", "--single-item", "--force", "calibrate@d00"]
                seconds[name].append(repro(folder, *command))
        same = (folder / "dvc.lock").read_bytes() == lock
    figures = {
        "stages": given.datasets * len(CHAIN),
        "lines_of_dvc_lock": lock.count(b"\n"),
        "first_run_quick_seconds": round(whole, 1),
        "seconds_of_a_core": {
            name: [round(value, 2) for value in values] for name, values in seconds.items()
        },
        "medians": {name: round(statistics.median(values), 2) for name, values in seconds.items()},
        "same_bytes": same,
    }
    record(f"lock_{figures['stages']}", ["dvc"], figures)


if __name__ == "__main__":
    main()
