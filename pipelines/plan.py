"""``make plan``: which stages the next run will execute, why, and how long they took last.

``python -m pipelines.plan [STAGE...]`` tells it of these stages and of those that they need, or of
all. Nothing runs. A stage whose inputs come out as they were is skipped all the same, so the count
is the most that can happen. A stage that has run with the same inputs before is not counted: its
results come from DVC's cache. ``--last`` lists all stages of a run with the seconds and the memory
of their last run here.
"""

import argparse
import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pipelines.engine import measured
from pipelines.graph import dvc
from pipelines.graph.resources import written
from pipelines.graph.workspace import tidy
from prosmin.common.errors import UserError, listed, nearest
from stages.common import current, declared
from stages.params.load import load

CODE = ("prosmin", "stages")  # folders of code, of whose files git knows which differ
NAMED = 3  # stages in a reason
FORCED = "it is told to run again"
DIFFERS = "DVC finds that its files differ"


class Step(NamedTuple):
    """A stage that will run.

    reasons: one line each.
    seconds, memory: how long it took and how many bytes it held at most when it last ran here; None
        where it did not.
    """

    stage: str
    reasons: tuple[str, ...]
    seconds: float | None
    memory: float | None = None

    @property
    def took(self) -> str:
        """The seconds as text; empty where the stage has not run here."""
        return "" if self.seconds is None else spoken(self.seconds)

    @property
    def held(self) -> str:
        """The memory as text; empty where the stage has not run here."""
        return "" if self.memory is None else written(self.memory)


class Plan(NamedTuple):
    """What a run will do.

    steps: the stages that will run. restored: those whose results come from DVC's cache.
    stages: all of the run, with those that are up to date, in the order of a run. seconds, memory:
    how long the steps take together and how many bytes they hold at a time, as far as they have run
    here before. unused: datasets that nothing uses, and that are left out.
    """

    steps: tuple[Step, ...]
    restored: tuple[str, ...]
    stages: tuple[str, ...]
    seconds: float
    unused: tuple[str, ...]
    memory: float = 0

    def line(self) -> str:
        """Such as ``12 of 28 stages will run: about 2 min``."""
        count = len(self.stages)
        back = f"{len(self.restored)} of {count} stages come from DVC's cache"
        if not self.steps:
            return back if self.restored else f"all {count} stages are up to date"
        new = sum(step.seconds is None for step in self.steps)
        if new == len(self.steps):
            time = "none of them has run here before"
        else:
            time = f"about {spoken(self.seconds)}"
            time += f" and {written(self.memory)} of memory" if self.memory else ""
            comma = "," if self.memory else ""
            time += f"{comma} and {new} that have not run here before" if new else ""
        told = f"{len(self.steps)} of {count} stages will run: {time}"
        return f"{told}; {back}" if self.restored else told

    def head(self) -> Iterator[str]:
        """The line, and a line about each dataset that is left out."""
        yield self.line()
        for name in self.unused:
            yield (
                f"{declared.FETCH}.{name} is used by no stage and left out; "
                f"`dvc repro {declared.FETCH}@{name}` fetches it"
            )

    def text(self) -> Iterator[str]:
        """The head, and below it a row per stage, with a line per reason."""
        yield from self.head()
        rows = [((step.stage, step.took, step.held), step.reasons) for step in self.steps]
        rows += [((stage, "", ""), ("restored from DVC's cache",)) for stage in self.restored]
        if not rows:
            return
        yield ""
        columns = 3 if any(step.held for step in self.steps) else 2
        heads = aligned([head[:columns] for head, _ in rows])
        for head, (_, reasons) in zip(heads, rows, strict=True):
            for place, reason in enumerate(reasons):
                yield f"{' ' * len(head) if place else head}  {reason}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines, their columns as wide as their cells; all but the first end at the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([f"{row[0]:{widths[0]}}", *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]


def last(targets: Sequence[str] = ()) -> Iterator[str]:
    """A row per stage of a run: how long it took and how much it held when it last ran here.

    targets, and errors: as of ``plan``.
    """
    took, held = measured.SECONDS.load(), measured.MEMORY.load()
    names = _wanted(current.Look(Path(), dvc.recall, targets), targets)
    steps = [Step(name, (), took.get(name), held.get(name)) for name in names]
    for line in aligned([(step.stage, step.took or "not run here", step.held) for step in steps]):
        yield line.rstrip()


def plan(targets: Sequence[str] = ()) -> Plan:
    """The plan of ``make repro``, one stage after another.

    targets: stages and groups, with all that they need; empty: all stages.

    Raises:
        UserError: for an unknown target.
    """
    look = current.Look(Path(), dvc.recall, targets)
    names = _wanted(look, targets)
    return _of(look, names, [name for name in names if not look.reasons(name)])


def of(
    stages: Collection[str],
    unchanged: Collection[str],
    asked: Collection[str] = (),
    forced: bool = False,
) -> Plan:
    """The plan of a run of ``stages``, of which ``unchanged`` are up to date, as DVC finds.

    asked: the targets of the run. forced: whether stages run also where nothing has changed.
    """
    return _of(current.Look(Path(), dvc.recall, asked), stages, unchanged, forced)


def _of(
    look: current.Look, stages: Collection[str], unchanged: Collection[str], forced: bool = False
) -> Plan:
    took, held = measured.SECONDS.load(), measured.MEMORY.load()
    steps, restored = [], []
    for name in stages:
        reasons = look.reasons(name) if name in look.graph else []
        if not forced and name in look.graph and _is_restored(look, name):
            restored.append(name)
        elif name not in unchanged or forced:
            lines = tuple(_lines(reasons)) or (FORCED if forced else DIFFERS,)
            steps.append(Step(name, lines, took.get(name), held.get(name)))
    known = sum(step.seconds for step in steps if step.seconds is not None)
    most = max((step.memory or 0 for step in steps), default=0)
    return Plan(tuple(steps), tuple(restored), tuple(stages), known, tuple(look.unused), most)


def _is_restored(look: current.Look, name: str) -> bool:
    """Whether results that are missing or of other inputs come from DVC's cache."""
    here = all(Path(out).exists() for out in look.graph[name].outs)
    return look.after(name) is not None and not (look.current(name) and here)


def _wanted(look: current.Look, targets: Iterable[str]) -> list[str]:
    """The targets and all that they need, each behind what it needs."""
    if not look.graph:
        raise UserError(f"{declared.GRAPH} has no stage here; run this in the top folder")
    groups: dict[str, list[str]] = {}
    for name in look.graph:
        groups.setdefault(name.partition("@")[0], []).append(name)
    given: list[str] = []
    for target in targets:
        if target not in look.graph and target not in groups:
            raise UserError(
                f"{target!r} is not a stage{nearest(target, [*look.graph, *groups])}; "
                f"there are: {', '.join(groups)}"
            )
        given += [target] if target in look.graph else groups[target]
    order: dict[str, None] = {}
    seen: set[str] = set()

    def add(name: str) -> None:
        if name not in seen:
            seen.add(name)
            for need in look.needs(name):
                add(need)
            order[name] = None

    for name in given or look.graph:
        add(name)
    return list(order)


def _lines(reasons: Iterable[current.Reason]) -> Iterator[str]:
    """A line per change; the stages before, of which one reads results, together on one line."""
    after: dict[str, None] = {}
    for reason in reasons:
        after |= dict.fromkeys(reason.after)
        if not reason.after:
            yield from _files_of(reason)
    if after:
        yield f"after {listed(list(after), NAMED)}"


def _files_of(reason: current.Reason) -> list[str]:
    """The text of a reason; for a folder of code one line per file that git knows to differ."""
    if not Path(reason.path).is_dir() or reason.path.split("/")[0] not in CODE:
        return [reason.text]
    since = _git("log", "-1", "--format=%H", f"-S{reason.noted}", "--", str(declared.LOCK)).strip()
    names = _git("diff", "--name-only", since or "HEAD", "--", reason.path).split()
    names += _git("ls-files", "--others", "--exclude-standard", "--", reason.path).split()
    return [f"{name} changed" for name in names] or [reason.text]


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    return done.stdout


def spoken(seconds: float) -> str:
    """Seconds in the largest unit of which there are two at least: ``75 s``, ``2 min``, ``3 h``."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 1):.0f} s"


def main(given: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.plan", description="What the next run will do; nothing runs."
    )
    parser.add_argument("stages", nargs="*", help="these and what they need (default: all)")
    parser.add_argument(
        "--last",
        action="store_true",
        help="what each stage took when it last ran here: seconds, and memory at most",
    )
    options = parser.parse_args(given)
    load()  # what is wrong in params.yaml is said before anything is planned with it
    tidy()
    print("\n".join(last(options.stages) if options.last else plan(options.stages).text()))
    return 0


if __name__ == "__main__":
    from pipelines.run import command

    command(lambda: main(sys.argv[1:]))
