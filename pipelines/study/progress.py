"""What is known of the runs of a study, and which are due next."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pipelines.flows.points import Point
from pipelines.study import record
from pipelines.study.choice import Due, Failed, due
from pipelines.study.plan import Plan, Run, check_run, in_place, plan_of, quoted
from pipelines.study.results import Known, Result, references
from prosmin.common.errors import UserError


class Progress:
    """What is known of the runs of a study: those that ended well, and why others failed.

    folders: by name, of the command line. recorded: runs that are not repeated, by ``Run.key``.
    """

    def __init__(
        self, plan: Plan, folders: Mapping[str, str], recorded: Mapping[str, Result] | None = None
    ):
        self.plan, self.folders = plan, folders
        self.failed: dict[str, str] = {}
        self.known = Known(references(), recorded or {})

    def outcome(self, run: Run) -> float | Failed | None:
        """The metric on val of a run of the choice, 0 for a compared run that has ended."""
        if run.name in self.failed:
            return Failed(self.failed[run.name])
        if not self.known.has(run):
            return None
        choose = self.plan.study.choose
        if choose is None or not run.tries:
            return 0.0
        result = self.known.result(run)
        value = result.value(choose.by) if result else None
        return Failed(f"it has no {choose.by}") if value is None else value

    def allowed(self, run: Run) -> bool:
        """Whether the settings of a run can be set."""
        try:
            check_run(run, self.folders)
        except UserError:
            return False
        return True

    def ended(self, names: Iterable[str], failed: Mapping[str, str]) -> None:
        """Note how a batch of runs ended. failed: why runs did, by name.

        A run of a study that was killed a moment ago may end well while the same run fails here.
        """
        self.known = replace(self.known, references=references())
        lost = dict.fromkeys(names, "its experiment stands on another commit")
        reasons = lost | dict(failed)
        ended = self.known.references
        self.failed |= {name: why for name, why in reasons.items() if name not in ended}

    def due(self) -> Due:
        """The runs that are due next."""
        return due(self.plan, self.outcome, self.allowed)

    def point(self, run: Run) -> Point:
        """A run, for the engine of sweeps."""
        changes = {key: quoted(in_place(value, self.folders)) for key, value in run.changes.items()}
        return Point(changes, run.stages, f"{run.method}, {run.place}")


def planned(
    file: Path, name: str, changes: Sequence[str], folders: Sequence[str], recorded: Sequence[str]
) -> Progress:
    """A study with every run known so far checked. The arguments are those of the flow.

    Raises:
        UserError: where a file, a setting or a folder is wrong.
    """
    plan, located = plan_of(file, name, changes, folders)
    return Progress(plan, located, record.read(map(Path, recorded)))
