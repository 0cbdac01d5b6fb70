"""Which names an experiment may have, what a snapshot of the code looks like, and who commits.

git and the disk would read other texts as paths or as options.
"""

import os
import re
import subprocess

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


def knows_committer() -> bool:
    """Whether git and DVC know in whose name to commit in the current folder."""
    asked = (["var", "GIT_COMMITTER_IDENT"], ["config", "--get", "user.email"])
    if "GIT_COMMITTER_EMAIL" in os.environ:
        asked = asked[:1]
    answers = [subprocess.run(["git", *words], capture_output=True) for words in asked]
    return not any(answer.returncode for answer in answers)


def check_committer() -> None:
    """Raise ``UserError`` where nothing could be committed in the current folder."""
    if not knows_committer():
        raise UserError(
            "git knows no name for the commits of experiments; `git config user.name NAME` and "
            "`git config user.email ADDRESS` first"
        )
