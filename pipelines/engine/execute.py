"""One stage, by ``dvc repro --single-item`` in a process below a guard (``guard.py``).

DVC releases its lock while the command of a stage runs, so several such processes work in one
folder at the same time. Where one meets a lock that another holds for a moment, it is started
again. A stage whose own command failed is not.
"""

import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pipelines.engine.dvc_command import QUICK
from pipelines.engine.guard import kill_session
from pipelines.engine.machine import Lease
from pipelines.graph import dvc, reads
from pipelines.graph.dag import Stage
from pipelines.graph.resources import written

GUARD = Path(__file__).with_name("guard.py")
DVC = (sys.executable, "-m", "pipelines.engine.dvc_command")
# Ten seconds of waiting in all, ample for a lock that is held for milliseconds.
ATTEMPTS, PAUSE = 20, 0.5
KEPT = 200  # last lines of output, from which the reason of a failure is taken


@dataclass(frozen=True)
class Result:
    """What became of a stage.

    outcome: ran, cached (restored from DVC's run cache), skipped (nothing to do), failed, stopped,
    or blocked (not started, because a stage that it needs failed).
    memory: bytes that it held at most; 0 where it did not run or has not noted them.
    """

    stage: str
    outcome: str
    seconds: float
    reason: str = ""
    memory: int = 0

    @property
    def done(self) -> bool:
        return self.outcome in ("ran", "cached", "skipped")

    @property
    def took(self) -> str:
        """Seconds and memory as text, such as ``3.4 s with 312 MiB``."""
        return f"{self.seconds:.1f} s" + (f" with {written(self.memory)}" if self.memory else "")


def against(stage: Stage, result: Result) -> Result:
    """A result that says so where the stage has held more memory than ``dvc.yaml`` declares."""
    if stage.memory is None or result.memory <= stage.memory:
        return result
    why = f"more than the {written(stage.memory)} of its meta.resources.memory"
    return replace(result, reason=why)


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of this process, with this Python as ``python`` and no telemetry."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    quiet = {"DO_NOT_TRACK": "1", "DVC_NO_ANALYTICS": "1"}
    return {**os.environ, "PATH": path, **quiet, **(extra or {})}


def guarded(
    command: list[str],
    extra: Mapping[str, str] | None = None,
    *,
    shown: bool = False,
    lock: int | None = None,
) -> subprocess.Popen[str]:
    """Start ``command`` below a guard, so that it ends when this process or the guard does.

    Args:
        command: The words of the command.
        extra: Variables to add to its environment.
        shown: Whether its output goes where this process writes to; else it is a pipe of lines.
        lock: Descriptor of ``workspace.alone``. The guard holds it too, until nothing of the
            command is left.
    """
    process = subprocess.Popen(
        [sys.executable, "-I", str(GUARD), *command],
        env=environment(extra),
        stdin=subprocess.PIPE,
        stdout=None if shown else subprocess.PIPE,
        stderr=None if shown else subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
        pass_fds=[] if lock is None else [lock],
    )
    threading.Thread(target=ended, args=(process,), daemon=True).start()
    return process


def ended(process: subprocess.Popen[str]) -> int:
    """Wait for a guarded process and return its code, or 128 + the signal that ended it.

    Nothing of it is left then, even where its guard was killed.
    """
    code = process.wait()
    if code < 0:
        kill_session(process.pid)
    return 128 - code if code < 0 else code


class Executor:
    """Runs stages of the current folder, each in the thread that asks."""

    def __init__(self, force: bool = False, lock: int | None = None):
        self._force, self._lock = force, lock
        self._running: set[subprocess.Popen[str]] = set()
        self._guard, self._stopped = threading.Lock(), False

    def __enter__(self) -> "Executor":
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def run(
        self, stage: Stage, lease: Lease, show: Callable[[str], None] = lambda line: None
    ) -> Result:
        """Run ``stage`` to its end. ``show`` gets every line that DVC and the stage write."""
        begun, name = time.monotonic(), stage.name
        for _ in range(ATTEMPTS):
            code, output = self._once(name, lease, show)
            if self._stopped or code == 0 or not dvc.try_again(output):
                break
            for line in dvc.mend_note():
                show(line)
            time.sleep(PAUSE)
        seconds = time.monotonic() - begun
        if self._stopped:
            return Result(name, "stopped", seconds)
        if code:
            return Result(name, "failed", seconds, dvc.reason(output, code))
        outcome = dvc.outcome(output)
        held = reads.noted("memory", name) if outcome == "ran" else {}
        return Result(name, outcome, seconds, memory=int(held.get(name, 0)))

    def _once(self, stage: str, lease: Lease, show: Callable[[str], None]) -> tuple[int, str]:
        """The code and the output of one ``dvc repro``."""
        command = [*DVC, QUICK, "--wait-for-lock", "repro", "--single-item", stage]
        command += ["--force"] if self._force else []
        process = guarded(command, lease.environment(), lock=self._lock)
        with self._guard:
            self._running.add(process)
            if self._stopped:
                process.terminate()
        last: deque[str] = deque(maxlen=KEPT)
        first: list[str] = []
        try:
            for line in process.stdout:
                last.append(line)
                if len(first) < 3:
                    first.append(line)
                if not dvc.ADVICE.match(line):
                    show(line.rstrip("\n"))
        finally:
            code = ended(process)
            process.stdout.close()
            process.stdin.close()
            with self._guard:
                self._running.discard(process)
        return code, "".join(last if len(last) < KEPT else [*first, *last])

    def stop(self) -> None:
        """Interrupt what runs, from any thread. Each guard kills the rest after its grace."""
        with self._guard:
            self._stopped = True
            for process in self._running:
                process.terminate()
