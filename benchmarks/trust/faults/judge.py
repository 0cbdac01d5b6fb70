"""Whether a fault was survived: the command has ended well, and the next run puts all right."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.trust.faults.project import MARK, Place, patient, wait_until

GONE = 15.0  # seconds for the processes of a run to end after it has; a guard takes five
ENDS = 60.0  # seconds for any command of the small project
ADVICE = 3  # refusals until a run must end well
MINUTES = 120.0  # seconds
LEFTOVER = re.compile(r"\..*\.(part|old|tmp)")
TRACEBACK = "Traceback (most recent call last)"


class NotHeld(Exception):
    """What was promised and did not happen."""


class Missed(Exception):
    """The fault hit nothing, so nothing can be said about it."""


class Skipped(Exception):
    """Why this fault cannot be made on this machine."""


def processes(place: Place) -> dict[int, str]:
    """What runs in the place, whoever its parent is: the command line by process id."""
    running, mark = {}, f"{MARK}={place.root}\0".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes() + b"\0":
                    words = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
                    running[int(entry.name)] = words.decode(errors="replace").strip()
    return running


def kill_all(place: Place) -> None:
    while running := processes(place):
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


def ended(
    place: Place, process: subprocess.Popen[bytes], seconds: float = ENDS, silent: bool = False
) -> int:
    """The code of a command that was disturbed, which must end by itself and leave no process.

    silent: it was killed before it could have said anything.
    """
    try:
        code = process.wait(patient(seconds))
    except subprocess.TimeoutExpired:
        running = processes(place)
        process.send_signal(signal.SIGABRT)  # upon which Python tells where it hangs
        wait_until(lambda: process.poll() is not None, 1.0)
        kill_all(place)
        process.wait()
        place.printed()
        raise NotHeld(f"it did not end in {seconds:.0f} s: {list(running.values())}") from None
    if not wait_until(lambda: not processes(place), GONE, 0.2):
        running = processes(place)
        kill_all(place)
        raise NotHeld(f"processes are left: {list(running.values())}")
    said = place.printed()
    if TRACEBACK in said:
        raise NotHeld(f"a traceback: {_end(said)}")
    if code > 0 and not silent and not said.strip():  # below 0: the shell names the signal
        raise NotHeld(f"it ended with {code} and not a word")
    return code


def goes_on(place: Place, asks: bool = False) -> str:
    """The next run ends well with the bytes of an undisturbed one; the one after has nothing to do.

    asks: it may refuse in a sentence that holds a command, and must end well after that command, or
    after some, of which each mends a file. Returns them.
    """
    advice: list[str] = []
    _later(place)
    code, said = _next(place)
    while code and asks and len(advice) < ADVICE:
        advice.append(_command(said))
        subprocess.run(["sh", "-c", advice[-1]], cwd=place.folder, env=place.environment())
        code, said = _next(place)
    if code:
        raise NotHeld(f"the next run ended with {code}: {_end(said)}")
    _compare(place)
    code, said = _next(place)
    if code or "Running stage" in said:
        raise NotHeld(f"the run after it still had something to do: {_end(said)}")
    return "; ".join(advice)


def _later(place: Place) -> None:
    """Age unfinished copies in the cache: a run leaves copies of the last minute alone."""
    for path in (place.folder / ".dvc/cache").rglob(".*.tmp"):
        os.utime(path, (time.time() - MINUTES, time.time() - MINUTES))


def _next(place: Place) -> tuple[int, str]:
    try:
        code, said = place.run(*place.command, seconds=patient(ENDS))
    except subprocess.TimeoutExpired:
        kill_all(place)
        raise NotHeld(f"the next run did not end: {_end(place.printed())}") from None
    if TRACEBACK in said:
        raise NotHeld(f"a traceback in the next run: {_end(said)}")
    return code, said


def _command(said: str) -> str:
    """What the refusal tells the user to type, between backticks."""
    quoted = re.findall(r"`([^`]+)`", said)
    commands = [command for command in quoted if command.startswith(("git ", "rm "))]
    if not commands:
        raise NotHeld(f"the next run refuses without a command that mends it: {_end(said)}")
    return " && ".join(dict.fromkeys(commands))


def _compare(place: Place) -> None:
    left, expected = place.left(), place.expected
    if left != expected:
        both = sorted(left.keys() | expected.keys())
        paths = [path for path in both if left.get(path) != expected.get(path)]
        raise NotHeld(f"other bytes than an undisturbed run: {', '.join(paths[:6])}")
    leftovers = [
        str(Path(folder).relative_to(place.folder) / name)
        for folder, folders, files in os.walk(place.folder)
        if "/.git" not in folder.removeprefix(str(place.folder))
        for name in (*folders, *files)
        if LEFTOVER.fullmatch(name)
    ]
    experiments = place.folder / ".prosmin/experiments"
    leftovers += [str(path.relative_to(place.folder)) for path in experiments.glob("*")]
    if leftovers:
        raise NotHeld(f"leftovers: {', '.join(leftovers[:6])}")


def _end(said: str) -> str:
    """The last line that says something is wrong, or the last line."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"(\w*Error\b|ERROR|error)", line)]
    return ((errors or lines)[-1:] or ["not a word"])[0][:300]


def python(*arguments: str) -> list[str]:
    return [sys.executable, *arguments]
