"""What goes between machines: code and experiments by git, data and cache by the DVC remote.

The snapshot of a sweep lies in the git remote under ``refs/sweeps/<sweep>/`` while the sweep runs.
Every machine has its own address of and credentials for both remotes.
"""

import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipelines.graph import dag, lockfile
from pipelines.graph.snapshot import commits_of, git, knows_committer
from prosmin.common.errors import UserError
from stages.common.declared import LOCK

if TYPE_CHECKING:
    from dvc.repo import Repo

Answer = TypeVar("Answer")
PAUSE = 5.0  # seconds until a remote is tried again
PASSWORD = re.compile(r"://[^/@\s]*@")
# DVC's commands lock the folder, and threads of one process must not meet in its caches.
_ONE_AT_A_TIME = threading.Lock()


def settle_git() -> None:
    """Have git ask no question, and have DVC reach git by the ssh of the system.

    Without the variable, DVC reaches git by a library that takes any host key.
    """
    os.environ.setdefault("GIT_TERMINAL_PROMPT", "0")
    if "GIT_SSH_COMMAND" not in os.environ and "GIT_SSH" not in os.environ:
        done = subprocess.run(
            ["git", "config", "--get", "core.sshCommand"], capture_output=True, text=True
        )
        os.environ["GIT_SSH_COMMAND"] = done.stdout.strip() or "ssh -o BatchMode=yes"


def settle_author(commit: str) -> None:
    """Commit as the committer of ``commit`` where this machine has no name for its user.

    A worker on a bare machine would lose an experiment for want of a name.
    """
    if knows_committer():
        return
    name, email = git(Path(), "show", "-s", "--format=%cn%n%ce", commit).splitlines()
    for role in ("AUTHOR", "COMMITTER"):
        os.environ.setdefault(f"GIT_{role}_NAME", name)
        os.environ.setdefault(f"GIT_{role}_EMAIL", email)


def address(remote: str) -> str:
    """The URL of a git remote of the current folder.

    Raises:
        UserError: where there is none of this name.
    """
    why = (
        f"has no remote {remote}, through which code and experiments go between machines: "
        f"`git remote add {remote} URL`"
    )
    url = git(Path(), "remote", "get-url", remote, fails=why).strip()
    return str(Path(url).resolve()) if Path(url).exists() else url


def check(remote: str) -> None:
    """Check that the git remote answers, and that DVC has a default remote.

    Raises:
        UserError: where it does not, or has none.
    """
    address(remote)
    _git("ls-remote", "--quiet", remote, "HEAD")
    with dag.opened() as repo:
        if not repo.config["core"].get("remote"):
            raise UserError(
                "DVC has no default remote, through which data and results go between machines: "
                "`dvc remote add -d NAME URL` (docs/sharing.md)"
            )


def send(snapshot: str, sweep: str, remote: str, stages: Sequence[str], whole: bool = True) -> None:
    """Push the code of a sweep and the results of stages.

    whole: also the results of the stages that these need. No stages: all results.
    """
    commit, edits = commits_of(snapshot)
    pairs = [f"{commit}:{_reference(sweep)}/commit"]
    pairs += [f"{edits}:{_reference(sweep)}/edits"] if edits else []
    _git("push", "--quiet", "--force", remote, *pairs)
    with _repository("data cannot be pushed to the DVC remote") as repo:
        repo.push(targets=list(stages) or None, with_deps=whole and bool(stages))


def withdraw(snapshot: str, sweep: str, remote: str) -> None:
    """Remove the code of a sweep from the git remote."""
    names = ["commit", "edits"] if commits_of(snapshot)[1] else ["commit"]
    _git("push", "--quiet", remote, *(f":{_reference(sweep)}/{name}" for name in names))


def receive(snapshot: str, sweep: str, remote: str) -> None:
    """Fetch the code of a sweep.

    Raises:
        UserError: where the remote cannot be reached or no longer has it.
    """
    for name, wanted in zip(("commit", "edits"), commits_of(snapshot), strict=True):
        if wanted:
            reference = f"{_reference(sweep)}/{name}"
            _git("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", remote, reference)
            gone = f"remote {remote} no longer has {wanted[:10]}, the code of the sweep {sweep}"
            git(Path(), "cat-file", "-e", f"{wanted}^{{commit}}", fails=gone)


def _reference(sweep: str) -> str:
    return f"refs/sweeps/{sweep}"


def fetch_data(stages: Sequence[str], whole: bool = True) -> None:
    """Fetch into the cache what ``dvc.lock`` lists for the stages.

    What the remote lacks is left out, and made anew by its stage.

    whole: also for all that they need. No stages: for all.
    """
    with _repository("the DVC remote cannot be read") as repo:
        storage = repo.cloud.get_remote_odb()
        storage.fs.exists(storage.path)  # DVC itself reports a remote that is away as missing files
        repo.fetch(targets=list(stages) or None, with_deps=whole and bool(stages))


def push_experiment(name: str, url: str) -> None:
    """Push an experiment of the current folder and its part of the cache, as ``dvc exp push``."""
    with _repository(f"the experiment {name} cannot be pushed") as repo:
        done = repo.experiments.push(url, [name], force=True, push_cache=True)
        if name not in (*done.get("success", ()), *done.get("up_to_date", ())):
            raise UserError(f"the git remote has not taken the experiment {name}")


def pull_experiment(name: str, commit: str, remote: str) -> None:
    """Fetch an experiment and its part of the cache, as ``dvc exp pull``.

    Raises:
        UserError: where a remote cannot be reached, or lacks it.
    """
    experiment = reference(name, commit)
    with _repository(f"the experiment {name} cannot be fetched") as repo:
        repo.experiments.pull(remote, [experiment], pull_cache=True)
    git(Path(), "rev-parse", "--verify", experiment, fails=f"remote {remote} has no {name}")


def reference(name: str, commit: str) -> str:
    """The reference of git that DVC gives an experiment which started from a commit."""
    from dvc.repo.experiments.refs import ExpRefInfo

    return str(ExpRefInfo(commit, name))


def forget(name: str, commit: str, remote: str) -> None:
    """Remove an experiment here and from the git remote."""
    experiment = reference(name, commit)
    git(Path(), "update-ref", "-d", experiment)
    _git("push", "--quiet", remote, f":{experiment}")


# --- one stage of this folder ---------------------------------------------------------------------


def needs(stages: Sequence[str]) -> list[str]:
    """The stages whose results the given stages read, without those that these need in turn."""
    graph = dag.read(stages)
    return sorted({need for stage in stages for need in graph[stage].needs})


def untracked(stages: Sequence[str]) -> list[str]:
    """Files of git that a copy of the folder lacks: the lock, and metrics and plots of stages."""
    with dag.opened() as repo:
        collected = [stage for name in stages for stage in repo.stage.collect(name)]
        outs = [str(out) for stage in collected for out in stage.outs if not out.use_cache]
    paths = [str(LOCK), *outs]
    return git(Path(), "ls-files", "--others", "--exclude-standard", "--", *paths).splitlines()


def adopt(name: str, commit: str, stage: str) -> None:
    """Take the results and the entry of ``dvc.lock`` of one stage out of an experiment.

    The entry comes after the files that git has, so a stage that is torn here runs again.

    Raises:
        UserError: where an input of the stage here is another than there.
    """
    experiment = reference(name, commit)
    with dag.locked() as repo:
        (own,) = repo.stage.collect(stage)
        plain = [str(out) for out in own.outs if not out.use_cache]
        if plain:
            git(Path(), "restore", "--source", experiment, "--worktree", "--", *plain)
        lockfile.adopt(stage, lambda path: git(Path(), "show", f"{experiment}:{path}"))
        repo.checkout(targets=[stage], force=True)
    with dag.locked() as repo:
        (own,) = repo.stage.collect(stage)
        if own.changed():
            lockfile.remove(stage)
            raise UserError(
                f"{stage} ran on a worker with other inputs than it has here now; run it again"
            )


@contextmanager
def _repository(fails: str) -> Iterator["Repo"]:
    """Open the current folder as a DVC repository.

    Raises:
        UserError: ``fails`` and the reason, for any exception: the libraries of remotes have many.
    """
    import logging

    from dvc.repo import Repo

    for name in ("dvc", "dvc_data"):  # a result that is in no remote is made anew
        logging.getLogger(name).setLevel(logging.ERROR)
    with _ONE_AT_A_TIME:
        try:
            with Repo(_wait_for_lock=True) as repo:
                yield repo
        except UserError:
            raise
        except Exception as error:
            raise UserError(hidden(f"{fails}: {dag.sentence(error)}")) from None


def _git(*arguments: str) -> None:
    try:
        git(Path(), *arguments)
    except UserError as error:
        raise UserError(hidden(str(error))) from None


def hidden(text: str) -> str:
    """A text without the credentials in its URLs."""
    return PASSWORD.sub("://…@", text)


def patiently(
    action: Callable[[], Answer],
    seconds: float,
    tell: Callable[[str], Any],
    stopped: Callable[[], Any],
) -> Answer:
    """Try an action again for ``seconds`` while it raises a ``UserError``, then raise it.

    tell: gets a sentence for the first failure. stopped: whether to raise it at once.
    """
    end, told = time.monotonic() + seconds, False
    while True:
        try:
            return action()
        except UserError as error:
            if time.monotonic() >= end or stopped():
                raise
            if not told:
                tell(f"{error}; trying again for {seconds:.0f} seconds")
                told = True
        time.sleep(PAUSE)
