"""What a checkout keeps beside git and DVC: ``.prosmin``, its user's alone, where also stands who is at work here."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from prosmin.errors import UserError
from prosmin.files import private_folder

FOLDER = Path(".prosmin")


def private(folder: Path = FOLDER) -> Path:
    """``folder``, made so that no other user can look into it. Raises ``UserError`` where that cannot be."""
    try:
        private_folder(FOLDER)
        private_folder(folder)
    except FileExistsError as error:
        raise UserError(f"{error.filename} is a file; it must be a folder, so move it away") from None
    except OSError as error:
        raise UserError(f"the folder {error.filename or folder} cannot be made or closed to others: {error.strerror}") from None
    return folder


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """One run at a time: a second would delete the outputs that the first is reading.

    The folder is held for this process; the system lets go of it whenever the process ends, however that happens.
    """
    path = private() / "run.lock"
    try:
        handle = open(path, "a+")
    except OSError as error:
        raise UserError(f"{path} cannot be opened: {error.strerror}") from None
    with handle:
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
