"""The study as a Prefect flow: a task per run, batch after batch, and the page at the end."""

from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from pipelines.flows.points import Point, Points
from pipelines.flows.sweep_flow import run_points
from pipelines.graph.experiment import take_snapshot
from pipelines.study import results
from pipelines.study.choice import Due, Failed, due
from pipelines.study.page import write
from pipelines.study.plan import Plan, Run, check_run, in_place, plan_of, quoted
from prosmin.common.errors import UserError

# The import of sweep_flow has settled Prefect's variables.
from prefect import flow, get_run_logger  # isort: skip
from prefect import states  # isort: skip
from prefect.task_runners import ThreadPoolTaskRunner  # isort: skip


# The plan and the folders, where the command line has checked them a moment ago.
PLANNED: ContextVar[tuple[Plan, dict[str, str]] | None] = ContextVar("planned", default=None)


class Progress:
    """What is known of the runs of a study: their experiments, and why others failed."""

    def __init__(self, plan: Plan, folders: Mapping[str, str]):
        self.plan, self.folders = plan, folders
        self.failed: dict[str, str] = {}
        self.references = results.references()

    def outcome(self, run: Run) -> float | Failed | None:
        """The metric on val of a run of the choice, 0 for a compared run that has ended."""
        if run.name in self.failed:
            return Failed(self.failed[run.name])
        if run.name not in self.references:
            return None
        choose = self.plan.study.choose
        if choose is None or not run.tries:
            return 0.0
        value = results.read(self.references[run.name]).value(choose.by)
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
        self.references = results.references()
        lost = dict.fromkeys(names, "its experiment stands on another commit")
        reasons = lost | dict(failed)
        self.failed |= {name: why for name, why in reasons.items() if name not in self.references}

    def due(self) -> Due:
        """The runs that are due next."""
        return due(self.plan, self.outcome, self.allowed)

    def point(self, run: Run) -> Point:
        """A run, for the engine of sweeps."""
        changes = {key: quoted(in_place(value, self.folders)) for key, value in run.changes.items()}
        return Point(changes, run.stages, f"{run.method}, {run.place}")


@flow(
    name="study",
    flow_run_name="study {file}",
    task_runner=ThreadPoolTaskRunner(max_workers=1000),
)
def run_study(
    file: str,
    name: str,
    changes: list[str] = [],  # noqa: B006 (Prefect shows the default in its form)
    folders: list[str] = [],  # noqa: B006
    slots: int = 2,
    echo: bool = False,
) -> states.State[Any]:
    """Run what is missing of a study, and write its page.

    Args:
        file: Of the study, such as studies/digits.yaml.
        name: Of the study, before the names of its experiments.
        changes: Settings of every run, such as corrupt.images=1000.
        folders: The folders that the file asks for, such as cifar10=/data/cifar10.
        slots: Runs at the same time, each with its share of cores and GPUs.
        echo: Whether to write to the terminal too.
    """
    try:
        progress = Progress(*(PLANNED.get() or plan_of(Path(file), name, changes, folders)))
        snapshot = take_snapshot()
    except UserError as error:
        get_run_logger().error("%s", error)
        return states.Failed(message=str(error))
    running = Points(snapshot, slots)
    while (step := progress.due()).runs:
        get_run_logger().info("%d runs are due", len(step.runs))
        points = {run.name: progress.point(run) for run in step.runs}
        progress.ended(points, run_points(points, running, progress.references, echo))
    page = write(progress.plan, step, progress.references)
    if progress.failed:
        failed = ", ".join(progress.failed)
        return states.Failed(message=f"page: {page}; failed: {failed}")
    return states.Completed(message=f"page: {page}")
