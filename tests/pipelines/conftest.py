"""A small real DVC project to run, and a real Prefect server to run it against."""

import contextlib
import fcntl
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.pipelines.projects import Project

# Services of Prefect's server for schedules and workers, of which the shared server has none. They
# take half of the CPU of a server that waits.
SERVICES = "CANCELLATION_CLEANUP CLEANUP_RECONCILER FOREMAN LATE_RUNS PAUSE_EXPIRATIONS REPOSSESSOR"
SERVICES += " SCHEDULER TRIGGERS"


@pytest.fixture(scope="session")
def common(tmp_path_factory) -> Path:
    """A folder of all workers of this run of pytest."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def initialised(tmp_path_factory) -> Path:
    """A repository as `git init` and `dvc init` leave it, to be copied."""
    folder = tmp_path_factory.mktemp("initialised") / "project"
    subprocess.run(["git", "init", "-q", folder], check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=folder, check=True)
    return folder


@pytest.fixture(scope="session")
def prefect_home(common) -> Path:
    folder = common / "prefect"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def empty_database(common) -> Path:
    """The path of Prefect's database before the first run. ``api`` makes it: Prefect takes 7 s."""
    return common / "empty.db"


@pytest.fixture(scope="session")
def api(prefect_home, empty_database) -> Iterator[dict[str, str]]:
    """Variables of Prefect's client for a server that all workers share.

    A server takes 7 s of CPU to start and 2 % of a core while it waits. The worker that needs it
    first starts it and keeps it until no other uses it.
    """
    note, users = prefect_home / "variables.json", prefect_home / "users"
    users.mkdir(exist_ok=True)
    me = users / str(os.getpid())
    with contextlib.ExitStack() as running:
        with locked(prefect_home):
            me.touch()
            if not (own := not note.is_file()):
                variables = json.loads(note.read_text())
            else:
                shared = running.enter_context(serving_tests(prefect_home))
                if not empty_database.is_file():
                    keep(prefect_home / "prefect.db", empty_database)
                variables = shared.variables()
                note.write_text(json.dumps(variables))
        yield variables
        me.unlink()
        while own:
            with locked(prefect_home):
                if not any(psutil.pid_exists(int(user.name)) for user in users.iterdir()):
                    note.unlink()
                    break
            time.sleep(0.2)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def serving_tests(home: Path) -> Iterator[Any]:
    """Run a server whose files lie in ``home``; this process keeps its variables."""
    from pipelines.flows import server

    before = dict(os.environ)
    os.environ["PREFECT_HOME"] = str(home)
    for name in SERVICES.split():
        os.environ[f"PREFECT_SERVER_SERVICES_{name}_ENABLED"] = "false"
    with contextlib.chdir(home):
        server.settle()
    with server.started(server.free_port()) as shared:
        os.environ.clear()  # what starts from here on sets itself up
        os.environ.update(before)
        yield shared


def keep(database: Path, copy: Path) -> None:
    """Copy a database that is in use, with its mode."""
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    shutil.copymode(database, copy)


@pytest.fixture(scope="session")
def new_home(api, empty_database) -> Callable[[Path], str]:
    """Makes the home of another server, with an empty database."""

    def make(folder: Path) -> str:
        folder.mkdir(parents=True)
        shutil.copy(empty_database, folder / "prefect.db")
        return str(folder)

    return make


@pytest.fixture(scope="session")
def reporting(api, prefect_home) -> Callable[[Path], Project]:
    """Makes a project in a folder. Its runs report to the server that all tests share."""
    variables = api | {"PREFECT_HOME": str(prefect_home), "PROSMIN_CORES": "2"}
    return lambda folder: Project(folder / "a project", variables)


@pytest.fixture
def project(tmp_path, reporting) -> Project:
    return reporting(tmp_path)
