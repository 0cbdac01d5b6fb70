"""Start each stage when the stages that it needs are done and its share of the machine is free.

Knows neither DVC nor Prefect: ``submit`` starts a stage somewhere, and ``finish`` is called, from
any thread, when the stage has ended.
"""

import heapq
import queue
from collections.abc import Callable, Mapping
from typing import NamedTuple

from pipelines.engine.execute import Result
from pipelines.engine.machine import Lease, Machine, Room
from pipelines.graph.dag import Stage

Submit = Callable[[Stage, Lease | None, Result | None], None]


class Schedule:
    """Runs each of ``stages`` once. A stage that fails blocks the stages that need it and no other.

    Of several stages that are ready, the stage with the longest path to the end starts first, by
    the ``seconds`` that stages are known to take: this keeps the last core from running alone.
    """

    def __init__(
        self,
        stages: Mapping[str, Stage],
        unchanged: set[str],
        room: Room,
        submit: Submit,
        seconds: Mapping[str, float] | None = None,
    ):
        self.stages, self.unchanged, self.room, self.submit = stages, unchanged, room, submit
        paths = paths_to_the_end(stages, seconds or {})
        self._order = sorted(stages, key=lambda name: -paths[name])  # equal paths: in DVC's order
        self.results: dict[str, Result] = {}
        self._ended: queue.SimpleQueue[tuple[Result, Lease | None]] = queue.SimpleQueue()

    def finish(self, result: Result, lease: Lease | None) -> None:
        self._ended.put((result, lease))

    def run(self) -> dict[str, Result]:
        """Start stages as they become ready, and return their results."""
        waiting, running = [self.stages[name] for name in self._order], 0
        while waiting or running:
            sharing = sum(map(self._shares, waiting))
            for stage in list(waiting):
                if self._start(stage, sharing):
                    waiting.remove(stage)
                    running += 1
                    sharing -= self._shares(stage)
            running -= self._collect()
        return {name: self.results[name] for name in self.stages}

    def _shares(self, stage: Stage) -> bool:
        """Whether a stage could start now and wants what is free."""
        return (
            "free" in (stage.gpus, stage.threads)
            and stage.name not in self.unchanged
            and all(need in self.results and self.results[need].done for need in stage.needs)
        )

    def _start(self, stage: Stage, sharing: int) -> bool:
        """Start a stage where that is possible now. sharing: stages that want what is free."""
        if not all(need in self.results for need in stage.needs):
            return False
        failed = [need for need in stage.needs if not self.results[need].done]
        if failed:
            why = f"needs {', '.join(failed)}"
            self.submit(stage, None, Result(stage.name, "blocked", 0.0, why))
            return True
        if stage.name in self.unchanged:
            self.submit(stage, None, Result(stage.name, "skipped", 0.0))
            return True
        lease = self.room.lease(stage, sharing)
        if lease is None:
            return False
        self.submit(stage, lease, None)
        return True

    def _collect(self) -> int:
        """Wait until a stage ends; returns how many have ended."""
        ended = [self._ended.get()]
        while not self._ended.empty():
            ended.append(self._ended.get())
        for result, lease in ended:
            self.results[result.stage] = result
            if lease is not None:
                self.room.release(self.stages[result.stage], lease)
        return len(ended)


class _Rehearsal(Schedule):
    """A schedule on a clock of its own: every stage takes its ``seconds``, and nothing runs."""

    def __init__(
        self,
        stages: Mapping[str, Stage],
        unchanged: set[str],
        machine: Machine,
        seconds: Mapping[str, float],
    ):
        super().__init__(stages, unchanged, machine, self._begin, seconds)
        self.clock, self._machine, self._seconds = 0.0, machine, seconds
        self.held = self.most = 0
        self._ends: list[tuple[float, str, Lease | None]] = []

    def _begin(self, stage: Stage, lease: Lease | None, known: Result | None) -> None:
        takes = 0.0 if known else self._seconds.get(stage.name, 0.0)
        heapq.heappush(self._ends, (self.clock + takes, stage.name, lease))
        if lease is not None:
            self.held += self._machine.needs(stage)
            self.most = max(self.most, self.held)

    def _collect(self) -> int:
        self.clock, name, lease = heapq.heappop(self._ends)
        self.results[name] = Result(name, "ran", 0.0)
        if lease is not None:
            self.room.release(self.stages[name], lease)
            self.held -= self._machine.needs(self.stages[name])
        return 1


class Expected(NamedTuple):
    """What a run takes: seconds from its start to its end, and bytes of memory at a time."""

    seconds: float
    memory: int


def expected(
    stages: Mapping[str, Stage],
    unchanged: set[str],
    machine: Machine,
    seconds: Mapping[str, float],
) -> Expected:
    """What a run takes where each stage takes its ``seconds``; 0 for any other.

    Memory counts as ``machine`` knows it.
    """
    rehearsal = _Rehearsal(stages, unchanged, machine, seconds)
    rehearsal.run()
    return Expected(rehearsal.clock, rehearsal.most)


def paths_to_the_end(stages: Mapping[str, Stage], seconds: Mapping[str, float]) -> dict[str, float]:
    """Per stage, the longest path from its start to the end of the run, in seconds.

    A stage that no run has timed takes its weight.
    """
    paths: dict[str, float] = {}
    below = dict.fromkeys(stages, 0.0)
    for name in reversed(stages):
        paths[name] = seconds.get(name, stages[name].weight) + below[name]
        for need in stages[name].needs:
            below[need] = max(below[need], paths[name])
    return paths
