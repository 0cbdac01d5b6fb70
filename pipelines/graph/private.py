"""``.prosmin``: files of a checkout that neither git nor DVC keeps, closed to other users."""

from pathlib import Path

from prosmin.common.errors import UserError
from prosmin.common.files import private_folder

FOLDER = Path(".prosmin")


def private(folder: Path = FOLDER) -> Path:
    """Make ``folder`` so that no other user can look into it, and return it.

    Raises:
        UserError: where it cannot be made or closed.
    """
    try:
        private_folder(FOLDER)
        private_folder(folder)
    except FileExistsError as error:
        raise UserError(
            f"{error.filename} is a file; it must be a folder, so move it away"
        ) from None
    except OSError as error:
        where = error.filename or folder
        raise UserError(
            f"the folder {where} cannot be made or closed to others: {error.strerror}"
        ) from None
    return folder
