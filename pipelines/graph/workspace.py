"""One run at a time in a folder: a second would delete the outputs that the first is reading."""

import contextlib
import fcntl
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from pipelines.engine import measured
from pipelines.engine.guard import STOPS
from pipelines.graph import reads
from pipelines.graph.healing import heal, make_room
from pipelines.graph.private import FOLDER, private
from prosmin.common.errors import UserError
from prosmin.common.files import running
from stages.common import layout, proof

PATIENCE = 20.0  # seconds for the guards of a run that was killed to end what it had started
MEGABYTE = 2**20
FILES, PROBE = 3, 4  # files tried on a disk, megabytes of each


@contextlib.contextmanager
def alone() -> Iterator[int | None]:
    """Hold the folder for this process; the system releases it whenever the process ends.

    What an earlier run has left half-done is repaired first, with a line per repair on standard
    error. Yields the descriptor of the lock: a child that inherits it holds the folder too, and
    longer. Yields None, after a warning, where the lock cannot be written.
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
            why = f"{path} cannot be written: {error.strerror}; nothing holds off a second run"
            print(f"warning: {why}", file=sys.stderr)
        _say(heal())
        with contextlib.suppress(OSError):  # a full disk: only these numbers are lost
            measured.keep()
        reads.forget()
        try:
            yield lock
        finally:
            if lock is not None:
                fcntl.flock(lock, fcntl.LOCK_UN)


def tidy() -> None:
    """Repair what an earlier run has left, unless a run is at work here: it has done so."""
    with contextlib.suppress(UserError), alone():
        pass


def heard() -> list[int]:
    """The signals that ask a run to stop; without SIGHUP where ``nohup`` has had it ignored."""
    return [
        number
        for number in STOPS
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
    ]


def end_with_make() -> None:
    """Stop this process, as SIGTERM does, when the ``make`` that has started it is killed.

    The system does not tell the children of a killed process.
    """
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
                    f"another run is at work in this folder (process {holder}); "
                    "let it finish, or cancel it"
                ) from None
        # The guards of a run that was killed hold its lock until nothing of it is left.
        time.sleep(0.05)
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


def disk_fault() -> str:
    """A sentence where files of a few megabytes cannot be written here or in DVC's cache.

    DVC itself says "No possible cache link types" where a copy from its cache meets a full disk.
    Outputs may be on disks of their own. Several files are tried, because DVC has removed the file
    for which there was no inode.
    """
    folders = (Path(), proof.cache(), layout.METRICS, layout.PLOTS, layout.RESULTS, Path("data"))
    disks = {os.stat(folder).st_dev: folder for folder in folders[::-1] if folder.is_dir()}
    for folder in disks.values():
        try:
            with contextlib.ExitStack() as stack:
                for _ in range(FILES):
                    file = stack.enter_context(tempfile.TemporaryFile(dir=folder, buffering=0))
                    for _ in range(PROBE):
                        file.write(bytes(MEGABYTE))
        except OSError as error:
            return f"{folder.resolve()} cannot be written to: {error.strerror}"
    return ""
