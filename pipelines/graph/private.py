"""What a checkout keeps beside git and DVC: ``.prosmin``, its user's alone."""

from pathlib import Path

from prosmin.common.errors import UserError
from prosmin.common.files import private_folder

FOLDER = Path(".prosmin")


def private(folder: Path = FOLDER) -> Path:
    """``folder``, made so that no other user can look into it. Raises ``UserError`` where that cannot be."""
    try:
        private_folder(FOLDER)
        private_folder(folder)
    except FileExistsError as error:
        raise UserError(
            f"{error.filename} is a file; it must be a folder, so move it away"
        ) from None
    except OSError as error:
        raise UserError(
            f"the folder {error.filename or folder} cannot be made or closed to others: {error.strerror}"
        ) from None
    return folder
