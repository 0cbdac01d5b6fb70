"""A desk and workers on hosts of their own, joined by git over SSH, a DVC remote and a server."""

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from tests.pipelines import hosts
from tests.pipelines.projects import ROOT, Project, recorded, until
from tests.pipelines.ssh_server import new_key

SECRET = "prosmin:a-long-password-of-the-test"
PORT, SSH = 4200, 2222


class Machines:
    """A desk with a project, its bare repository, its DVC remote and a server, and two workers."""

    def __init__(self, made: list[hosts.Host], files: dict[str, str]):
        """files: of the project, besides its code, or in the place of those of ``Project``."""
        self.desk, *self.workers = made
        self.project = Project(self.desk.folder / "a project", {})
        self.bare, self.stored = self.desk.folder / "code.git", self.desk.folder / "stored"
        self.started: dict[str, subprocess.Popen[str]] = {}
        self.said: dict[str, list[str]] = {}
        self._fill(files)

    def _fill(self, files: dict[str, str]) -> None:
        """The project as it is on the desk, which has made its sources already."""
        folder = self.project.folder
        for name in ("pipelines", "prosmin", "stages"):
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, folder / name, ignore=ignore)
        (folder / ".gitignore").write_text("/results/\n/.prosmin/\n__pycache__/\n")
        (folder / "requirements.lock").write_text("prefect\n")
        (folder / "prefect.yaml").write_text("deployments: []\n")
        for name, text in files.items():
            (folder / name).write_text(text)
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
        }
        url = f"ssh://root@{self.desk.address}:{SSH}{self.bare}"
        worker.run("git", "clone", "--quiet", url, str(folder))
        (folder / ".dvc/config.local").write_text(
            f"['remote \"stored\"']\n    keyfile = {home / 'key'}\n"
        )
        return folder

    def work(self, worker: hosts.Host, *options: str, under: Sequence[str] = ()) -> None:
        """Start a worker. under: the words of a command that starts it."""
        command = (sys.executable, "-m", "pipelines.worker", self.server, "--name", worker.name)
        folder = worker.folder / "a clone"
        self.start(worker.name, worker, *under, *command, *options, cwd=folder)

    @property
    def server(self) -> str:
        return f"http://{self.desk.address}:{PORT}/api"

    def waiting(self) -> hosts.Host | None:
        """The worker whose stage waits for its file."""
        for worker in self.workers:
            record = worker.folder / "record"
            stages = recorded(record)
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
