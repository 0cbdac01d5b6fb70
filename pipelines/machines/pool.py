"""Sends points of a sweep to a work pool, and takes their experiments back.

Each point is a run of the flow in ``point_flow.py``. The server hands a run to one worker. A run
whose worker has died (``beat.py``) is followed by another of the same point. The id of a run comes
from the point, so a sweep that was killed and started again takes up its runs where they are.
"""

import hashlib
import itertools
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.flows.points import Point, Points, Running
from pipelines.graph.snapshot import commits_of
from pipelines.machines import exchange, slurm
from pipelines.machines.exchange import Answer
from pipelines.machines.watch import Watch
from pipelines.machines.workers import CLONE, Cluster, Workers
from prosmin.common.errors import UserError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

# A work pool whose runs choose no settings: no command, no environment, no folder.
TEMPLATE = Path(__file__).with_name("work_pool.json")
ENTRYPOINT = "pipelines/machines/point_flow.py:run_point"
MOST = 3  # workers that a point may lose
UNWELL = 300.0  # seconds that the server may be away when a run is created


@dataclass(frozen=True)
class Code:
    """The code of points. sweep: under which name the git remote has it; snapshot: its state."""

    sweep: str
    snapshot: str

    @property
    def commit(self) -> str:
        """The commit that experiments of the code start from."""
        return commits_of(self.snapshot)[0]


@contextmanager
def running(
    snapshot: str,
    slots: int,
    workers: Workers | Cluster | None,
    sweep: str,
    stages: Sequence[str],
    show: Callable[[str], None],
) -> Iterator[Running]:
    """What runs the points of a sweep while the block runs: this machine, or others.

    Args:
        snapshot: The state of the code, of ``take_snapshot``.
        slots: Points at the same time on this machine, or jobs of an array of the cluster.
        workers: Those that take the points, or a cluster; None: this machine.
        sweep: Its name.
        stages: That the points run; empty: all.
        show: Gets lines about the workers.

    Raises:
        UserError: where a remote is missing or cannot be reached.
    """
    if workers is None:
        yield Points(snapshot, slots)
        return
    if isinstance(workers, Cluster):
        with slurm.opened(snapshot, workers, slots, show) as jobs:
            yield jobs
        return
    exchange.settle_git()
    exchange.check(workers.remote)
    try:
        exchange.send(snapshot, sweep, workers.remote, stages)
        with client_of() as client:
            pool = Pool(client, workers, Code(sweep, snapshot), show)
            if said := pool.unserved():
                show(said)
            with pool.watch.going():
                yield pool
    finally:
        with suppress(UserError):  # the remote is away; the next sweep of this name replaces it
            exchange.withdraw(snapshot, sweep, workers.remote)


@contextmanager
def client_of() -> "Iterator[SyncPrefectClient]":
    """A client of the server of this process, for all threads."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        yield client


def ensure(client: "SyncPrefectClient", workers: Workers) -> None:
    """Make the work pool and its queue where they are missing."""
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists

    template = json.loads(TEMPLATE.read_text())
    new = WorkPoolCreate(name=workers.pool, type="process", base_job_template=template)
    for make in (
        lambda: client.create_work_pool(new),
        lambda: client.create_work_queue(workers.queue, work_pool_name=workers.pool),
    ):
        with suppress(ObjectAlreadyExists):
            make()


class Pool:
    """Runs points on the workers of a pool, each in the thread that asks."""

    def __init__(
        self,
        client: "SyncPrefectClient",
        workers: Workers,
        code: Code,
        show: Callable[[str], None],
    ):
        self.workers, self.code = workers, code
        self._client, self._show = client, show
        self._stopped = threading.Event()
        self.watch = Watch(workers.patience, show, self._stopped)
        ensure(client, workers)
        self._deployment = client.create_deployment(
            client.create_flow_from_name("point"),
            workers.pool,
            description="A point of a sweep; `make sweep` and `make study` start it.",
            work_pool_name=workers.pool,
            work_queue_name=workers.queue,
            entrypoint=ENTRYPOINT,
            pull_steps=[
                {
                    "prefect.deployments.steps.set_working_directory": {
                        "directory": f"{{{{ ${CLONE} }}}}"
                    }
                }
            ],
        )

    def unserved(self) -> str:
        """A sentence where no worker serves the queue, else an empty text."""
        pool, name = self.workers.pool, self.workers.queue
        if self._client.read_work_queue_by_name(name, work_pool_name=pool).status == "READY":
            return ""
        server = str(self._client.api_url).rstrip("/")
        return (
            f"no worker serves the queue {name} of the work pool {pool} yet; "
            f"the points wait for one: make worker SERVER={server}"
        )

    def online(self) -> int:
        """The number of workers that serve the pool now; 0 where the server does not tell."""
        from httpx import HTTPError

        try:
            workers = self._client.read_workers_for_work_pool(self.workers.pool)
        except HTTPError:
            return 0
        return sum(worker.status == "ONLINE" for worker in workers)

    def run(
        self, name: str, point: Point, show: Callable[[str], None], code: Code | None = None
    ) -> str:
        """Run a point; returns why it failed, or an empty string.

        code: None: that of the pool.
        """
        code = code or self.code
        given = {
            "name": name,
            "sweep": code.sweep,
            "snapshot": code.snapshot,
            "changes": dict(point.changes),
            "stages": list(point.stages),
            "single": point.single,
            "patience": self.workers.patience,
        }
        lost = 0
        for take in itertools.count():
            if self._stopped.is_set():
                return "stopped"
            run = self._patiently(lambda take=take: self._created(given, take), UNWELL)
            earlier = run.state is not None and run.state.is_final()
            if earlier and not run.state.is_completed():
                continue  # it failed in a sweep before, and is tried again
            state = run.state if earlier else self.watch.wait(run.id)
            if self._stopped.is_set():
                return "stopped"
            if state.is_completed():
                show(state.message or state.name)
                seconds = 0.0 if earlier else self.workers.patience
                why = self._fetched(name, code.commit, seconds)
                if why and earlier:
                    continue  # its experiment has been removed
                return why
            if not state.is_crashed():
                return state.message or state.name
            lost += 1
            if lost == MOST:
                return f"{MOST} workers ended while they ran it: {state.message}"
            self._show(f"{name}: {state.message}; another worker takes it up")

    def _created(self, given: Mapping[str, Any], take: int) -> "FlowRun":
        """The run of a point, which exists already where a sweep was started again."""
        from httpx import HTTPError

        key = hashlib.sha256(json.dumps([given, take], sort_keys=True).encode()).hexdigest()
        try:
            return self._client.create_flow_run_from_deployment(
                self._deployment,
                parameters=dict(given),
                name=given["name"],
                tags=[given["sweep"]],
                idempotency_key=key,
                work_queue_name=self.workers.queue,
            )
        except HTTPError as error:
            raise UserError(f"the Prefect server does not take a run: {error}") from None

    def _fetched(self, name: str, commit: str, seconds: float) -> str:
        """Fetch the experiment of a point; returns why this failed, or an empty string.

        commit: that it started from. seconds: for which a remote that is away is tried again.
        """
        try:
            self._patiently(
                lambda: exchange.pull_experiment(name, commit, self.workers.remote), seconds
            )
        except UserError as error:
            return str(error)
        return ""

    def _patiently(self, action: Callable[[], Answer], seconds: float) -> Answer:
        return exchange.patiently(action, seconds, self._show, self._stopped.is_set)

    def stop(self) -> None:
        """Have all runs cancelled, from any thread."""
        self._stopped.set()
