"""``make repro PARAMS=recipes/cifar10.yaml``: run another file of settings than ``params.yaml``.

``python -m pipelines.recipe repro|run|plan FILE [arguments]`` hands its arguments to
``pipelines.repro``, ``pipelines.run`` or ``pipelines.plan`` and exits with their code. The run has
a folder of its own, ``runs/<name of the file>``: a clone with the uncommitted changes of tracked
files, in which FILE is ``params.yaml``. Your ``params.yaml``, results and record stay as they are.
The folder shares the cache of DVC and keeps its results, so that the same command goes on where the
run was stopped.

Relative paths in FILE start in the folder of the run, where ``sets`` is a link to ``sets`` here.
"""

import os
import shutil
import sys
from pathlib import Path
from typing import NoReturn

from pipelines.graph.snapshot import clone_at, commits_of, git, take_snapshot
from prosmin.common.errors import UserError, listed
from stages.common.declared import LOCK, PARAMS
from stages.common.layout import METRICS, PLOTS, SUMMARY
from stages.params.load import load

COMMANDS = ("repro", "run", "plan")
RUNS = Path("runs")
SETS = Path("sets")

# The ``make`` that started this process, which the command watches in its turn.
MAKE = {name: value for name, value in os.environ.items() if name == "PROSMIN_MAKE"}

# What the run itself writes; new code comes without touching it.
RECORD = (str(LOCK), *map(str, (METRICS, PLOTS, SUMMARY)))


def main(command: str, file: str, *arguments: str) -> NoReturn:
    """Run FILE. The command takes the place of this process, with its signals and exit code."""
    folder = prepare(Path(file))
    print(f"{file} runs in {folder}, with its report in {folder}/results/report", flush=True)
    os.chdir(folder)
    os.environ |= MAKE
    os.execv(sys.executable, [sys.executable, "-m", f"pipelines.{command}", *arguments])


def prepare(file: Path) -> Path:
    """Make the folder of a run, or bring it up to date; returns the folder.

    Raises ``UserError`` for a file that is missing or wrong.
    """
    if not file.is_file():
        there = sorted(str(path) for path in Path("recipes").glob("*.yaml"))
        raise UserError(f"{file} does not exist; there are: {listed(there)}")
    load(file)  # faults are reported before anything is made
    origin, folder = Path.cwd(), RUNS / file.stem
    commit, edits = commits_of(take_snapshot())
    if not (folder / ".git").exists():
        shutil.rmtree(folder, ignore_errors=True)  # of a clone that was killed
        part = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        RUNS.mkdir(exist_ok=True)
        clone_at(origin, part, commit)
        part.rename(folder)
    git(folder, "reset", "--quiet", "--mixed", commit)
    keep = [f":(exclude){path}" for path in (*RECORD, PARAMS)]
    git(folder, "restore", "--source", edits or commit, "--worktree", "--", ".", *keep)
    shutil.copy(file, folder / PARAMS)
    link = folder / SETS
    if SETS.exists() and not link.is_symlink():
        link.symlink_to((origin / SETS).resolve())
    load(folder / PARAMS)  # with the keys that dvc.yaml names, too
    return folder


if __name__ == "__main__":
    from pipelines.run import command

    if len(sys.argv) < 3 or sys.argv[1] not in COMMANDS:
        sys.exit(f"usage: python -m pipelines.recipe {'|'.join(COMMANDS)} FILE [arguments]")
    command(lambda: main(*sys.argv[1:]))
