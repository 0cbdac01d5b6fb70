"""One run at a time in a folder: a second would delete the outputs that the first is reading."""

import contextlib
import fcntl
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import TextIO

from pipelines.engine.guard import STOPS
from pipelines.graph.healing import heal, make_room
from pipelines.graph.private import FOLDER, private
from prosmin.common.errors import UserError
from prosmin.common.files import running

PATIENCE = 20.0  # seconds for the guards of a run that was killed to end what it had started


@contextlib.contextmanager
def alone() -> Iterator[int | None]:
    """Hold the folder for this process; the system lets go of it whenever the process ends, however that happens.

    Yields the descriptor of the lock: a child that it is passed on to holds the folder with this process, and longer. None
    where it cannot be written, which is said. What a run before this one has left half-done is put in order first, with a line
    on standard error for each thing done.
    """
    with contextlib.ExitStack() as stack:
        lock = None
        path = FOLDER / "run.lock"
        _say(make_room(FOLDER, path))
        try:
            private()
            handle = stack.enter_context(open(path, "a+"))
            lock = handle.fileno()
            _take(handle)
        except OSError as error:
            print(
                f"warning: {path} cannot be written: {error.strerror}; nothing holds off a second run",
                file=sys.stderr,
            )
        _say(heal())
        try:
            yield lock
        finally:
            if lock is not None:
                fcntl.flock(lock, fcntl.LOCK_UN)


def tidy() -> None:
    """Put in order what an earlier run has left, unless one is at work here, which has done so."""
    with contextlib.suppress(UserError), alone():
        pass


def heard() -> list[int]:
    """The signals that ask a run to stop. ``nohup`` has it ignore the end of the terminal, and that is to stay so."""
    return [
        number
        for number in STOPS
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
    ]


def end_with_make() -> None:
    """Be stopped, as by SIGTERM, when the ``make`` that has started this process is killed: its children are not told."""
    maker = os.environ.pop("PROSMIN_MAKE", "")  # set by the Makefile

    def watch() -> None:
        while os.getppid() == int(maker):
            time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGTERM)

    if maker.isdigit():
        threading.Thread(target=watch, daemon=True).start()


def _take(handle: TextIO) -> None:
    end = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            handle.seek(0)
            holder = handle.read().strip()
            since = os.fstat(handle.fileno()).st_mtime
            killed = holder.isdigit() and not running(int(holder), since)
            if not killed or time.monotonic() > end:
                raise UserError(
                    f"another run is at work in this folder (process {holder}); let it finish, or cancel it"
                ) from None
        time.sleep(
            0.05
        )  # the guards of a run that was killed hold its lock until nothing of it is left
    with contextlib.suppress(OSError):  # on a full disk it is held all the same
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()


def _say(done: Iterator[str]) -> None:
    try:
        for line in done:
            print(line, file=sys.stderr, flush=True)
    except OSError as error:
        print(f"warning: {error.filename}: {error.strerror}; it was left as it is", file=sys.stderr)
