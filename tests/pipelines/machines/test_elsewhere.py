"""Stages of a run that go to a worker, on a real server: its clone shares no folder with ours."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.engine.execute import Executor
from pipelines.engine.machine import Machine
from pipelines.graph.dag import Stage
from pipelines.machines.elsewhere import ELSEWHERE, SHORTEST, Elsewhere
from tests.pipelines.projects import ROOT, Project

LINKED = ("pipelines", "prosmin", "stages")


class Workers:
    """Stands for the pool: so many workers are there."""

    def __init__(self, count: int):
        self.online = lambda: count


def test_a_stage_without_room_here_goes_to_a_worker_that_is_there():
    room = Elsewhere(
        Workers(1), Machine(1, cores=1, gpus=(), memory=2**40), Executor(), {"short": 1.0}
    )
    first, second, third = (Stage(name, needs=("middle",)) for name in ("a", "b", "c"))
    here = room.lease(first)
    assert here and not here.elsewhere
    assert room.lease(Stage("source")) is None  # what it reads is on this machine alone
    assert room.lease(Stage("pretrain", needs=("source",), gpus="all")) is None
    assert room.lease(Stage("short", needs=("middle",))) is None  # not worth it
    assert room.lease(second) is ELSEWHERE and room.lease(third) is None
    room.release(second, ELSEWHERE)
    assert room.lease(third) is ELSEWHERE and SHORTEST > 1.0
    room.release(first, here)
    assert not room.lease(first).elsewhere
    nobody = Elsewhere(Workers(0), Machine(1, cores=1, gpus=(), memory=2**40), Executor(), {})
    assert nobody.lease(first) and nobody.lease(second) is None


@pytest.fixture
def desk(tmp_path, api) -> Project:
    """A project with a bare repository and a DVC remote, whose sources are made."""
    (tmp_path / "one").mkdir()
    project = Project(tmp_path / "one/a project", api | {"PROSMIN_CORES": "1"})
    folder = project.folder
    for name in LINKED:
        (folder / name).symlink_to(ROOT / name)
    with open(folder / ".dvc/config", "a") as config:
        config.write(f"    remote = stored\n['remote \"stored\"']\n    url = {tmp_path}/stored\n")
    project.commit()
    bare = str(tmp_path / "code.git")
    project.git("init", "--quiet", "--bare", "-b", "main", bare)
    project.git("remote", "add", "origin", bare)
    project.git("push", "--quiet", "origin", "main")
    for name, value in (("name", "test"), ("email", "test@example.org")):
        project.git("config", f"user.{name}", value)
    return project


@contextlib.contextmanager
def worker(desk: Project, **variables: str) -> Iterator[Path]:
    """A worker in a clone of its own while the block runs; yields the record of its stages."""
    home = desk.folder.parents[1] / "two"
    home.mkdir(exist_ok=True)
    clone = home / "a clone"
    if not clone.exists():
        subprocess.run(["git", "clone", "--quiet", home.parent / "code.git", clone], check=True)
    own = {
        "RECORD": str(home / "record"),
        "PREFECT_HOME": str(home / "prefect"),
    }
    command = ["-m", "pipelines.worker", desk.variables["PREFECT_API_URL"], "--pool", "elsewhere"]
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=clone,
        env={**desk.variables, **own, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        for line in process.stdout:
            if "serves the queue" in line:
                break
        yield home / "record"
    finally:
        process.terminate()
        said, _ = process.communicate(timeout=60)
    assert not os.path.exists(clone / ".prosmin/experiments") or not any(
        (clone / ".prosmin/experiments").iterdir()
    ), said


@pytest.mark.integration
@pytest.mark.machines
@pytest.mark.timeout(240)
def test_a_run_with_a_worker_leaves_what_a_run_on_one_machine_leaves(desk, api):
    desk.run("pipelines.repro")
    alone = desk.left()
    desk.git("reset", "--quiet", "--hard")
    for path in alone:
        (desk.folder / path).unlink(missing_ok=True)
    shutil.rmtree(desk.folder / ".dvc/cache")
    desk.record.unlink()
    with worker(desk) as theirs:
        desk.flow("--pool", "elsewhere", "--workers", "1")
        assert sorted(desk.left()) == sorted(alone) and desk.left() == alone
    assert desk.git("for-each-ref", "refs/exps") == ""
    assert desk.git("ls-remote", "origin", "refs/exps/*", "refs/sweeps/*") == ""
    there = {line.split('"')[3] for line in theirs.read_text().splitlines()}
    here = {line["stage"] for line in desk.recorded()}
    assert there == {"leaf@two"} and not there & here  # the first leaf takes the only place here
    assert "6 skipped" in desk.flow()

    # A stage that fails there runs here.
    text = (desk.folder / "params.yaml").read_text()
    (desk.folder / "params.yaml").write_text(text.replace("k: [1,", "k: [2,", 1))
    (desk.folder / ".prosmin/seconds.json").unlink()
    with worker(desk, BREAK=there.pop()) as theirs:
        desk.flow("--pool", "elsewhere", "--workers", "1")
    assert len(theirs.read_text().splitlines()) == 3  # it began, and did not end
    assert [line["stage"] for line in desk.recorded()].count("leaf@two") == 2
