"""Run one command so that nothing of it outlives its parent.

    python pipelines/engine/guard.py COMMAND [ARGUMENTS]

The guard is started in a session of its own with a pipe as its standard input, which it never
reads. The pipe closes when the parent dies, even by SIGKILL. Then, and at SIGTERM, SIGINT or
SIGHUP, the guard interrupts the command: DVC releases its locks, and a stage removes half-written
files. After GRACE seconds the guard kills all that still runs. It does the same with processes
that the command leaves behind when it ends. On Linux it adopts processes that lose their parent,
so it also finds those that have started a session of their own.

It ends with the code of the command, or with 128 + the signal that ended it. It imports the
standard library alone, so it starts in 20 ms.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

GRACE = 5.0  # seconds from the interrupt to the kill
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
CHILD_SUBREAPER = 36  # of Linux's prctl


def processes() -> Iterator[int]:
    """The ids of all processes; none where there is no /proc."""
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
        if name.isdigit():
            yield int(name)


def parent(process: int) -> int:
    """The parent of a process; 0 for a zombie and for a process that has ended."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        with open(f"/proc/{process}/stat") as handle:
            # The name in brackets may hold blanks.
            state, number, *_ = handle.read().rpartition(")")[2].split()
        return 0 if state == "Z" else int(number)
    return 0


def descendants() -> set[int]:
    """All processes below this one; none where there is no /proc: there only the group is known."""
    parents = {process: parent(process) for process in processes()}
    family = {os.getpid()}
    while more := {child for child, above in parents.items() if above in family} - family:
        family |= more
    return family - {os.getpid()}


def kill_session(leader: int) -> None:
    """Kill all processes of a session, which a guard that was itself killed has left behind."""
    for _ in range(50):  # a process that is killed may have started another just before
        alive = []
        for process in processes():
            with contextlib.suppress(OSError):
                if os.getsid(process) == leader and parent(process):
                    alive.append(process)
                    os.kill(process, signal.SIGKILL)
        if not alive:
            return
        time.sleep(0.02)


def send(number: int, group: int) -> None:
    """Signal the group; SIGKILL also goes to descendants outside of it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
    if number == signal.SIGKILL:
        for process in descendants():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process, number)


def alive(group: int) -> bool:
    """Whether a process below this one or of the group still runs."""
    if descendants():
        return True
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return not os.path.isdir("/proc/self")  # with /proc, only zombies are left in the group


def reap() -> dict[int, int]:
    """Codes of the children that have ended since the last call, a signal as a negative number."""
    codes = {}
    with contextlib.suppress(ChildProcessError):
        while True:
            process, status = os.waitpid(-1, os.WNOHANG)
            if not process:
                break
            codes[process] = os.waitstatus_to_exitcode(status)
    return codes


def end(group: int) -> None:
    """Interrupt the group, wait, and kill all that still runs when the grace is over."""
    send(signal.SIGINT, group)
    deadline = time.monotonic() + GRACE
    while alive(group) and time.monotonic() < deadline:
        reap()
        time.sleep(0.02)
    while alive(group):
        send(signal.SIGKILL, group)
        reap()
        time.sleep(0.02)
    reap()


def start(command: list[str]) -> "subprocess.Popen[bytes]":
    """Start ``command`` in a group of its own.

    To a module of ``pipelines`` an interrupt comes once it can take it (``end_at_once`` of
    ``stages.common.stopping``): while Python itself starts, it would be a traceback.
    """
    pairs = zip(command, command[1:])
    if any(option == "-m" and name.startswith("pipelines.") for option, name in pairs):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def watch(command: list[str]) -> int:
    """Run ``command`` in a group of its own and return the code to end with.

    Raises ``OSError`` where the command cannot be started.
    """
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    stopped: list[int] = []

    def stop(number: int, frame: object) -> None:
        if number in STOPS:
            stopped.append(number)

    for number in (*STOPS, signal.SIGCHLD):
        signal.signal(number, stop)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(CHILD_SUBREAPER, 1, 0, 0, 0)
    # Kept in a variable: a Popen without one may reap the command and take its code away.
    process = start(command)
    code = None
    while code is None and not stopped:
        ready, _, _ = select.select([wake_read, 0], [], [], 1.0)
        if 0 in ready and not os.read(0, 1024):
            stopped.append(signal.SIGHUP)
        if wake_read in ready:
            os.read(wake_read, 1024)
        code = reap().get(process.pid)
    end(process.pid)
    if code is None:
        return 128 + stopped[0]
    return 128 - code if code < 0 else code


def main(command: list[str]) -> int:
    try:
        return watch(command)
    except OSError as error:
        print(f"error: {command[0]} cannot be started: {error.strerror}", file=sys.stderr)
        return 127


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
