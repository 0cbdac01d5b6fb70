"""A small real DVC project to run, and the REST API of the server that it reports to."""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

# The shape of the real graph: two sources, a middle, leaves with a metric, and a sum of all. A run
# of a stage takes most of a second of CPU, so there are as few as the tests need.
GRAPH = """
stages:
  source:
    foreach: [a, b]
    do:
      cmd: python work.py source ${item}
      deps: [work.py]
      outs: ["results/source/${item}"]
  middle:
    cmd: python work.py middle
    meta: {resources: {gpus: all, threads: all}}
    params: [pretrain.epochs]
    deps: [work.py, results/source/a]
    outs: [results/middle]
  leaf:
    foreach: [one, two]
    do:
      cmd: python work.py leaf ${item}
      meta: {resources: {gpus: 1}}
      params: [knn.k]
      deps: [work.py, results/middle, results/source/b]
      metrics: ["metrics/leaf/${item}.json": {cache: false}]
  total:
    cmd: python work.py total
    deps: [work.py, metrics]
    outs: [results/total]
"""
WORK = """
import hashlib, json, os, sys, time
from pathlib import Path

name = "@".join(sys.argv[1:])
kind, last = sys.argv[1], sys.argv[-1]
record = os.environ.get("RECORD", "")


def note(**facts):
    with open(record or os.devnull, "a") as file:
        print(json.dumps({"stage": name, "pid": os.getpid()} | facts), file=file)


def wait(seconds, condition):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)


def another_leaf_runs():
    lines = [json.loads(line) for line in open(record)]
    return len({line["stage"] for line in lines if line["stage"].startswith("leaf@")}) > 1


note(
    gpus=os.environ.get("CUDA_VISIBLE_DEVICES"),
    threads=os.environ.get("OMP_NUM_THREADS"),
    begin=time.monotonic(),
)
text = Path("params.yaml").read_text()
path = Path({
    "source": f"results/source/{last}",
    "middle": "results/middle",
    "total": "results/total",
    "leaf": f"metrics/leaf/{last}.json",
}[kind])
if name == os.environ.get("WAIT") or name == "middle" and "epochs: 777" in text:
    wait(60, lambda: os.path.exists(f"{record}.go"))
if "MEET" in os.environ and kind == "leaf":
    wait(30, another_leaf_runs)
if name == os.environ.get("BREAK"):
    sys.exit("error: it broke on purpose")
print("working on", name)
path.parent.mkdir(parents=True, exist_ok=True)
number = int(hashlib.sha256((name + text).encode()).hexdigest()[:4], 16) / 65536
path.write_text(json.dumps({"trained": {"accuracy": number}}))
note(end=time.monotonic())
"""


class Api:
    """The REST API of a Prefect server at ``url``, as whoever knows ``password`` sees it."""

    def __init__(self, url: str, password: str | None):
        self.url, self.password = url, password

    def request(
        self, path: str, body: Any = None, method: str | None = None, **headers: str
    ) -> Any:
        """The answer, to be closed by a ``with``; raises ``HTTPError`` for 400 and above."""
        data = None if body is None else json.dumps(body).encode()
        if self.password is not None:
            headers = {
                "Authorization": f"Basic {base64.b64encode(self.password.encode()).decode()}"
            } | headers
        headers = {"Content-Type": "application/json"} | headers
        return urllib.request.urlopen(
            urllib.request.Request(f"{self.url}{path}", data, headers, method=method), timeout=30
        )

    def call(self, path: str, body: Any = None, method: str | None = None) -> Any:
        """The content of an answer. A busy database answers 503: Prefect's client asks again."""
        for pause in (1, 2, 4, 8, None):
            try:
                with self.request(path, body, method) as answer:
                    content = answer.read()
                    return json.loads(content) if content else None
            except urllib.error.HTTPError as error:
                if error.code != HTTPStatus.SERVICE_UNAVAILABLE or pause is None:
                    raise
                time.sleep(pause)

    def status(self, path: str, body: Any = None, method: str | None = None, **headers: str) -> int:
        """The status of an answer; asks a busy server again, as ``call`` does."""
        for pause in (1, 2, 4, 8, 0):
            try:
                with self.request(path, body, method, **headers) as answer:
                    return answer.status
            except urllib.error.HTTPError as error:
                if error.code != HTTPStatus.SERVICE_UNAVAILABLE:
                    return error.code
            time.sleep(pause)
        return HTTPStatus.SERVICE_UNAVAILABLE

    def start(self, deployment: str, **parameters: Any) -> str:
        key = self.call(f"/deployments/name/graph/{deployment}")["id"]
        return self.call(f"/deployments/{key}/create_flow_run", {"parameters": parameters})["id"]

    def state(self, run: str) -> str:
        return self.call(f"/flow_runs/{run}")["state"]["type"]

    def runs(self, *states: str) -> list[dict[str, Any]]:
        wanted = {
            "flow_runs": {"state": {"type": {"any_": list(states)}}},
            "sort": "START_TIME_DESC",
        }
        return self.call("/flow_runs/filter", wanted)

    def artifacts(self, run: str) -> dict[str, dict[str, Any]]:
        artifacts = self.call("/artifacts/filter", {"flow_runs": {"id": {"any_": [run]}}})
        return {artifact["key"]: artifact for artifact in artifacts}


class Project:
    """A git repository with the toy graph, at a path with a blank in it."""

    def __init__(self, folder: Path, variables: dict[str, str]):
        self.folder, self.record = folder, folder.parent / "record"
        self.go_file = folder.parent / "record.go"
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        # A test that imports a flow in this process sets variables for it, such as its log level.
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_LOGGING_")}
        self.variables = {
            **inherited,
            "PATH": path,
            "PYTHONPATH": str(ROOT),
            "RECORD": str(self.record),
            **variables,
        }
        self.variables.pop("OMP_NUM_THREADS", None)  # it would override the share of each stage
        shutil.copytree(
            ROOT / ".dvc",
            folder / ".dvc",
            ignore=shutil.ignore_patterns("cache", "tmp", "config.local"),
        )
        shutil.copy(ROOT / "params.yaml", folder)
        (folder / ".gitignore").write_text("/results/\n/.prosmin/\n")
        (folder / "dvc.yaml").write_text(GRAPH)
        (folder / "work.py").write_text(WORK)
        self.git("init", "-q", "-b", "main")
        self.commit()

    @property
    def api(self) -> Api:
        """The server that this project's runs report to."""
        return Api(self.variables["PREFECT_API_URL"], self.variables["PREFECT_API_AUTH_STRING"])

    def git(self, *arguments: str) -> str:
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        return subprocess.run(
            ["git", *identity, *arguments],
            cwd=self.folder,
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    def commit(self) -> None:
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "state")

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.folder,
            env={**self.variables, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, expect: int | None = 0, **variables: str) -> str:
        """Output and errors of ``python -m ARGUMENTS``, which must end with the code ``expect``."""
        process = self.start("-m", *arguments, **variables)
        output, errors = process.communicate(timeout=100)
        assert expect is None or process.returncode == expect, output + errors
        assert "Traceback" not in errors, errors
        return output + errors

    def flow(self, *arguments: str, expect: int | None = 0, **variables: str) -> str:
        return self.run("pipelines.run", *arguments, expect=expect, **variables)

    def left(self) -> dict[str, bytes]:
        """Every file that a run leaves, with its content."""
        paths = [
            path for part in ("results", "metrics") for path in (self.folder / part).rglob("*")
        ]
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in [*paths, self.folder / "dvc.lock"]
            if path.is_file()
        }

    def recorded(self) -> list[dict[str, Any]]:
        return recorded(self.record)

    def go(self) -> None:
        """Let the stage go on that was told to WAIT."""
        self.go_file.touch()

    def wait_for(self, stage: str) -> int:
        """The process id of ``stage``, once it runs."""
        return until(
            lambda: next((line["pid"] for line in self.recorded() if line["stage"] == stage), None)
        )

    def processes(self) -> list[str]:
        """Processes whose current folder is in this project, with their command lines."""
        running = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    if words and os.readlink(entry / "cwd").startswith(str(self.folder)):
                        running.append(f"{entry.name}: {words}")
        return running


def recorded(record: Path) -> list[dict[str, Any]]:
    """What the stages of the toy graph have noted in a file."""
    lines = record.read_text().splitlines() if record.is_file() else []
    return [json.loads(line) for line in lines]


def until(check: Callable[[], Any], seconds: float = 60) -> Any:
    """Wait until ``check`` returns a true value, and return the value."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if result := check():
            return result
        time.sleep(0.1)
    raise AssertionError("it did not happen in time")
