"""Run one command so that nothing of it outlives its parent: ``python pipelines/engine/guard.py command [arguments]``.

The guard is started in a session of its own with a pipe as its standard input, which it never reads. When that pipe closes
(its parent has died, even by SIGKILL) or it gets SIGTERM, SIGINT or SIGHUP, it interrupts the command, so that DVC lets go of
its locks and a stage removes what it has half-written, and after GRACE seconds kills all that is left. It does the same with
whatever the command leaves behind when it ends. On Linux it adopts processes that lose their parent, so also those that took
themselves to another session are found.

It ends with the code of the command, or with 128 + the signal that ended it. Standard library only: it starts in 20 ms.
``pipelines/engine/starter.py`` stands guard in the same way over what it forks.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable

GRACE = 5.0  # seconds from the interrupt to the kill
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def descendants() -> set[int]:
    """Processes below this one and, where /proc is missing, none: the group is all that is known there."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
        if name.isdigit():
            with (
                contextlib.suppress(OSError, ValueError, IndexError),
                open(f"/proc/{name}/stat") as handle,
            ):
                fields = (
                    handle.read().rpartition(")")[2].split()
                )  # the name in brackets may hold blanks
                if fields[0] != "Z":
                    parents[int(name)] = int(fields[1])
    found = {os.getpid()}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {os.getpid()}


def send(number: int, group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
    if number == signal.SIGKILL:
        for process in descendants():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process, number)


def alive(group: int) -> bool:
    if descendants():
        return True
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return not os.path.isdir("/proc/self")  # what is left of the group there are zombies


def reap() -> dict[int, int]:
    """The codes of the children that have ended since the last look, a signal as a negative number."""
    ended = {}
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            ended[found[0]] = os.waitstatus_to_exitcode(found[1])
    return ended


def sweep(group: int) -> None:
    """Interrupt the group and wait; kill all that is left when the grace is over."""
    send(signal.SIGINT, group)
    end = time.monotonic() + GRACE
    while alive(group) and time.monotonic() < end:
        reap()
        time.sleep(0.02)
    while alive(group):
        send(signal.SIGKILL, group)
        reap()
        time.sleep(0.02)
    reap()


def watch(start: Callable[[], int]) -> int:
    """Stand guard, with this whole process, over the one that ``start`` makes; returns the code to end with.

    ``start`` returns its process id, which is also that of a new process group.
    """
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    stopped: list[int] = []
    for number in (*STOPS, signal.SIGCHLD):
        signal.signal(
            number, lambda number, frame: stopped.append(number) if number in STOPS else None
        )
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    group, code = start(), None
    while code is None and not stopped:
        ready, _, _ = select.select([wake_read, 0], [], [], 1.0)
        if 0 in ready and not os.read(0, 1024):
            stopped.append(signal.SIGHUP)
        if wake_read in ready:
            os.read(wake_read, 1024)
        code = reap().get(group)
    sweep(group)
    return 128 + stopped[0] if code is None else 128 - code if code < 0 else code


def main(command: list[str]) -> int:
    started = []  # kept: one that is thrown away may take the code of a command that has ended already with it

    def start() -> int:
        started.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0))
        return started[0].pid

    try:
        return watch(start)
    except OSError as error:
        print(f"error: {command[0]} cannot be started: {error.strerror}", file=sys.stderr)
        return 127


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
