"""Watches the runs of points on the server, for the threads that wait for them.

A run that gives no sign (``beat.py``) for the whole patience is declared crashed. While the server
is away nobody is silent: only its answers are counted.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

from pipelines.flows.client import quick_client
from pipelines.machines.beat import BEAT, BEATS, LOST, WORKER
from prosmin.common.errors import reason

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun
    from prefect.states import State

PREFECT_WORKER = "prefect.worker.name"  # a label that Prefect gives a run that was taken
CHUNK = 200  # runs that the server tells at a time
LOOK = 2.0  # seconds between two looks at the runs, at most
START = 180.0  # seconds at least for a run to start on the machine that has taken it
ANSWER = 20.0  # seconds for an answer of the server
LEAVE = 15.0  # seconds that a sweep which is stopped waits for its runs to be cancelled


def _worker(run: "FlowRun") -> str:
    """The name of the worker that has taken a run."""
    return str(run.labels.get(WORKER) or run.labels.get(PREFECT_WORKER, ""))


@dataclass
class _Watched:
    """A run that a thread waits for. mark: its last sign of life; silent: seconds since then."""

    mark: object = None
    silent: float = 0.0
    ended: "queue.SimpleQueue[State[Any]]" = field(default_factory=queue.SimpleQueue)


class Watch:
    """Watches runs.

    patience: seconds without a sign of a run. show: gets lines about the server. stopped: set when
    all runs are to be cancelled.
    """

    def __init__(self, patience: float, show: Callable[[str], None], stopped: threading.Event):
        self._patience, self._show, self._stopped = patience, show, stopped
        self._interval = min(LOOK, patience / BEATS)
        self._watched: dict[UUID, _Watched] = {}
        self._guard, self._over = threading.Lock(), threading.Event()

    def wait(self, run: UUID) -> "State[Any]":
        """Wait for the end of a run; returns its last state."""
        watched = _Watched()
        with self._guard:
            self._watched[run] = watched
        return watched.ended.get()

    @contextmanager
    def going(self) -> Iterator[None]:
        """Watch in a thread while the block runs."""
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _run(self) -> None:
        fault, leave = "", float("inf")
        while not self._over.wait(self._interval):
            if self._stopped.is_set():
                leave = min(leave, time.monotonic() + LEAVE)
            if time.monotonic() > leave:
                self._let_go()
            try:
                with quick_client(ANSWER) as client:
                    self._look_at_all(client)
            except Exception as error:  # the thread must go on: others wait for it
                if str(error) != fault:
                    self._show(f"the Prefect server gives no answer: {reason(error)}")
                fault = str(error)
            else:
                fault = ""

    def _look_at_all(self, client: "SyncPrefectClient") -> None:
        with self._guard:
            runs = list(self._watched)
        for start in range(0, len(runs), CHUNK):
            self._look(client, runs[start : start + CHUNK])

    def _look(self, client: "SyncPrefectClient", runs: list[UUID]) -> None:
        from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
        from prefect.states import Cancelled, Cancelling, Crashed

        wanted = FlowRunFilter(id=FlowRunFilterId(any_=runs))
        told = {run.id: run for run in client.read_flow_runs(flow_run_filter=wanted)}
        for key in runs:
            state: State[Any] = Cancelled(message="the run was deleted on the server")
            if run := told.get(key):
                state = run.state
                if self._stopped.is_set() and not (state.is_final() or state.is_cancelling()):
                    state = client.set_flow_run_state(key, Cancelling()).state or state
                state = self._silenced(client, run, state) or state
                if state.is_crashed():
                    state = Crashed(message=f"the worker {_worker(run)} ended ({state.message})")
            if state.is_final():
                with self._guard:
                    watched = self._watched.pop(key, None)
                if watched:
                    watched.ended.put(state)

    def _silenced(
        self, client: "SyncPrefectClient", run: "FlowRun", state: "State[Any]"
    ) -> "State[Any] | None":
        """Declare a run crashed that has been silent too long; returns the state that it gets."""
        from prefect.states import Crashed

        watched = self._watched.get(run.id)
        if not watched or state.is_final() or state.is_scheduled():
            return None
        mark = (state.id, run.labels.get(BEAT))
        watched.silent = watched.silent + self._interval if mark == watched.mark else 0.0
        watched.mark = mark
        if watched.silent <= (self._patience if BEAT in run.labels else max(self._patience, START)):
            return None
        crashed = Crashed(message=f"it was silent for {watched.silent:.0f} seconds")
        # The label ends a run that only starts late: the server would let a crashed run go on.
        client.update_flow_run_labels(run.id, {LOST: True})
        client.set_flow_run_state(run.id, crashed, force=True)
        return crashed

    def _let_go(self) -> None:
        """Wait no longer for runs that do not end, such as those of a server that is away."""
        from prefect.states import Cancelled

        with self._guard:
            waiting = list(self._watched.values())
            self._watched.clear()
        for watched in waiting:
            watched.ended.put(Cancelled(message="stopped"))
