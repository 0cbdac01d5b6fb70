"""A sweep over two workers on hosts of their own: the results are those of one machine."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.pipelines import hosts
from tests.pipelines.flows.test_grid import RANK
from tests.pipelines.projects import ROOT, Project, until
from tests.pipelines.ssh_server import new_key

pytestmark = [
    pytest.mark.integration,
    pytest.mark.machines,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(reason := hosts.reason()), reason=reason),
]
SECRET = "prosmin:a-long-password-of-the-test"
PORT, SSH = 4200, 2222
# The first point waits in its stage until a file is there. The third cannot work.
SWEEP = f"""
grid: {{pretrain.epochs: [777, 6, -1]}}
rank: {RANK}
stages: [leaf@one]
"""


class Machines:
    """A desk with a project, its bare repository, its DVC remote and a server, and two workers."""

    def __init__(self, made: list[hosts.Host]):
        self.desk, *self.workers = made
        self.project = Project(self.desk.folder / "a project", {})
        self.bare, self.stored = self.desk.folder / "code.git", self.desk.folder / "stored"
        self.started: dict[str, subprocess.Popen[str]] = {}
        self.said: dict[str, list[str]] = {}
        self._fill()

    def _fill(self) -> None:
        """The project as it is on the desk, which has made its sources already."""
        folder = self.project.folder
        for name in ("pipelines", "prosmin", "stages"):
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, folder / name, ignore=ignore)
        (folder / ".gitignore").write_text("/results/\n/.prosmin/\n__pycache__/\n")
        (folder / "requirements.lock").write_text("prefect\n")
        (folder / "prefect.yaml").write_text("deployments: []\n")
        (folder / "epochs.yaml").write_text(SWEEP)
        remote = f"ssh://root@{self.desk.address}:{SSH}{self.stored}"
        with open(folder / ".dvc/config", "a") as config:
            config.write(f"    remote = stored\n['remote \"stored\"']\n    url = {remote}\n")
        # Each machine has its own way to the remotes: here they are folders.
        config = f"['remote \"stored\"']\n    url = {self.stored}\n"
        (folder / ".dvc/config.local").write_text(config)
        self.on_desk("dvc", "repro", "--quiet", "source")
        self.project.commit()
        self.project.git("init", "--quiet", "--bare", "-b", "main", str(self.bare))
        self.project.git("remote", "add", "origin", str(self.bare))
        self.project.git("push", "--quiet", "origin", "main")
        self.project.git("gc", "--quiet")

    def on_desk(self, *command: str, expect: int | None = 0) -> str:
        return self.desk.run(*command, cwd=self.project.folder, expect=expect)

    def start(self, name: str, host: hosts.Host, *command: str, cwd: Path) -> None:
        """Start a process and keep its lines."""
        process, lines = host.start(*command, cwd=cwd), []
        self.started[name], self.said[name] = process, lines
        threading.Thread(target=lambda: lines.extend(process.stdout), daemon=True).start()

    def wait_for(self, name: str, words: str) -> None:
        def said() -> bool:
            assert self.started[name].poll() is None, "".join(self.said[name])
            return any(words in line for line in self.said[name])

        until(said, 240)

    def serve(self) -> None:
        """Start SSH and the dashboard on the desk."""
        key = new_key(self.desk.folder / "host_key")
        keys = [new_key(worker.folder / "key") for worker in self.workers]
        allowed = self.desk.folder / "allowed"
        allowed.write_text("".join(key.with_suffix(".pub").read_text() for key in keys))
        known = f"[{self.desk.address}]:{SSH} {key.with_suffix('.pub').read_text()}"
        for worker in self.workers:
            (worker.folder / ".ssh").mkdir()
            (worker.folder / ".ssh/known_hosts").write_text(known)
        script = str(ROOT / "tests/pipelines/ssh_host.py")
        given = (self.desk.address, str(SSH), str(key), str(allowed))
        folder = self.project.folder
        self.start("ssh", self.desk, sys.executable, script, *given, cwd=folder)
        # The workers have no name for their user.
        for role in ("AUTHOR", "COMMITTER"):
            self.desk.variables[f"GIT_{role}_NAME"] = "test"
            self.desk.variables[f"GIT_{role}_EMAIL"] = "test@example.org"
        self.desk.variables |= {
            "PREFECT_API_URL": self.server,
            "PREFECT_API_AUTH_STRING": SECRET,
            "PREFECT_SERVER_API_AUTH_STRING": SECRET,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_UI_ENABLED": "false",
            "PREFECT_SERVER_LOGGING_LEVEL": "INFO",  # for the line that it is up
            "PREFECT_HOME": str(folder / ".prosmin/prefect"),
        }
        module = ("-m", "pipelines.flows.local_server", self.desk.address, str(PORT))
        self.start("server", self.desk, sys.executable, *module, cwd=folder)
        self.wait_for("ssh", "ready")

    def clone(self, worker: hosts.Host) -> Path:
        """Clone the project on a worker, with its keys for both remotes."""
        home, folder = worker.folder, worker.folder / "a clone"
        # OpenSSH reads no HOME.
        options = f"-o UserKnownHostsFile={home}/.ssh/known_hosts -i {home}/key"
        (home / "bin").mkdir()
        (home / "bin/ssh").write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} {options} "$@"\n')
        (home / "bin/ssh").chmod(0o755)
        worker.variables |= {
            "PATH": f"{home}/bin{os.pathsep}{worker.variables['PATH']}",
            "RECORD": str(home / "record"),
            "PREFECT_API_AUTH_STRING": SECRET,
            "PREFECT_WORKER_QUERY_SECONDS": "1",
        }
        url = f"ssh://root@{self.desk.address}:{SSH}{self.bare}"
        worker.run("git", "clone", "--quiet", url, str(folder))
        (folder / ".dvc/config.local").write_text(
            f"['remote \"stored\"']\n    keyfile = {home / 'key'}\n"
        )
        return folder

    def work(self, worker: hosts.Host) -> None:
        command = (sys.executable, "-m", "pipelines.worker", self.server, "--name", worker.name)
        self.start(worker.name, worker, *command, cwd=worker.folder / "a clone")

    @property
    def server(self) -> str:
        return f"http://{self.desk.address}:{PORT}/api"

    def waiting(self) -> hosts.Host | None:
        """The worker whose stage waits for its file."""
        for worker in self.workers:
            record = worker.folder / "record"
            lines = record.read_text().splitlines() if record.is_file() else []
            stages = [json.loads(line) for line in lines]
            begun = [line for line in stages if line["stage"] == "middle" and "begin" in line]
            ended = [line for line in stages if line["stage"] == "middle" and "end" in line]
            if len(begun) > len(ended) and time.time() - record.stat().st_mtime > 3:
                return worker
        return None

    def close(self) -> None:
        """Stop what was started, the server last."""
        for process in reversed(self.started.values()):
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=30)


@pytest.fixture
def machines(tmp_path, empty_database):
    with hosts.hosts(tmp_path, "desk", "one", "two") as made:
        machines = Machines(made)
        home = machines.project.folder / ".prosmin/prefect"
        home.mkdir(parents=True)
        if empty_database.is_file():
            shutil.copy(empty_database, home / "prefect.db")
        try:
            machines.serve()
            for worker in machines.workers:
                machines.clone(worker)
            machines.wait_for("server", "Uvicorn running")
            yield machines
        finally:
            machines.close()


def test_two_workers_make_a_sweep_and_one_dies_in_the_middle(machines):
    folder = machines.project.folder
    given = ("epochs.yaml", "--pool", "prosmin", "--patience", "90")
    sweep = (sys.executable, "-m", "pipelines.sweep")
    machines.start("sweep", machines.desk, *sweep, *given, cwd=folder)
    for worker in machines.workers:
        machines.work(worker)
    killed = until(machines.waiting, 300)
    for host in (machines.desk, *machines.workers):
        assert not [line for line in host.processes() if SECRET.partition(":")[2] in line]
    killed.connect(False)  # as at a power cut, the server hears nothing of it
    machines.started[killed.name].kill()
    until(lambda: not killed.processes(), 60)
    (kept,) = [worker for worker in machines.workers if worker is not killed]
    for host in (kept, machines.desk):
        (host.folder / "record.go").touch()
    code = machines.started["sweep"].wait(timeout=400)
    until(lambda: machines.said["sweep"][-1:] != [] and "points done" in machines.said["sweep"][-1])
    said = "".join(machines.said["sweep"])
    assert code == 1 and machines.said["sweep"][-1] == "2 of 3 points done; failed: epochs-2\n", (
        said
    )
    silent = f"epochs-0: the worker {killed.name} ended (it was silent for "
    assert [line for line in machines.said["sweep"] if line.startswith(silent)], said
    assert "epochs-2: params.yaml: pretrain.epochs is -1; it must be at least 1\n" in said
    ranked = [line.split() for line in said.splitlines() if line.startswith("epochs-")]
    ranked = [row for row in ranked if not row[0].endswith(":")]
    assert len(ranked) == 3 and ranked[2][0] == "epochs-2"
    assert float(ranked[0][2]) > float(ranked[1][2])
    listed = machines.on_desk("dvc", "exp", "list", "--name-only").split()
    assert sorted(listed) == ["epochs-0", "epochs-1"]

    # The same point on the desk is the same to the byte, and its results are in the desk's cache.
    local = ("pipelines.run", "leaf@one", "--set", "pretrain.epochs=6", "--name", "local")
    machines.on_desk(sys.executable, "-m", *local)
    references = machines.project.git("for-each-ref", "--format=%(refname)", "refs/exps/")
    pairs = {name.rpartition("/")[2]: name for name in references.split()}
    assert (
        machines.project.git("diff", pairs["epochs-1"], pairs["local"], "--", ".", ":!.dvc/tmp")
        == ""
    )
    for name in listed:
        lock = machines.project.git("show", f"{pairs[name]}:dvc.lock")
        for md5 in re.findall(r"path: results/middle\n\s+hash: md5\n\s+md5: (\w+)", lock):
            assert (folder / ".dvc/cache/files/md5" / md5[:2] / md5[2:]).is_file()

    # Nothing is left: no process, no clone of a point, no code of the sweep in the git remote.
    assert not list((kept.folder / "a clone/.prosmin/experiments").iterdir())
    left = machines.project.git("ls-remote", "origin", "refs/sweeps/*")
    assert left == "" and machines.project.git("status", "--short") == ""
    machines.started[kept.name].send_signal(signal.SIGINT)
    machines.started[kept.name].wait(timeout=30)
    until(lambda: not kept.processes(), 20)
    everything = "".join(line for lines in machines.said.values() for line in lines)
    assert SECRET.partition(":")[2] not in everything


def test_what_a_worker_cannot_use_is_one_sentence(machines):
    one = machines.workers[0]
    clone, worker = one.folder / "a clone", (sys.executable, "-m", "pipelines.worker")
    one.variables["PREFECT_API_AUTH_STRING"] = "prosmin:guess"
    said = one.run(*worker, machines.server, cwd=clone, expect=2)
    assert said == (
        f"error: the server {machines.server} cannot be used: it refuses the password "
        "(set PREFECT_API_AUTH_STRING)\n"
    )
