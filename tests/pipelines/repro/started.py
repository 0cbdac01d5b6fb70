"""``python -m pipelines.repro`` in a process of its own, and stages for it."""

import os
import subprocess
import sys
from pathlib import Path

from tests.pipelines.projects import ROOT

METRICS = (
    '{"trained": {"accuracy": 0.975, "accuracy_low": 0.96, "accuracy_high": 0.99}, '
    '"random": {"accuracy": 0.875}}'
)
WORKS = f"""
from pathlib import Path
Path("metrics").mkdir(exist_ok=True)
Path("metrics/linear.json").write_text('{METRICS}')
Path("results/report").mkdir(parents=True)
Path("results/report/index.html").write_text("<html>")
"""


WAITS_LONG = """
import os, time
open("pid", "w").write(str(os.getpid()))
time.sleep(100)
"""


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    # The PATH of the system alone: stages must find the right `python` though nothing is activated.
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "PYTHONUNBUFFERED": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines.repro", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, list[str], list[str]]:
    out, err = process.communicate()
    return process.returncode, out.splitlines(), err.splitlines()
