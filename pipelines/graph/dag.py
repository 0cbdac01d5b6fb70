"""The graph as DVC has it: which stages there are, what each waits for, what each needs of the machine.

Nothing here names a stage. ``dvc.yaml`` is resolved by DVC itself (foreach, matrix, templates, nested files), so a stage
added there appears in every run. What a stage needs of the machine stands beside it, where DVC keeps it but never hashes it:

    meta: {resources: {gpus: 1, threads: 1, weight: 1}}     # gpus: a number or all, default 0; threads: a number or all, default 1

weight (default 1) is how long the stage takes against the others, for the order of a first run, before any has told.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prosmin.common.errors import UserError, nearest

if TYPE_CHECKING:
    from dvc.repo import Repo

Amount = int | Literal["all"]


@dataclass(frozen=True)
class Stage:
    """A stage with all that a run must know of it. ``needs``: stages of the same run whose outputs it reads."""

    name: str
    needs: tuple[str, ...] = ()
    gpus: Amount = 0
    threads: Amount = 1
    weight: int = 1


Look = tuple[
    dict[str, Stage], set[str]
]  # the stages of a run, and those of them for which there is nothing to do


@contextmanager
def opened() -> Iterator["Repo"]:
    """DVC's view of the current folder; its many kinds of complaint as one sentence each."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.scm import SCMError

    if not Path("dvc.yaml").is_file():
        raise UserError(
            f"there is no dvc.yaml in {Path.cwd().name}/; run this in the top folder of the project"
        )
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


def read(targets: Iterable[str] = (), downstream: bool = False) -> dict[str, Stage]:
    """The stages to run for ``targets`` (stages and foreach groups; none: all of dvc.yaml), in DVC's own order.

    downstream: the targets and what depends on them, instead of the targets and what they need.

    Raises ``UserError`` for an unknown target, a cycle, an invalid dvc.yaml and senseless resources.
    """
    with opened() as repo:
        return {stage.name: stage for stage in _plan(repo, list(targets), downstream)}


def _plan(repo: "Repo", targets: list[str], downstream: bool) -> list[Stage]:
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
            f"{unknown!r} is not a stage{nearest(unknown, [*known, *groups])}; there are: {', '.join(sorted(groups))}"
        ) from None
    order = plan_repro(graph, wanted, downstream=downstream)
    inside = set(order)
    return [
        Stage(
            name_of(stage),
            tuple(name_of(need) for need in graph.successors(stage) if need in inside),
            **_resources(stage),
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
    """How DVC is told of the stage from the top folder (its own ``addressing`` depends on the current one)."""
    name = getattr(stage, "name", None)
    if name is None:
        return stage.path_in_repo  # a .dvc file
    return name if stage.path_in_repo == "dvc.yaml" else f"{stage.path_in_repo}:{name}"


def _resources(stage: Any) -> dict[str, Any]:
    found = (stage.meta or {}).get("resources", {})
    allowed = {"gpus": 0, "threads": 1, "weight": 1}
    where = f"{stage.path_in_repo}: {getattr(stage, 'name', '')}: meta.resources"
    if not isinstance(found, dict):
        raise UserError(f"{where} is {found!r}; it must be like {{gpus: 1, threads: 1}}")
    for key, value in found.items():
        if key not in allowed:
            raise UserError(
                f"{where}.{key} is not a known key{nearest(key, allowed)}; allowed: {', '.join(allowed)}"
            )
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= allowed[key]
        if not whole and (value != "all" or key == "weight"):
            other = "" if key == "weight" else "all, or "
            raise UserError(
                f"{where}.{key} is {value!r}; it must be {other}a whole number of at least {allowed[key]}"
            )
    return found


@contextmanager
def locked() -> Iterator["Repo"]:
    """DVC's view of the current folder while no other DVC changes it."""
    from dvc.repo import lock_repo

    with opened() as repo, lock_repo(repo):
        yield repo


def look(targets: Iterable[str] = (), downstream: bool = False) -> Look:
    """What ``read`` returns, and those of its stages that DVC would find nothing to do for, nor for any before them.

    One look in one process, where asking DVC stage by stage costs half a second each.
    """
    with locked() as repo:
        stages = {stage.name: stage for stage in _plan(repo, list(targets), downstream)}
        by_name = {name_of(stage): stage for stage in repo.index.stages}
        done: set[str] = set()
        for (
            name,
            stage,
        ) in stages.items():  # in DVC's order, so what a stage needs has been looked at
            if done.issuperset(stage.needs) and not by_name[name].changed():
                done.add(name)
        return stages, done
