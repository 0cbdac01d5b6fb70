"""The beat of a point that runs on a worker: nothing runs twice at once.

A point tells the server every few seconds that it is alive. The first machine watches
(``pool.py``): without a new beat for the whole patience, it declares the run crashed and starts
another. The point stops itself after half of the patience without an answer, so it has ended by
then, whether its machine, its network or the server was away. Both count seconds of their own
clock, and no time of day is compared.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

from pipelines.flows.client import quick_client
from prosmin.common.errors import UserError

# Labels of a flow run.
BEAT, LOST, WORKER = "prosmin.beat", "prosmin.lost", "prosmin.worker"
BEATS = 12  # in the patience
# A machine that has slept has been silent. CLOCK_MONOTONIC does not count it.
CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Beat:
    """The beat of a run. lost: why the run must end, or an empty text.

    run: its id on the server. worker: the name that is shown. stop: ends the run, from any thread.
    """

    def __init__(self, run: UUID, patience: float, worker: str, stop: Callable[[], None]):
        self.run, self.patience, self.worker, self.stop = run, patience, worker, stop
        self.lost = ""
        self._count, self._answered = 0, time.clock_gettime(CLOCK)
        self._over = threading.Event()

    def beat(self) -> None:
        """Tell the server, and look whether the run is still this process's."""
        begun = time.clock_gettime(CLOCK)
        self._count += 1
        try:
            with quick_client(self.patience / 2) as client:
                run = client.read_flow_run(self.run)
                labels: dict[str, int | str] = {BEAT: self._count, WORKER: self.worker}
                client.update_flow_run_labels(self.run, labels)
            self._answered = begun
            if run.labels.get(LOST):
                self._lose("another worker was given this point, for this one was silent too long")
            elif run.state is None or not run.state.is_running():
                self._lose(f"the server has ended this run ({run.state and run.state.name})")
        except Exception:  # whatever it is, the server has not answered
            self._look_at_the_clock()

    def _look_at_the_clock(self) -> None:
        silent = time.clock_gettime(CLOCK) - self._answered
        if silent > self.patience / 2:
            self._lose(f"the server has not answered for {silent:.0f} seconds")

    def _lose(self, why: str) -> None:
        self.lost = self.lost or why
        self.stop()

    def check(self) -> None:
        """Beat once more.

        Raises:
            UserError: where the run must end.
        """
        self.beat()
        if self.lost:
            raise UserError(self.lost)

    def _run(self) -> None:
        while not self._over.is_set():
            self.beat()
            self._over.wait(self.patience / BEATS)

    def _guard(self) -> None:
        while not self._over.wait(1.0):
            self._look_at_the_clock()

    @contextmanager
    def going(self) -> Iterator["Beat"]:
        """Beat in a thread while the block runs; another looks at the clock meanwhile."""
        for body in (self._run, self._guard):
            threading.Thread(target=body, daemon=True).start()
        try:
            yield self
        finally:
            self._over.set()
