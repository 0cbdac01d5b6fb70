"""Stages of one run on two hosts against one: time, and what goes over the network.

    python -m benchmarks.machines [--leaves 6] [--seconds 60] [--megabytes 20]

The hosts are network namespaces of this machine without a shared folder (``tests/pipelines/hosts``;
needs root, ``ip`` and ``ssh``), and each has one core. A source makes a file of random bytes, and
every leaf reads it and computes for ``--seconds`` of its core. The run goes first to both hosts
(``make flow ARGS="--pool prosmin"``), then to the first alone. The server, git and the DVC remote
are on the first.

It prints the seconds of both runs with their ratio, and per leaf that ran on the second host: the
bytes that crossed the network, and how long it took beyond its own seconds (to send it, to start
there, to fetch the results).
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.record import record
from tests.pipelines import hosts
from tests.pipelines.desk import Machines

GRAPH = """
stages:
  source:
    foreach: [a, b]
    do:
      cmd: python work.py source ${{item}}
      deps: [work.py]
      outs: ["results/source/${{item}}"]
  leaf:
    foreach: {leaves}
    do:
      cmd: python work.py leaf ${{item}}
      deps: [work.py, results/source/a]
      outs: ["results/leaf/${{item}}"]
      metrics: ["metrics/leaf/${{item}}.json": {{cache: false}}]
"""
WORK = """
import json, os, sys, time
from pathlib import Path

kind, item = sys.argv[1:]
Path(f"results/{{kind}}").mkdir(parents=True, exist_ok=True)
content = os.urandom({megabytes} * 2**20) if kind == "source" else b"features" * 2**17
if kind == "leaf":
    Path("results/source/a").read_bytes()
    while time.process_time() < {seconds}:
        pass
    Path("metrics/leaf").mkdir(parents=True, exist_ok=True)
    Path(f"metrics/leaf/{{item}}.json").write_text(json.dumps({{"accuracy": len(item)}}))
Path(f"results/{{kind}}/{{item}}").write_bytes(content)
"""
WAY = re.compile(r"on a worker, with (\d+) s")


def crossed(machines: Machines) -> int:
    """Bytes that have gone between the hosts, both ways."""
    listed = subprocess.run(
        ["ip", "-n", machines.desk.space, "-s", "-j", "link", "show", "dev", "one"],
        check=True,
        capture_output=True,
    ).stdout
    (link,) = json.loads(listed)
    return sum(link["stats64"][way]["bytes"] for way in ("rx", "tx"))


def run(machines: Machines, *options: str) -> tuple[float, str]:
    """Wall seconds and output of a run on the first core."""
    flow = ("taskset", "-c", "0", sys.executable, "-m", "pipelines.run", *options)
    begun = time.perf_counter()
    said = machines.on_desk(*flow)
    print(said, file=sys.stderr)
    return time.perf_counter() - begun, said


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.machines")
    parser.add_argument("--leaves", type=int, default=6)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--megabytes", type=int, default=20)
    given = parser.parse_args()
    if why := hosts.reason():
        sys.exit(f"error: no hosts on this machine: {why}")
    shape = vars(given)
    files = {
        "dvc.yaml": GRAPH.format(leaves=[f"leaf{place}" for place in range(given.leaves)]),
        "work.py": WORK.format(**shape),
    }
    with (
        tempfile.TemporaryDirectory() as scratch,
        hosts.hosts(Path(scratch), "desk", "one") as made,
    ):
        machines = Machines(made, files)
        try:
            figures = measured(machines)
        finally:
            machines.close()
    record("machines", ["prefect", "dvc"], shape | figures)


def measured(machines: Machines) -> dict[str, Any]:
    (worker,) = machines.workers
    (machines.project.folder / ".prosmin/prefect").mkdir(parents=True)
    machines.serve()
    machines.clone(worker)
    machines.wait_for("server", "Uvicorn running")
    serve = (sys.executable, "-m", "pipelines.worker", machines.server, "--name", worker.name)
    command = ("taskset", "-c", "1", *serve)
    machines.start(worker.name, worker, *command, cwd=worker.folder / "a clone")
    machines.wait_for(worker.name, "serves the queue")
    before = crossed(machines)
    both, said = run(machines, "--pool", "prosmin", "--workers", "1")
    moved, ways = crossed(machines) - before, list(map(int, WAY.findall(said)))
    folder = machines.project.folder
    left = {path: path.read_bytes() for path in (folder / "metrics").rglob("*.json")}
    for name in ("results", "metrics", ".dvc/cache", ".prosmin/intact"):
        shutil.rmtree(folder / name, ignore_errors=True)
    machines.project.git("reset", "--quiet", "--hard")
    machines.started.pop(worker.name).terminate()
    alone, _ = run(machines, "--workers", "1")
    if left != {path: path.read_bytes() for path in (folder / "metrics").rglob("*.json")}:
        sys.exit("error: the two runs left different metrics")
    return {
        "seconds_two_hosts": round(both, 1),
        "seconds_one_host": round(alone, 1),
        "ratio": round(both / alone, 3),
        "leaves_on_the_second": len(ways),
        "bytes_per_leaf": round(moved / max(1, len(ways))),
        "seconds_to_send_and_fetch": ways,
    }


if __name__ == "__main__":
    main()
