"""One run at a time in a folder: a second would delete the outputs that the first is reading."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from prosmin.errors import UserError


@contextlib.contextmanager
def alone(folder: Path = Path(".prosmin")) -> Iterator[None]:
    """Hold the folder for this process; the system lets go of it whenever the process ends, however that happens."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "run.lock", "a+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            holder = handle.read().strip()
            raise UserError(
                f"another run is at work in this folder (process {holder}); let it finish, or cancel it"
            ) from None
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield
