"""The metrics of runs: of experiments, read from git, and of runs recorded elsewhere."""

import io
import json
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pipelines.graph.experiment import seconds_of
from pipelines.graph.snapshot import git
from pipelines.study.judging.claims import Files, number_at
from pipelines.study.plan import Run
from stages.common import current, declared, layout

PARTS = (declared.PARAMS, declared.GRAPH, declared.LOCK, layout.METRICS)
TRAINING = "pretrain"  # the stage whose seconds are the cost of a method; others evaluate it


@dataclass(frozen=True)
class Result:
    """One run.

    files: its metrics by path. seconds: of the stages that ran, by name. commit: where it was
    recorded on another commit or machine.
    """

    files: Files
    seconds: Mapping[str, float]
    commit: str = ""

    def value(self, metric: str) -> float | None:
        """A number, such as metrics/linear.json:trained.accuracy_val; None where it is missing."""
        path, _, key = metric.partition(":")
        return number_at(self.files.get(path, {}), key)


@dataclass(frozen=True)
class Known:
    """The runs that have ended.

    references: git's reference by name, of the experiments on the last commit.
    recorded: by ``Run.key``. An experiment on the last commit counts before a recorded run.
    """

    references: Mapping[str, str]
    recorded: Mapping[str, Result]

    def has(self, run: Run) -> bool:
        return run.name in self.references or run.key in self.recorded

    def result(self, run: Run) -> Result | None:
        """None for a run that has not ended."""
        reference = self.references.get(run.name)
        return read(reference) if reference else self.recorded.get(run.key)


def references() -> dict[str, str]:
    """The experiments that stand on the last commit: git's reference by name."""
    head = git(Path(), "rev-parse", "HEAD").strip()
    folder = f"refs/exps/{head[:2]}/{head[2:]}/"
    listed = git(Path(), "for-each-ref", "--format=%(refname)", folder).splitlines()
    return {reference.removeprefix(folder): reference for reference in listed}


@cache
def read(reference: str) -> Result:
    """The metrics of an experiment, without those that are not of its own settings."""
    present = set(git(Path(), "ls-tree", "--name-only", reference).splitlines())
    names = [str(path) for path in PARTS if str(path) in present]
    archive = subprocess.run(
        ["git", "archive", "--format=tar", reference, "--", *names], capture_output=True, check=True
    ).stdout
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(folder, filter="data")
        stale = current.stale(folder)
        files = {}
        for path in sorted((folder / layout.METRICS).rglob("*.json")):
            name = str(path.relative_to(folder))
            if current.belongs(name, stale):
                files[name] = json.loads(path.read_text())
    return Result(files, seconds_of(reference))
