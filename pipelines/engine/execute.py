"""One stage, by ``dvc repro --single-item`` in a process of its own below a guard (``pipelines/engine/guard.py``).

DVC lets go of its lock while a stage's command runs, so several of these work in one folder at the same time. What they
may still trip over is a lock held for a moment by another: those two messages are tried again, nothing else is.
"""

import os
import re
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipelines.engine.machine import Lease
from pipelines.engine.starter import Process, Starter, kill_session

GUARD = Path(__file__).with_name("guard.py")
# DVC's words for a lock that another DVC holds. A stage whose own command failed is never tried again.
BUSY = re.compile(r"^ERROR:.*(is busy, it is being blocked by|Unable to acquire lock)", re.M | re.S)
BROKEN = re.compile(r"^ERROR: failed to reproduce .*failed to run: ", re.M)
# What DVC advises after every stage; between the lines of a stage it is in the way.
ADVICE = re.compile(
    r"(Updating|Generating) lock file|To track the changes with git|To enable auto staging|Use `dvc push`"
    r"|\s*git add |\s*dvc config core.autostage"
)
ATTEMPTS, PAUSE = (
    20,
    0.5,
)  # at most ten seconds of waiting in all, ample for a lock held for milliseconds
KEPT = 200  # last lines of output, to tell why a stage failed


@dataclass(frozen=True)
class Result:
    """What became of a stage. outcome: ran, cached (restored from DVC's run cache), skipped (nothing to do), failed, stopped,
    or blocked (not started, because a stage that it needs failed)."""

    stage: str
    outcome: str
    seconds: float
    reason: str = ""

    @property
    def done(self) -> bool:
        return self.outcome in ("ran", "cached", "skipped")


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's own, in which plain ``python`` is this Python though nothing has been activated."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return {
        **os.environ,
        "PATH": path,
        "DO_NOT_TRACK": "1",
        "DVC_NO_ANALYTICS": "1",
        **(extra or {}),
    }


def guarded(
    command: list[str],
    extra: Mapping[str, str] | None = None,
    *,
    shown: bool = False,
    lock: int | None = None,
) -> subprocess.Popen[str]:
    """Start ``command`` so that it ends when this process does, however that ends, and when its guard is killed.

    Its output is a pipe of lines, or what this process writes to where it is ``shown``. ``lock``: of ``workspace.alone``,
    which the guard then holds as well, until nothing of the command is left.
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
    """Wait for a guarded process; its code, or 128 + a signal. Nothing of it is left then, even if its guard was killed."""
    code = process.wait()
    if code < 0:
        kill_session(process.pid)
    return 128 - code if code < 0 else code


class Executor:
    """Runs stages in ``folder``, each in the thread that asks; ``stop`` ends all that run, from any thread."""

    def __init__(self, folder: Path, force: bool = False, lock: int | None = None):
        self._force, self._starter = force, Starter(folder, lock)
        self._running: set[Process] = set()
        self._guard, self._stopped = threading.Lock(), False

    def __enter__(self) -> "Executor":
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()
        self._starter.__exit__()

    def run(
        self, stage: str, lease: Lease, show: Callable[[str], None] = lambda line: None
    ) -> Result:
        """Run ``stage`` to its end. ``show`` gets every line that DVC and the stage write, as it comes."""
        begun = time.monotonic()
        arguments = [
            "--wait-for-lock",
            "repro",
            "--single-item",
            stage,
            *(["--force"] if self._force else []),
        ]
        for _ in range(ATTEMPTS):
            code, output = self._once(arguments, lease, show)
            if self._stopped or code == 0 or not transient(output):
                break
            time.sleep(PAUSE)
        seconds = time.monotonic() - begun
        if self._stopped:
            return Result(stage, "stopped", seconds)
        return (
            Result(stage, outcome(output), seconds)
            if code == 0
            else Result(stage, "failed", seconds, reason(output, code))
        )

    def _once(
        self, arguments: list[str], lease: Lease, show: Callable[[str], None]
    ) -> tuple[int, str]:
        process = self._starter.start(arguments, environment(lease.environment()))
        with self._guard:
            self._running.add(process)
            if self._stopped:
                process.stop()
        lines: deque[str] = deque(maxlen=KEPT)
        head: list[str] = []
        try:
            for line in process.output:
                lines.append(line)
                if len(head) < 3:
                    head.append(line)
                if not ADVICE.match(line):
                    show(line.rstrip("\n"))
        finally:
            code = process.wait()
            with self._guard:
                self._running.discard(process)
        return code, "".join(lines if len(lines) < KEPT else [*head, *lines])

    def stop(self) -> None:
        """Interrupt what runs; each guard kills what is left of its stage after its grace."""
        with self._guard:
            self._stopped = True
            for process in self._running:
                process.stop()


def transient(output: str) -> bool:
    return bool(BUSY.search(output)) and not BROKEN.search(output)


def outcome(output: str) -> str:
    """From DVC's own words, which come before anything that the stage writes."""
    for line in output.splitlines():
        if line.startswith("Running stage '"):
            return "ran"
        if re.match(r"Stage '.*' is cached - skipping run", line):
            return "cached"
    return "skipped"


def reason(output: str, code: int) -> str:
    """The stage's own complaint if it made one, else DVC's."""
    own = [line for line in output.splitlines() if line.startswith("error: ")]
    errors = own or [line for line in output.splitlines() if line.startswith("ERROR: ")]
    return errors[-1].partition(": ")[2] if errors else f"ended with code {code}"
