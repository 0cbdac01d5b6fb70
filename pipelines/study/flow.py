"""The study as a Prefect flow: a task per run, batch after batch, and the page at the end."""

from contextvars import ContextVar
from pathlib import Path
from typing import Any

from pipelines.flows.points import hopeless
from pipelines.flows.sweep_flow import announce, run_points
from pipelines.graph.snapshot import take_snapshot
from pipelines.machines import pool
from pipelines.machines.workers import Cluster, Workers
from pipelines.study.page import write
from pipelines.study.progress import Progress, planned
from prosmin.common.errors import UserError

# The import of sweep_flow has settled Prefect's variables.
from prefect import flow, get_run_logger  # isort: skip
from prefect import states  # isort: skip
from prefect.task_runners import ThreadPoolTaskRunner  # isort: skip


# Where the command line has checked the study a moment ago.
PLANNED: ContextVar[Progress | None] = ContextVar("planned", default=None)


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
    recorded: list[str] = [],  # noqa: B006
    slots: int = 2,
    echo: bool = False,
    workers: Workers | Cluster | None = None,
) -> states.State[Any]:
    """Run what is missing of a study, and write its page.

    Args:
        file: Of the study, such as studies/digits.yaml.
        name: Of the study, before the names of its experiments.
        changes: Settings of every run, such as corrupt.images=1000.
        folders: The folders that the file asks for, such as cifar10=/data/cifar10.
        recorded: Files of runs that ended on another commit or machine and are not repeated.
        slots: Runs at the same time, each with its share of cores and GPUs.
        echo: Whether to write to the terminal too.
        workers: Workers on any machine that take the runs, or a cluster. Empty: this machine.
    """
    try:
        progress = PLANNED.get() or planned(Path(file), name, changes, folders, recorded)
        with pool.running(take_snapshot(), slots, workers, name, (), announce(echo)) as running:
            while (step := progress.due()).runs:
                get_run_logger().info("%d runs are due", len(step.runs))
                points = {run.name: progress.point(run) for run in step.runs}
                progress.ended(points, run_points(points, running, progress.known.references, echo))
    except UserError as error:
        get_run_logger().error("%s", error)
        return states.Failed(message=str(error))
    page = write(progress.plan, step, progress.known)
    if failed := [name for name, why in progress.failed.items() if not hopeless(why)]:
        return states.Failed(message=f"page: {page}; failed: {', '.join(failed)}")
    return states.Completed(message=f"page: {page}")
