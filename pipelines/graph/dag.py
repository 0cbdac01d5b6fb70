"""The graph as DVC reads it: its stages, their order, and their share of the machine.

Nothing here names a stage. DVC itself resolves ``dvc.yaml`` (foreach, matrix, templates, nested
files), so a stage that is added there appears in every run. The share of the machine stands beside
the stage (``resources.py``).
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipelines.graph import resources
from pipelines.graph.dvc_params import read_once
from prosmin.common.errors import UserError, nearest
from stages.common import declared

if TYPE_CHECKING:
    from dvc.repo import Repo

Amount = int | Literal["all", "free"]


@dataclass(frozen=True)
class Stage:
    """A stage of a run.

    needs: stages of the same run whose outputs it reads.
    memory: bytes that it holds at most; None where ``dvc.yaml`` does not say.
    """

    name: str
    needs: tuple[str, ...] = ()
    gpus: Amount = 0
    threads: Amount = 1
    weight: int = 1
    memory: int | None = None


# The stages of a run, and those of them that are up to date.
Look = tuple[dict[str, Stage], set[str]]


@contextmanager
def opened() -> Iterator["Repo"]:
    """Open the current folder as a DVC repository.

    Raises:
        UserError: one sentence for any exception of DVC in the block.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.scm import SCMError

    if not Path("dvc.yaml").is_file():
        raise UserError(
            f"there is no dvc.yaml in {Path.cwd().name}/; run this in the top folder of the project"
        )
    read_once()
    try:
        with Repo(_wait_for_lock=True) as repo:
            yield repo
    except SCMError:
        raise UserError(
            "this folder is not a git clone, and DVC needs one; use `git clone`, or `git init`"
        ) from None
    except DvcException as error:
        raise UserError(sentence(error)) from None


def sentence(error: BaseException) -> str:
    """The whole chain of DVC's exceptions on one line, without advice that names its web pages."""
    parts: list[str] = []
    while error is not None:
        text = " ".join(str(error).split())
        if text and not any(text in part for part in parts):
            parts.append(text)
        error = error.__cause__
    return ": ".join(parts) or type(error).__name__


def read(
    targets: Iterable[str] = (), downstream: bool = False, single: bool = False
) -> dict[str, Stage]:
    """The stages of a run, in DVC's order, without those of datasets that nothing uses.

    Args:
        targets: Stages and foreach groups to run, with all that they need; empty: all stages.
        downstream: Run the targets and the stages that depend on them instead.
        single: Run the targets alone.

    Raises:
        UserError: for an unknown target, a cycle, an invalid dvc.yaml and invalid resources.
    """
    with opened() as repo:
        return {stage.name: stage for stage in _plan(repo, list(targets), downstream, single)}


def _plan(repo: "Repo", targets: list[str], downstream: bool, single: bool) -> list[Stage]:
    from dvc.exceptions import DvcException
    from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro

    graph = get_active_graph(repo.index.graph)  # also what finds a cycle
    known = {name_of(stage): stage for stage in graph}
    try:
        wanted = collect_stages(repo, targets or ["dvc.yaml"])
    except DvcException:
        unknown = next(target for target in targets if not _exists(repo, target))
        groups = {name.partition("@")[0] for name in known}
        raise UserError(
            f"{unknown!r} is not a stage{nearest(unknown, [*known, *groups])}; "
            f"there are: {', '.join(sorted(groups))}"
        ) from None
    unused = declared.unused(declared.sections(declared.PARAMS), asked=targets)
    spare = {name for stages in unused.values() for name in stages}
    order = [
        stage
        for stage in plan_repro(graph, wanted, downstream=downstream)
        if name_of(stage) not in spare and (not single or stage in wanted)
    ]
    inside = set(order)
    return [
        Stage(
            name_of(stage),
            tuple(name_of(need) for need in graph.successors(stage) if need in inside),
            **resources.declared(stage),
        )
        for stage in order
    ]


def _exists(repo: "Repo", target: str) -> bool:
    from dvc.exceptions import DvcException

    try:
        return bool(repo.stage.collect(target))
    except DvcException:
        return False


def name_of(stage: Any) -> str:
    """DVC's address of a stage, from the top folder instead of the current one."""
    name = getattr(stage, "name", None)
    if name is None:
        return stage.path_in_repo  # a .dvc file
    return name if stage.path_in_repo == "dvc.yaml" else f"{stage.path_in_repo}:{name}"


@contextmanager
def locked() -> Iterator["Repo"]:
    """Open the current folder as a DVC repository, under DVC's lock."""
    from dvc.repo import lock_repo

    with opened() as repo, lock_repo(repo):
        yield repo


def look(targets: Iterable[str] = (), downstream: bool = False, single: bool = False) -> Look:
    """The stages of ``read``, and those that are up to date together with all that they need.

    To ask DVC stage by stage would cost half a second per stage.
    """
    with locked() as repo:
        planned = _plan(repo, list(targets), downstream, single)
        stages = {stage.name: stage for stage in planned}
        by_name = {name_of(stage): stage for stage in repo.index.stages}
        done: set[str] = set()
        for name, stage in stages.items():  # DVC's order: first the stages that a stage needs
            if done.issuperset(stage.needs) and not by_name[name].changed():
                done.add(name)
        return stages, done
