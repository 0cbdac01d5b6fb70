"""The dashboard with a server and a worker of its own: a schedule fires, a run is cancelled, nothing outlives it."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from pipelines.server import free_port
from tests.pipelines.conftest import ROOT, Api, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]
DEPLOYMENTS = """
deployments:
  - {name: minutely, entrypoint: pipelines/flow.py:run_graph, work_pool: {name: prosmin},
     schedules: [{cron: "* * * * *", timezone: UTC}], parameters: {stages: [source]}}
  - {name: settings, entrypoint: pipelines/flow.py:run_graph, work_pool: {name: prosmin}}
"""


@pytest.fixture
def dashboard(project, new_home):
    """A project with a copy of the pipelines, and its dashboard: (project, process, API)."""
    for name in ("pipelines", "prosmin", "stages"):
        shutil.copytree(ROOT / name, project.folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (project.folder / ".gitignore").write_text("/results/\n/.prosmin/\n__pycache__/\n")
    (project.folder / "prefect.yaml").write_text(DEPLOYMENTS)
    project.commit()
    new_home(project.folder / ".prosmin/prefect")
    for name in ("PREFECT_API_URL", "PREFECT_HOME", "PYTHONPATH"):
        project.variables.pop(name)
    port = free_port()
    process = project.start("-m", "pipelines.dashboard", "--port", str(port))
    try:
        line = until(lambda: process.stdout.readline() if process.poll() is None else "ended", 90)
        while "Dashboard:" not in line:
            assert process.poll() is None, process.stderr.read()
            line = process.stdout.readline()
        yield project, process, Api(f"http://127.0.0.1:{port}/api")
    finally:
        process.kill()
        process.communicate()


def test_a_schedule_fires_a_run_is_cancelled_and_ctrl_c_ends_everything(dashboard):
    project, process, api = dashboard
    run = api.start("settings", changes=["pretrain.epochs=777"], name="cancelled")
    stage = project.wait_for("middle")
    assert project.run("pipelines.dashboard", expect=2).startswith(
        "error: the dashboard of this folder is running already"
    )
    api.call(f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    until(lambda: not Path(f"/proc/{stage}").exists(), 30)
    until(lambda: api.state(run) == "CANCELLED", 30)
    assert not list((project.folder / ".prosmin/experiments").iterdir())
    assert "cancelled" not in project.run("dvc", "exp", "list")

    (fired,) = until(lambda: api.runs("COMPLETED"), 90)
    assert fired["auto_scheduled"]
    assert {path.name for path in (project.folder / "results/source").iterdir()} == {"a", "b"}
    assert {"stages", "stages-done", "metrics-against-last-commit"} <= set(api.artifacts(fired["id"]))

    process.send_signal(signal.SIGINT)
    process.wait(timeout=30)
    until(lambda: not project.processes(), 15)
    assert project.git("status", "--short").split() == ["??", "dvc.lock"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_that_is_killed_or_stopped_leaves_no_process(dashboard, number):
    project, process, api = dashboard
    api.start("settings", changes=["pretrain.epochs=777"])
    stage = project.wait_for("middle")
    worker = next(
        int(each.split(":")[0]) for each in project.processes() if "worker start" in each and "guard.py" not in each
    )
    os.kill(worker, number)
    assert process.wait(timeout=60) == 2
    assert "the worker ended by itself" in process.stderr.read()
    assert not Path(f"/proc/{stage}").exists()
    until(lambda: not project.processes(), 15)


def test_a_port_in_use_is_one_sentence(project):
    port = int(project.variables["PREFECT_API_URL"].split(":")[2].split("/")[0])
    shutil.copy(ROOT / "prefect.yaml", project.folder)
    said = project.run("pipelines.dashboard", "--port", str(port), expect=2)
    assert said == f"error: port {port} is in use; name another one, such as: make dashboard PORT={port + 1}\n"
