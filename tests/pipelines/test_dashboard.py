"""The dashboard with a server and a worker of its own.

A schedule fires, a run is cancelled, nothing outlives the dashboard, nobody else gets in.
"""

import asyncio
import os
import pty
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import websockets

from pipelines.flows.server import free_port
from tests.pipelines.projects import ROOT, Api, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]
DEPLOYMENTS = """
deployments:
  - name: minutely
    entrypoint: pipelines/flows/graph_flow.py:run_graph
    work_pool: {name: prosmin}
    schedules: [{cron: "* * * * *", timezone: UTC}]
    parameters: {stages: [source]}
  - name: settings
    entrypoint: pipelines/flows/graph_flow.py:run_graph
    work_pool: {name: prosmin}
"""


@pytest.fixture
def dashboard(project, new_home):
    """A project with a copy of the pipelines, and its dashboard: (project, process, API)."""
    for name in ("pipelines", "prosmin", "stages"):
        shutil.copytree(
            ROOT / name, project.folder / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    (project.folder / ".gitignore").write_text("/results/\n/.prosmin/\n__pycache__/\n")
    (project.folder / "prefect.yaml").write_text(DEPLOYMENTS)
    project.commit()
    new_home(project.folder / ".prosmin/prefect")
    for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "PREFECT_HOME", "PYTHONPATH"):
        project.variables.pop(name)
    port = free_port()
    process = project.start("-m", "pipelines.dashboard", "--port", str(port))
    said = []
    try:
        while not said or "Ctrl-C" not in said[-1]:
            assert process.poll() is None, process.stderr.read()
            said.append(process.stdout.readline())
        password = (project.folder / ".prosmin/password").read_text()
        project.greeting = "".join(said)
        yield project, process, Api(f"http://127.0.0.1:{port}/api", password)
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
    assert {"stages", "stages-done", "metrics-against-last-commit"} <= set(
        api.artifacts(fired["id"])
    )

    process.send_signal(signal.SIGINT)
    process.wait(timeout=30)
    until(lambda: not project.processes(), 15)
    assert project.git("status", "--short").split() == ["??", "dvc.lock"]


def test_nobody_but_the_user_who_started_it_gets_in(dashboard, tmp_path, prefect_home):
    project, process, api = dashboard
    deployment = api.call("/deployments/name/graph/settings")["id"]
    run, attack = (
        f"/deployments/{deployment}/create_flow_run",
        {"job_variables": {"command": f"touch {tmp_path / 'pwned'}"}},
    )
    nobody, guesser = Api(api.url, None), Api(api.url, "prosmin:guess")
    evil = {"Origin": "http://evil.example"}
    port = api.url.split(":")[2].split("/")[0]
    rebound = {"Host": f"evil.example:{port}", "Origin": f"http://evil.example:{port}"}
    own = {"Origin": api.url.removesuffix("/api")}

    for other in (
        nobody,
        guesser,
    ):  # another user of the machine; a page that gets as far as sending something
        for headers in ({}, own, {"Content-Type": "text/plain"}):
            assert other.status(run, attack, **headers) == 401
        assert other.status("/flow_runs/filter", {}) == other.status("/logs/filter", {}) == 401
    for caller in (
        nobody,
        guesser,
        api,
    ):  # a browser that knows the password does not lend it to another page
        for headers in (evil, {"Origin": "null"}, {"Origin": f"http://127.0.0.1:{int(port) + 1}"}):
            assert caller.status(run, attack, **headers) == 403
            assert (
                caller.status(
                    run, method="OPTIONS", **headers, **{"Access-Control-Request-Method": "POST"}
                )
                == 403
            )
        assert (
            caller.status(run, attack, **rebound)
            == caller.status("/health", Host="evil.example")
            == 400
        )
        assert caller.status("/../sign-in", Host=f"evil.example:{port}") == 400
    preflight = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    assert nobody.status(run, method="OPTIONS", **own, **preflight) == 200

    async def listen(**settings):
        async with websockets.connect(
            f"ws://127.0.0.1:{port}/api/events/out", **settings
        ) as socket:
            await socket.send('{"type": "auth", "token": "guess"}')
            await socket.recv()

    for settings in (
        {"origin": "http://evil.example", "subprotocols": ["prefect"]},
        {},
        {"subprotocols": ["prefect"]},
    ):
        with pytest.raises(websockets.WebSocketException):
            asyncio.run(listen(**settings))

    # Not even the user starts another command than the flow's, so no page ever reaches a shell.
    for variables in (
        attack["job_variables"],
        {"env": {"LD_PRELOAD": "/tmp/x.so"}},
        {"working_dir": "/"},
    ):
        assert api.status(run, {"job_variables": variables}) == 422
    assert api.status(run, {"parameters": {"stages": ["source"]}}, **own) == 201
    assert not (tmp_path / "pwned").exists()

    kept = project.folder / ".prosmin"
    assert kept.stat().st_mode & 0o777 == 0o700
    for path in (kept / "password", kept / "sign-in.html", prefect_home / "prefect.db"):
        assert path.stat().st_mode & 0o077 == 0, path
    secret = (kept / "password").read_text()
    assert not [line for line in project.processes() if secret.partition(":")[2] in line]
    assert secret.partition(":")[2] not in project.greeting

    report = next(
        line for line in project.greeting.splitlines() if line.startswith("Report:")
    ).split()[1]
    (project.folder / "results/report").mkdir(parents=True, exist_ok=True)
    (project.folder / "results/report/index.html").write_text("the report")
    assert urllib.request.urlopen(report).read() == b"the report"
    site, _, _ = report.removesuffix("/index.html").rpartition("/")
    for path in ("/index.html", "/", "//index.html", "/guess/index.html"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(site + path)

    export = next(line for line in project.greeting.splitlines() if "export " in line)
    listed = subprocess.run(
        ["bash", "-c", f"{export}\nexec prefect deployment ls"],
        cwd=project.folder,
        env=project.variables,
        capture_output=True,
        text=True,
    )
    assert "graph/settings" in listed.stdout, listed.stdout + listed.stderr


@pytest.mark.parametrize("screen", [{}, {"DISPLAY": ":7"}])
def test_the_browser_is_opened_where_somebody_sees_it(tmp_path, screen):
    opened = tmp_path / "opened"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {opened}.part && mv {opened}.part {opened}\n')
    browser.chmod(0o755)
    reader, terminal = pty.openpty()
    code = (
        "import time; from pipelines.dashboard import show; "
        "show('file:///a/page.html'); time.sleep(2)"
    )
    variables = {
        name: value
        for name, value in os.environ.items()
        if name not in ("DISPLAY", "WAYLAND_DISPLAY")
    }
    for output in (terminal, subprocess.DEVNULL):
        command = [sys.executable, "-c", code]
        subprocess.run(
            command,
            cwd=ROOT,
            env={**variables, **screen, "BROWSER": str(browser)},
            stdout=output,
            check=True,
        )
        assert opened.is_file() == bool(screen and output == terminal)
        opened.unlink(missing_ok=True)
    os.close(reader)
    os.close(terminal)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_that_is_killed_or_stopped_leaves_no_process(dashboard, number):
    project, process, api = dashboard
    api.start("settings", changes=["pretrain.epochs=777"])
    stage = project.wait_for("middle")
    worker = next(
        int(line.split(":")[0])
        for line in project.processes()
        if "worker start" in line and "guard.py" not in line
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
    assert (
        said == f"error: port {port} is in use; "
        f"name another one, such as: make dashboard PORT={port + 1}\n"
    )
