"""Errors for damaged files: one sentence that names the file, the fault and the remedy."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from prosmin.common.errors import UserError, reason

# What to do about files of this project. A program that knows the command adds it to the sentence.
AGAIN = "remove it and make it again"
PRETRAIN = "pretrain a model first"
FETCH = "fetch the dataset first"

log = logging.getLogger(__name__)


def damaged(
    path: str | Path, why: str, remedy: str = AGAIN, says: str = "cannot be read"
) -> UserError:
    """Return the error for a damaged file.

    why: the fault inside the file. remedy: the user's next step. says: the fault of the whole file.
    """
    return UserError(f"{path} {says} ({why}); {remedy}")


@contextlib.contextmanager
def decoding(path: str | Path, remedy: str = AGAIN, says: str = "cannot be read") -> Iterator[None]:
    """Turn every exception of a reader into a ``UserError``.

    Libraries raise nearly any type for a damaged file. Errors of the system, such as a file that
    does not exist, stay as they are.

    remedy, says: as for ``damaged``.
    """
    try:
        yield
    except (UserError, OSError):
        raise
    except Exception as error:
        log.debug("%s", path, exc_info=True)
        raise damaged(path, reason(error), remedy, says) from None
