"""Stages below guards: codes, output, stopping, and what is left when something is killed."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipelines.engine.execute import Executor, Result
from pipelines.engine.machine import Lease
from pipelines.graph.dag import Stage
from tests.pipelines.projects import ROOT, until

pytestmark = pytest.mark.integration
LEASE = Lease(1, ())


@pytest.fixture
def folder(tmp_path, initialised, monkeypatch) -> Path:
    """A DVC project with a stage that sleeps, one that fails and one that tells its environment."""
    shutil.copytree(initialised, tmp_path, dirs_exist_ok=True)
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n"
        "  sleep: {cmd: 'echo $$ > pid; exec sleep 60'}\n"
        "  fail: {cmd: 'echo broken; exit 3'}\n"
        # cat ends: its input is empty
        "  tell: {cmd: 'cp tell.json .prosmin/read; echo told $CUDA_VISIBLE_DEVICES; cat'}\n"
    )
    (tmp_path / ".prosmin/read").mkdir(parents=True)
    (tmp_path / "tell.json").write_text('{"stage": "tell", "memory": 5}')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def sleeper(folder: Path) -> int:
    path = folder / "pid"
    return int(until(lambda: path.is_file() and path.read_text().strip()))


class Run(threading.Thread):
    """A stage that is run by a thread. lines: its output so far."""

    def __init__(self, executor: Executor, stage: str, lease: Lease = LEASE):
        super().__init__(daemon=True)
        self.lines: list[str] = []
        self._arguments = executor, stage, lease
        self.start()

    def run(self) -> None:
        executor, stage, lease = self._arguments
        self._result = executor.run(Stage(stage), lease, self.lines.append)

    def result(self) -> Result:
        self.join(timeout=60)
        return self._result


def test_each_stage_has_its_own_environment_output_and_code(folder):
    with Executor() as executor:
        runs = [
            Run(executor, "tell", Lease(1, ("one",))),
            Run(executor, "tell", Lease(1, ("two",))),
            Run(executor, "fail"),
        ]
        results = [run.result() for run in runs]
    assert [result.outcome for result in results] == ["ran", "ran", "failed"]
    assert [result.memory for result in results] == [5, 5, 0]
    assert "exited with 3" in results[2].reason
    assert "told one" in runs[0].lines and "told two" in runs[1].lines
    assert "broken" in runs[2].lines


def test_a_stopped_stage_ends_with_all_it_has_started(folder):
    with Executor() as executor:
        run = Run(executor, "sleep")
        pid = sleeper(folder)
        begun = time.monotonic()
        executor.stop()
        executor.stop()  # again is no harm
        assert run.result().outcome == "stopped" and gone(pid)
        assert time.monotonic() - begun < 30
        assert executor.run(Stage("tell"), LEASE).outcome == "stopped"


def test_the_processes_of_a_killed_guard_are_killed(folder):
    with Executor() as executor:
        run = Run(executor, "sleep")
        pid = sleeper(folder)
        os.kill(os.getsid(pid), signal.SIGKILL)
        assert run.result().outcome == "failed"
        until(lambda: gone(pid), 20)
        again = Run(executor, "tell", Lease(1, ("again",)))
        assert again.result().outcome == "ran" and "told again" in again.lines


def test_a_torn_note_of_dvc_is_repaired_and_the_stage_started_again(folder):
    (folder / "dvc.yaml").write_text("stages: {make: {cmd: 'echo made > out', outs: [out]}}\n")
    (folder / ".dvc/tmp").mkdir(exist_ok=True)
    (folder / ".dvc/tmp/rwlock").write_text('{"write": {')
    with Executor() as executor:
        run = Run(executor, "make")
        assert run.result().outcome == "ran", run.lines
    assert any("rwlock was torn" in line for line in run.lines)


PARENT = """
from pipelines.engine.execute import Executor
from pipelines.engine.machine import Lease
from pipelines.graph.dag import Stage
Executor().run(Stage("sleep"), Lease(1, ()))
"""


def test_nothing_is_left_when_the_parent_is_killed(folder):
    parent = subprocess.Popen([sys.executable, "-c", PARENT], cwd=folder)
    pid = sleeper(folder)
    parent.kill()
    parent.wait()
    until(lambda: gone(pid), 20)
    note = folder / ".dvc/tmp/rwlock"
    until(lambda: not note.exists() or "sleep" not in note.read_text())
