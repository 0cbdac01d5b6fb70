"""A run that is stopped or killed leaves no process, and a folder in which the next run goes on."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipelines.flows import server
from tests.pipelines.flows.test_graph_flow import outcomes
from tests.pipelines.projects import ROOT, Api, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]
BEFORE = {"source@a", "source@b"}


@pytest.mark.timeout(300)
def test_whatever_stops_a_run_or_its_stage_leaves_no_process_and_a_folder_that_goes_on(project):
    """Each fault leaves the same files, so the run at the end is the next run of all faults.

    While a run is at work, another run in its folder is refused.
    """
    left = None
    for victim, number, code in (
        ("run", signal.SIGINT, 130),
        ("run", signal.SIGTERM, 143),
        ("run", signal.SIGKILL, -9),
        ("stage", signal.SIGKILL, 1),
        ("stage", signal.SIGTERM, 1),
        ("guard", signal.SIGKILL, 1),
    ):
        project.record.unlink(missing_ok=True)
        run = project.start("-m", "pipelines.run", WAIT="middle")
        stage = project.wait_for("middle")
        if left is None:
            assert project.flow(expect=2) == (
                f"error: another run is at work in this folder (process {run.pid}); "
                "let it finish, or cancel it\n"
            )
        os.kill({"run": run.pid, "stage": stage, "guard": os.getsid(stage)}[victim], number)
        said = run.communicate(timeout=60)[1]
        assert run.returncode == code and "Traceback" not in said, said
        until(lambda pid=stage: not Path(f"/proc/{pid}").exists(), 10)
        until(lambda: not project.processes(), 15)
        if victim != "run":
            assert outcomes(said)["middle"] == "failed" and outcomes(said)["total"] == "blocked"
        if left is not None:  # this run had found what the one before it had done
            assert {
                name for name, outcome in outcomes(said).items() if outcome == "skipped"
            } == BEFORE
        assert left in (None, project.left())
        left = project.left()
        assert "middle" not in left["dvc.lock"].decode()
    again = outcomes(project.flow())
    assert {name for name, outcome in again.items() if outcome == "skipped"} == BEFORE
    assert {name for name, outcome in again.items() if outcome == "ran"} == set(again) - BEFORE
    assert "up to date" in project.run("dvc", "status")


def test_a_server_that_restarts_in_the_middle_of_a_run_loses_nothing(project, tmp_path, new_home):
    home = new_home(tmp_path / "home")
    port = server.free_port()
    with serving(home, port) as api:
        run = project.start(
            "-m", "pipelines.run", WAIT="middle", PREFECT_HOME=home, **variables(api)
        )
        project.wait_for("middle")
    with serving(home, port) as api:
        (known,) = api.runs("RUNNING")
        project.go()
        output, errors = run.communicate(timeout=100)
        assert run.returncode == 0 and "Traceback" not in errors, output + errors
        assert api.state(known["id"]) == "COMPLETED"
        assert len(api.artifacts(known["id"])["stages"]["data"]) > 100
        quick = {
            "PREFECT_CLIENT_MAX_RETRIES": "0"
        }  # else it would wait minutes for the server to come back
        project.go_file.unlink()
        quick |= {"PREFECT_HOME": home} | variables(api)
        project.record.unlink()
        last = project.start("-m", "pipelines.run", "--force", "middle", WAIT="middle", **quick)
        project.wait_for("middle")
    assert set(outcomes(errors).values()) == {"ran"} and len(outcomes(errors)) == 6
    project.go()
    output, errors = last.communicate(timeout=100)
    assert last.returncode == 0, output + errors
    assert (
        "has gone, so the page of this run is not complete; "
        "2 of 2 stages are done, as dvc.lock says" in errors
    )
    assert "up to date" in project.run("dvc", "status")


@contextmanager
def serving(home, port):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", home)
        patch.setenv("PREFECT_SERVER_API_AUTH_STRING", "somebody:the same after a restart")
        with server.started(port, ui=False) as here:
            yield Api(here.api, here.password)


def variables(api):
    return {"PREFECT_API_URL": api.url, "PREFECT_API_AUTH_STRING": api.password}


GUARD = ROOT / "pipelines/engine/guard.py"
# A command that starts a process in a session of its own, as multi-GPU launchers do.
ESCAPES = (
    "import subprocess, time; p = subprocess.Popen(['sleep', '60'], start_new_session=True); "
    "print(p.pid, flush=True); time.sleep({})"
)


SWALLOWS = """
import signal, sys, time
from pipelines import run
run.STOPPING = 0.5

def body():
    try:
        print("ready", flush=True)
        time.sleep(60)
    except BaseException:
        time.sleep(60)

run.command(body)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_run_ends_when_it_is_told_to_even_if_some_code_swallows_that(number):
    run = subprocess.Popen(
        [sys.executable, "-c", SWALLOWS], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert run.stdout.readline() == "ready\n"
    run.send_signal(number)
    assert run.wait(timeout=30) == 128 + number


@pytest.mark.parametrize("way", ["stdin closes", "SIGTERM", "the command ends"])
def test_the_guard_leaves_nothing_behind(way):
    seconds = 0 if way == "the command ends" else 60
    guard = subprocess.Popen(
        [sys.executable, "-I", str(GUARD), sys.executable, "-c", ESCAPES.format(seconds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    escaped = int(guard.stdout.readline())
    if way == "stdin closes":
        guard.stdin.close()
    elif way == "SIGTERM":
        guard.terminate()
    assert (
        guard.wait(timeout=20) == {"stdin closes": 129, "SIGTERM": 143, "the command ends": 0}[way]
    )
    assert not Path(f"/proc/{escaped}").exists()


@pytest.mark.parametrize("milliseconds", [0, 10, 20, 30, 40])
def test_an_interrupt_while_python_starts_is_a_line(milliseconds):
    """The guard interrupts the command soon after it has started it."""
    guard = subprocess.Popen(
        [sys.executable, "-I", str(GUARD), sys.executable, "-m", "pipelines.clean", "--help"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not Path(f"/proc/{guard.pid}/task/{guard.pid}/children").read_text():
        time.sleep(0.001)
    time.sleep(milliseconds / 1000)
    guard.stdin.close()
    assert guard.stderr.read() == "interrupted before anything was begun\n"
    assert guard.wait(timeout=20) == 129


def test_the_guard_hands_on_the_code_of_its_command():
    for command, code in (("exit 3", 3), ("kill -9 $$", 137)):
        assert (
            subprocess.Popen(
                [sys.executable, "-I", str(GUARD), "sh", "-c", command], stdin=subprocess.PIPE
            ).wait()
            == code
        )
    done = subprocess.Popen(
        [sys.executable, "-I", str(GUARD), "no-such-command"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert (done.wait(), done.stderr.read()) == (
        127,
        "error: no-such-command cannot be started: No such file or directory\n",
    )


def test_a_command_that_ignores_the_interrupt_is_killed_when_the_grace_is_over():
    begun = time.monotonic()
    guard = subprocess.Popen(
        [
            sys.executable,
            "-I",
            str(GUARD),
            "sh",
            "-c",
            "trap '' INT TERM HUP; echo ready; sleep 60; sleep 60",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    guard.stdout.readline()
    guard.stdin.close()
    assert guard.wait(timeout=30) == 129
    assert time.monotonic() - begun > 4
