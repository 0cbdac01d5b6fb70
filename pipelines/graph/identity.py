"""Which names an experiment may have, and what a snapshot of the code looks like.

git and the disk would read other texts as paths or as options.
"""

import re

from prosmin.common.errors import UserError, shown

NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
# A commit, and after a plus that of the uncommitted changes, as ``take_snapshot`` returns them.
SNAPSHOT = r"[0-9a-f]{40,64}(\+[0-9a-f]{40,64})?"


def check_name(name: str) -> None:
    """Raise ``UserError`` for a text that cannot be the name of an experiment."""
    if not re.fullmatch(NAME, name):
        raise UserError(
            f"{name!r} cannot be the name of an experiment; use letters, digits, '-', '_' and '.'"
        )


def check_snapshot(snapshot: str) -> None:
    """Raise ``UserError`` for a text that is no snapshot."""
    if not re.fullmatch(SNAPSHOT, snapshot):
        raise UserError(
            f"snapshot is {shown(snapshot)}; "
            "it must be the full id of a commit, which a sweep fills in"
        )
