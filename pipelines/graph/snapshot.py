"""The state of the code that an experiment starts from, and copies of it.

Also which names an experiment may have, what a snapshot looks like, and who commits: git and the
disk would read other texts as paths or as options.
"""

import logging
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from prosmin.common.errors import UserError, shown
from stages.params.load import PARAMS

NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
# A commit, and after a plus that of the uncommitted changes, as ``take_snapshot`` returns them.
SNAPSHOT = r"[0-9a-f]{40,64}(\+[0-9a-f]{40,64})?"


def check_name(name: str) -> None:
    """Raise ``UserError`` for a text that cannot be the name of an experiment."""
    if not re.fullmatch(NAME, name):
        raise UserError(
            f"{name!r} cannot be the name of an experiment; use letters, digits, '-', '_' and '.'"
        )


def commits_of(snapshot: str) -> tuple[str, str]:
    """The commit of a snapshot and that of its uncommitted changes, or an empty text."""
    commit, _, edits = snapshot.partition("+")
    return commit, edits


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


# --- snapshots and copies -------------------------------------------------------------------------


def take_snapshot(untracked: Sequence[str] = ()) -> str:
    """The last commit and, after a plus, the uncommitted changes of tracked files.

    untracked: files that it has too.
    """
    here = Path.cwd()
    none = "has no commit yet; an experiment starts from one"
    commit = git(here, "rev-parse", "--verify", "HEAD", fails=none).strip()
    for path in ("dvc.yaml", str(PARAMS)):
        why = f"does not track {path}; `git add {path}` first"
        git(here, "ls-files", "--error-unmatch", path, fails=why)
    # `git status` notes new time stamps; `git stash create` fails where nothing else has changed.
    git(here, "status", "--porcelain")
    edits = git(here, "stash", "create").strip()
    if untracked:
        edits = _with_files(here, edits or commit, untracked)
    return "+".join(filter(None, [commit, edits]))


def _with_files(folder: Path, commit: str, paths: Sequence[str]) -> str:
    """A commit that has files of the folder besides those of ``commit``."""
    with tempfile.TemporaryDirectory() as scratch:
        index = {"GIT_INDEX_FILE": str(Path(scratch, "index"))}
        git(folder, "read-tree", commit, variables=index)
        git(folder, "update-index", "--add", "--", *paths, variables=index)
        tree = git(folder, "write-tree", variables=index).strip()
    return git(folder, "commit-tree", tree, "-p", commit, "-m", "a run").strip()


def clone_at(origin: Path, folder: Path, snapshot: str, results: bool = True) -> None:
    """Clone the origin into ``folder``, with its settings of DVC and its cache.

    snapshot: of ``take_snapshot``. results: whether the clone has those of ``dvc.lock``.
    """
    commit, edits = commits_of(snapshot)
    git(origin, "clone", "--quiet", "--shared", "--no-checkout", str(origin), str(folder))
    git(folder, "checkout", "--quiet", "--detach", commit)
    if edits:
        git(folder, "restore", "--source", edits, "--worktree", "--", ".")
    _share_cache(origin, folder, results)


def _share_cache(origin: Path, folder: Path, results: bool) -> None:
    """Give the experiment the settings that are not in git and the cache of the origin."""
    local = origin / ".dvc" / "config.local"
    if local.is_file():
        shutil.copy(local, folder / ".dvc")
    from dvc.repo import Repo

    with Repo(str(origin)) as repo:
        cache = repo.cache.legacy.path  # the top folder, with the run cache
    with Repo(str(folder)) as repo, repo.config.edit("local") as settings:
        settings["cache"]["dir"] = cache
    if results:
        # A result that is not in the cache is made anew, so DVC need not warn of it.
        logging.getLogger("dvc").setLevel(logging.ERROR)
        with Repo(str(folder)) as repo:
            repo.checkout(force=True, allow_missing=True)  # what is up to date need not run


def git(
    folder: Path, *arguments: str, fails: str = "", variables: Mapping[str, str] | None = None
) -> str:
    """The output of a git command.

    variables: of its environment, besides those of this process.

    Raises:
        UserError: with ``fails`` after "git", or with git's last line, where it fails.
    """
    process = subprocess.Popen(
        ["git", *arguments],
        cwd=folder,
        env={**os.environ, **(variables or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        output, errors = process.communicate()
    except BaseException:  # this process is to stop, and a git that is killed leaves its lock
        process.communicate()
        raise
    if process.returncode:
        said = errors.strip().splitlines()
        why = f"{arguments[0]} failed: {said[-1] if said else process.returncode}"
        lock = Path(folder, ".git", "index.lock")
        if not fails and lock.exists():  # of which `git stash` says nothing
            why = (
                f"{arguments[0]} failed: {lock} is there; "
                f"if no git is at work in this folder, `rm {lock}`"
            )
        raise UserError(f"git {fails or why}")
    return output
