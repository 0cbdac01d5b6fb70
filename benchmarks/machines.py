"""Stages of one run on several hosts against one: time, and what goes over the network.

    python -m benchmarks.machines [--hosts 2] [--leaves 8] [--seconds 120] [--megabytes 20] [--idle]

The hosts are network namespaces of this machine without a shared folder (``tests/pipelines/hosts``;
needs root, ``ip`` and ``ssh``). The first has a core, and the others share another one. A source
makes a file of random bytes, and every leaf reads it and computes for ``--seconds`` of its core;
``--idle``: it sleeps, as a stage does that waits for its GPU. The run goes first to all hosts
(``make flow ARGS="--pool prosmin"``), then to the first alone. The server, git and the DVC remote
are on the first.

It prints the seconds of both runs with their ratio, and per leaf that ran on another host: the
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
    time.sleep({seconds} * {idle})
    while time.process_time() < {seconds} * (not {idle}):
        pass
    Path("metrics/leaf").mkdir(parents=True, exist_ok=True)
    Path(f"metrics/leaf/{{item}}.json").write_text(json.dumps({{"accuracy": len(item)}}))
Path(f"results/{{kind}}/{{item}}").write_bytes(content)
"""
WAY = re.compile(r"on a worker, with (\d+) s")


def crossed(machines: Machines) -> int:
    """Bytes that have gone between the first host and the others, both ways."""
    listed = subprocess.run(
        ["ip", "-n", machines.desk.space, "-s", "-j", "link", "show", "type", "veth"],
        check=True,
        capture_output=True,
    ).stdout
    return sum(link["stats64"][way]["bytes"] for link in json.loads(listed) for way in ("rx", "tx"))


def run(machines: Machines, *options: str) -> tuple[float, str]:
    """Wall seconds and output of a run on the first core."""
    flow = ("taskset", "-c", "0", sys.executable, "-m", "pipelines.run", *options)
    begun = time.perf_counter()
    said = machines.desk.run(*flow, cwd=machines.project.folder, timeout=None)
    took = time.perf_counter() - begun
    print(said, f"{took:.0f} s", file=sys.stderr)
    return took, said


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.machines")
    parser.add_argument("--hosts", type=int, default=2)
    parser.add_argument("--leaves", type=int, default=8)
    parser.add_argument("--seconds", type=int, default=120)
    parser.add_argument("--megabytes", type=int, default=20)
    parser.add_argument("--idle", action="store_true")
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
        hosts.hosts(Path(scratch), *(f"host{number}" for number in range(given.hosts))) as made,
    ):
        machines = Machines(made, files)
        try:
            figures = measured(machines)
        finally:
            machines.close()
    record("machines", ["prefect", "dvc"], shape | figures)


def measured(machines: Machines) -> dict[str, Any]:
    (machines.project.folder / ".prosmin/prefect").mkdir(parents=True)
    machines.serve()
    for worker in machines.workers:
        machines.clone(worker)
    machines.wait_for("server", "Uvicorn running")
    for worker in machines.workers:
        machines.work(worker, under=("taskset", "-c", "1"))
    for worker in machines.workers:
        machines.wait_for(worker.name, "serves the queue")
    before = crossed(machines)
    together, said = run(machines, "--pool", "prosmin", "--workers", "1")
    moved, ways = crossed(machines) - before, list(map(int, WAY.findall(said)))
    folder = machines.project.folder
    left = {path: path.read_bytes() for path in (folder / "metrics").rglob("*.json")}
    for name in ("results", "metrics", ".dvc/cache", ".prosmin/intact"):
        shutil.rmtree(folder / name, ignore_errors=True)
    machines.project.git("reset", "--quiet", "--hard")
    for worker in machines.workers:
        machines.started.pop(worker.name).terminate()
    alone, _ = run(machines, "--workers", "1")
    if left != {path: path.read_bytes() for path in (folder / "metrics").rglob("*.json")}:
        sys.exit("error: the two runs left different metrics")
    return {
        "seconds": round(together, 1),
        "seconds_one_host": round(alone, 1),
        "ratio": round(together / alone, 3),
        "leaves_on_other_hosts": len(ways),
        "bytes_per_leaf": round(moved / max(1, len(ways))),
        "seconds_to_send_and_fetch": ways,
    }


if __name__ == "__main__":
    main()
