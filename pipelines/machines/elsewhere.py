"""Stages of one run on the workers of a pool, beside the stages that run on this machine.

A stage that finds no room here goes to a worker, where one is free. The worker gets the code of
this folder as it is, with ``dvc.lock`` and the metrics of the stages that it needs, by git, and
their results by the DVC remote. It runs the stage alone, as a point (``point_flow.py``). Its
results and its entry of ``dvc.lock`` are then taken into this folder, which ends as if the stage
had run here.
"""

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from pipelines.engine.execute import Executor, Result
from pipelines.engine.machine import Lease, Machine
from pipelines.flows.points import Point
from pipelines.graph.dag import Stage
from pipelines.graph.experiment import seconds_of
from pipelines.graph.snapshot import take_snapshot
from pipelines.machines import exchange
from pipelines.machines.pool import Code, Pool, client_of
from prosmin.common.errors import UserError

if TYPE_CHECKING:
    from pipelines.machines.workers import Workers

# Seconds that a stage takes at least, to go elsewhere: to send it and to fetch its results takes
# some fifteen.
SHORTEST = 30.0
PAUSE = 0.5  # seconds between two looks whether there is room
LOOK = 5.0  # seconds for which the number of workers is remembered
ELSEWHERE = Lease(0, (), elsewhere=True)


@contextmanager
def opened(
    workers: "Workers | None",
    machine: Machine,
    here: Executor,
    seconds: Mapping[str, float],
    show: Callable[[str], None],
) -> Iterator["Elsewhere | None"]:
    """This machine and workers for stages, while the block runs; None without workers.

    Args:
        workers: Those that take stages.
        machine: This one.
        here: Runs stages on it.
        seconds: That stages took in their last run, by name.
        show: Gets lines about the workers.

    Raises:
        UserError: where a remote is missing or cannot be reached.
    """
    if workers is None:
        yield None
        return
    exchange.settle_git()
    exchange.check(workers.remote)
    with client_of() as client:
        pool = Pool(client, workers, Code("", ""), show)
        if said := pool.unserved():
            show(said)
        with pool.watch.going():
            yield Elsewhere(pool, machine, here, seconds)


class Elsewhere:
    """This machine, and the workers of a pool for the stages that find no room on it."""

    def __init__(self, pool: Pool, machine: Machine, here: Executor, seconds: Mapping[str, float]):
        self.pool, self.machine, self._here, self._seconds = pool, machine, here, seconds
        self._out, self._count, self._counted = 0, 0, float("-inf")
        self._guard, self._one_at_a_time = threading.Lock(), threading.Lock()
        self._stopped = False

    def lease(self, stage: Stage, among: int = 1) -> Lease | None:
        """Room for a stage here, else on a worker; None while there is none."""
        if (lease := self.machine.lease(stage, among)) or not self._may_go(stage):
            return lease
        with self._guard:
            if self._out >= self._workers():
                return None
            self._out += 1
        return ELSEWHERE

    def release(self, stage: Stage, lease: Lease) -> None:
        if not lease.elsewhere:
            self.machine.release(stage, lease)
            return
        with self._guard:
            self._out -= 1

    def _may_go(self, stage: Stage) -> bool:
        """Whether a stage can leave this machine and is worth it.

        A stage that needs no other reads what is on this machine alone, such as the images of the
        user. One that takes all GPUs, as pretraining does, goes on from checkpoints here.
        """
        long = self._seconds.get(stage.name, SHORTEST) >= SHORTEST
        return bool(stage.needs) and stage.gpus != "all" and long

    def _workers(self) -> int:
        if time.monotonic() - self._counted > LOOK:
            self._count, self._counted = self.pool.online(), time.monotonic()
        return self._count

    def run(self, stage: Stage, lease: Lease, show: Callable[[str], None]) -> Result:
        """Run a stage where its lease is.

        One that fails on a worker runs here: it may read what is on this machine alone.
        """
        if not lease.elsewhere:
            return self._here.run(stage, lease, show)
        result = self._away(stage.name, show)
        if result.outcome != "failed":
            return result
        show(f"failed on a worker: {result.reason}; it runs here")
        with self._room(stage) as room:
            return self._here.run(stage, room, show) if room else replace(result, outcome="stopped")

    def _away(self, stage: str, show: Callable[[str], None]) -> Result:
        """Run a stage on a worker and take its results into this folder."""
        begun, seconds, code = time.monotonic(), 0.0, None
        try:
            code = self._sent(stage)
            name = code.sweep
            why = self.pool.run(name, Point({}, [stage], single=True), show, code)
            if not why:
                with self._one_at_a_time:
                    seconds = seconds_of(exchange.reference(name, code.commit)).get(stage, 0.0)
                    exchange.adopt(name, code.commit, stage)
        except UserError as error:
            why = str(error)
        finally:
            if code:
                self._withdraw(code)
        whole = time.monotonic() - begun
        if self._stopped or why:
            return Result(stage, "stopped" if self._stopped else "failed", whole, why)
        way = f"on a worker, with {whole - seconds:.0f} s to send it and to fetch its results"
        return Result(stage, "ran", seconds, way)

    @contextmanager
    def _room(self, stage: Stage) -> Iterator[Lease | None]:
        """Wait for room on this machine; None when stopped."""
        while not (lease := self.machine.lease(stage)):
            if self._stopped:
                yield None
                return
            time.sleep(PAUSE)
        try:
            yield lease
        finally:
            self.machine.release(stage, lease)

    def _sent(self, stage: str) -> Code:
        """Send the state of this folder, and what the stage reads of other stages."""
        with self._one_at_a_time:  # git locks its index
            needed = exchange.needs([stage])
            snapshot = take_snapshot(exchange.untracked(needed))
            name = f"{re.sub(r'[^A-Za-z0-9_-]', '.', stage)}-{snapshot[-8:]}"
            exchange.send(snapshot, name, self.pool.workers.remote, needed)
        return Code(name, snapshot)

    def _withdraw(self, code: Code) -> None:
        remote = self.pool.workers.remote
        for remove in (
            lambda: exchange.withdraw(code.snapshot, code.sweep, remote),
            lambda: exchange.forget(code.sweep, code.commit, remote),
        ):
            with suppress(UserError), self._one_at_a_time:  # the remote is away, or has none
                remove()

    def stop(self) -> None:
        """End all stages, here and on workers, from any thread."""
        self._stopped = True
        self._here.stop()
        self.pool.stop()
