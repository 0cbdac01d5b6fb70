"""The peak of a process and of those below it, against what real processes hold."""

import os
import subprocess
import sys

import pytest

from stages.common.memory import LAUNCHER
from tests.stages.conftest import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells no peaks")
MIB = 2**20
HELD = 96  # MiB
HEAD = f"""
import mmap, os, subprocess, sys
from stages.common.memory import LAUNCHER, Peak

def hold():
    return bytearray(os.urandom(1024)) * ({HELD} * 1024)

peak = Peak()
before = peak.look()
"""


def told(code: str) -> float:
    """MiB by which the peak of a process rises that runs ``code``."""
    done = subprocess.run(
        [sys.executable, "-c", f"{HEAD}{code}\nprint(peak.stop() - before)"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout) / MIB


def test_a_peak_between_two_looks_counts():
    assert HELD - 2 <= told("held = hold()\ndel held") < HELD + 8


def test_pages_of_a_mapped_file_do_not_count(tmp_path):
    (tmp_path / "large").write_bytes(bytes(HELD * MIB))
    code = f"""
with open({str(tmp_path / "large")!r}, "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    seen = sum(mapped[:: mmap.PAGESIZE])
"""
    assert told(code) < 8


def test_what_a_child_holds_counts_and_what_it_shares_counts_once():
    code = """
held = hold() if {parent} else None
ready, done = os.pipe(), os.pipe()
if not os.fork():
    held = held or hold()
    os.write(ready[1], b"x")
    os.read(done[0], 1)
    os._exit(0)
os.read(ready[0], 1)
peak.look()
os.write(done[1], b"x")
os.wait()
"""
    assert HELD - 2 <= told(code.format(parent=False)) < HELD + 16
    assert HELD - 2 <= told(code.format(parent=True)) < HELD + 16


def test_processes_that_a_launcher_has_started_count_together():
    child = "from stages.common.memory import Peak; print(Peak().look())"
    code = f"""
held = hold()
def look(**variables):
    said = subprocess.check_output([sys.executable, "-c", {child!r}], env=os.environ | variables)
    return int(said)
assert look(**{{LAUNCHER: str(os.getpid())}}) > {HELD * MIB} > look(), "not together"
assert look(**{{LAUNCHER: "1"}}) < {HELD * MIB}
"""
    assert LAUNCHER not in os.environ
    assert told(code) >= HELD - 2
