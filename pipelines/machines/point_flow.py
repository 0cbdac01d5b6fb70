"""The flow that a worker runs: one point of a sweep, in a clone of its own.

``pipelines/worker.py`` starts the worker in a clone of the project, and ``pool.py`` sends the
points. The point runs with the code of the sweep, pipelines included: its clone is at the snapshot
of the sweep. What it leaves in this machine is its part of DVC's cache.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

from pipelines.flows.points import Point, Points
from pipelines.flows.server import settle
from pipelines.graph.experiment import clone_of
from pipelines.graph.snapshot import check_name, check_snapshot, commits_of
from pipelines.machines import exchange
from pipelines.machines.beat import Beat
from pipelines.machines.workers import GIT, NAME, PATIENCE, REMOTE
from prosmin.common.errors import UserError

settle()  # before the imports below: Prefect reads its settings when it is imported

from prefect import flow, get_run_logger  # noqa: E402
from prefect.runtime import flow_run  # noqa: E402
from prefect.states import Completed, Crashed, Failed, State  # noqa: E402

REQUIREMENTS = "requirements.lock"


@flow(name="point", flow_run_name="{name}")
def run_point(
    name: str,
    sweep: str,
    snapshot: str,
    changes: dict[str, Any],
    stages: list[str] = [],  # noqa: B006 (Prefect shows the default in its form)
    patience: float = PATIENCE,
    single: bool = False,
) -> State[Any]:
    """Run a point and push its experiment.

    Args:
        name: Of the experiment.
        sweep: Name of the sweep, under which the git remote has its code.
        snapshot: The commit of the code, and after a plus that of uncommitted changes.
        changes: Settings with their values.
        stages: Stages to run, with all that they need. Empty: all stages.
        patience: Seconds without an answer of the server after which another worker takes over.
        single: Run the stages alone, not those that they need.
    """
    log, worker = get_run_logger(), os.environ.get(NAME, "")
    remote = os.environ.get(GIT, REMOTE)
    points = Points(snapshot, slots=1)
    beat = Beat(UUID(str(flow_run.id)), patience, worker, points.stop)

    def patiently(action: Callable[[], None]) -> None:
        exchange.patiently(action, patience, log.warning, lambda: beat.lost)

    try:
        for given in (name, sweep):
            check_name(given)
        check_snapshot(snapshot)
        with beat.going():
            log.info("on the worker %s", worker)
            exchange.settle_git()
            url, here = exchange.address(remote), Path.cwd()
            patiently(lambda: exchange.receive(snapshot, sweep, remote))
            exchange.settle_author(commits_of(snapshot)[0])
            with clone_of(snapshot, name, results=False) as folder:
                check_environment(here, folder)
                wanted, whole = (exchange.needs(stages), False) if single else (stages, True)
                patiently(lambda: exchange.fetch_data(wanted, whole))
                point = Point(changes, stages, single=single)
                why = points.run(name, point, log.info)
                if not why:
                    beat.check()
                    patiently(lambda: exchange.push_experiment(name, url))
    except UserError as error:
        why = str(error)
    if beat.lost:
        log.error("%s", beat.lost)
        return Crashed(message=beat.lost)  # another worker takes it up
    if why:
        log.error("%s", why)
        return Failed(message=why)
    return Completed(message=f"on {worker}")


def check_environment(worker: Path, point: Path) -> None:
    """Check that the environment of a worker is that of the code of a point.

    worker, point: their folders.

    Raises:
        UserError: where ``requirements.lock`` differs.
    """
    locks = [folder / REQUIREMENTS for folder in (worker, point)]
    installed, wanted = (path.read_bytes() if path.is_file() else b"" for path in locks)
    if installed != wanted:
        raise UserError(
            f"the worker {os.environ.get(NAME, '')} has the packages of another {REQUIREMENTS} "
            "than the sweep; there, `git pull` and start `make worker` again"
        )
