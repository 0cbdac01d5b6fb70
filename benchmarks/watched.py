"""A program that is watched while it runs: time and memory."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from stages.common import memory

PAUSE = 0.02  # seconds between two looks at the memory


def watched(
    command: Sequence[str], folder: Path, environment: Mapping[str, str]
) -> dict[str, float]:
    """CPU seconds, wall seconds and memory in MiB of a process that runs in a folder.

    ``peak_mib`` is the kernel's peak of the resident memory, ``held_mib`` the most of it that was
    no mapped file. The peak that the kernel tells of an ended process (``ru_maxrss``) would begin
    with that of this process, so it is read while the program runs.

    environment: variables beside those of this process. Ends this program where the other fails.
    """
    begun, peak, most, ended = time.perf_counter(), 0, 0, 0
    process = subprocess.Popen(command, cwd=folder, env=os.environ | environment)
    while not ended:
        numbers = memory.numbers(f"/proc/{process.pid}/status")
        peak = max(peak, numbers.get("VmHWM", 0))
        most = max(most, memory.held(numbers))
        time.sleep(PAUSE)
        ended, status, usage = os.wait4(process.pid, os.WNOHANG)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"error: {' '.join(command)} ended with {process.returncode}")
    return {
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 2),
        "wall_s": round(time.perf_counter() - begun, 2),
        "peak_mib": round(peak / 2**20),
        "held_mib": round(most / 2**20),
    }
