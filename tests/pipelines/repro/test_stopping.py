"""A run that is stopped or killed, at any moment, leaves no process behind."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipelines.projects import ROOT, until
from tests.pipelines.repro.started import WAITS_LONG, WORKS, finish, start

WAITS = """
import time
from pathlib import Path
Path("half-written").write_text("")
try:
    print("waiting", flush=True)
    time.sleep(60)
finally:
    Path("half-written").unlink()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_being_stopped_reaches_the_stage_which_cleans_up(project, number, code):
    (project / "one.py").write_text(WAITS)
    process = start(project, "one")
    assert any(line == "waiting\n" for line in process.stdout)
    process.send_signal(number)
    assert finish(process)[0] == code
    assert not (project / "half-written").exists()
    assert not (project / "dvc.lock").exists()


def below(process: subprocess.Popen[str], folder: Path) -> dict[str, int]:
    """The process ids of a run: of its guard, of DVC and of the stage, once that runs."""
    stage = int(until(lambda: (folder / "pid").is_file() and (folder / "pid").read_text().strip()))
    line = [stage]
    while line[-1] != process.pid:
        line.append(int(Path(f"/proc/{line[-1]}/stat").read_text().rpartition(")")[2].split()[1]))
    return {"stage": stage, "dvc": line[-3], "guard": line[-2], "run": line[-1]}


def nothing_left(folder: Path) -> bool:
    """Whether no process has this folder as its current one, apart from zombies."""
    processes = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and os.readlink(entry / "cwd").startswith(str(folder)):
                processes.append(entry.name)
    return not processes


def test_whatever_is_killed_nothing_is_left(project):
    """Each run but the first starts in the folder that a killed run has left."""
    (project / "one.py").write_text(WAITS_LONG)
    for victim, number, code in (
        ("run", signal.SIGKILL, -9),
        ("run", signal.SIGHUP, 129),
        ("guard", signal.SIGKILL, 137),
        ("dvc", signal.SIGTERM, 143),
        ("dvc", signal.SIGKILL, 137),
    ):
        (project / "pid").unlink(missing_ok=True)
        process = start(project, "one")
        os.kill(below(process, project)[victim], number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == code, (victim, number, errors)
        until(lambda: nothing_left(project), 30)
    (project / "one.py").write_text(WORKS)
    assert (
        finish(start(project, "one"))[0] == 0
    )  # it waits for what is still ending, and finds no lock


def test_nohup_lets_a_run_outlive_its_terminal(project):
    (project / "two.py").write_text(
        "import os, signal, sys; os.kill(int(os.environ['RUN']), signal.SIGHUP)\n"
    )
    code = (
        "import os; os.environ['RUN'] = str(os.getpid()); "
        "from pipelines.repro import *; run('repro', main)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert (
        subprocess.run(
            ["nohup", sys.executable, "-c", code], cwd=project, env=environment
        ).returncode
        == 0
    )


@pytest.mark.skipif(not shutil.which("make"), reason="no make on the path")
def test_a_killed_make_ends_what_it_has_started(project):
    lines = (ROOT / "Makefile").read_text().splitlines()
    kept = [
        line
        for line in lines
        if line.startswith(
            ("in_venv", "run_in_venv", "\t@$(run_in_venv) python -m pipelines.repro")
        )
    ]
    assert len(kept) == 3
    (project / "Makefile").write_text("\n".join([*kept[:2], "repro:", kept[2], ""]))
    (project / "one.py").write_text(WAITS_LONG)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path}
    make = subprocess.Popen(
        ["make", "repro", "ARGS=one"], cwd=project, env=environment, stderr=subprocess.DEVNULL
    )
    until(lambda: (project / "pid").is_file() and (project / "pid").read_text().strip())
    make.kill()
    make.wait()
    until(lambda: nothing_left(project), 30)


TOLD_WHILE_IT_STARTS = """
import os, signal, subprocess, sys
init = subprocess.Popen.__init__
def started(self, *arguments, **options):
    init(self, *arguments, **options)
    os.kill(os.getpid(), signal.SIGTERM)
subprocess.Popen.__init__ = started
from pipelines.repro import main
from stages.common.command import run
sys.argv = ["repro", "one"]
run("repro", main)
"""


def test_a_signal_that_comes_while_dvc_is_started_is_not_lost(project):
    (project / "one.py").write_text(WAITS_LONG)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", TOLD_WHILE_IT_STARTS], cwd=project, env=environment, timeout=60
    )
    assert done.returncode == 143 and nothing_left(project)
