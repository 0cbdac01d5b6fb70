"""The cores, GPUs and memory of the machine, leased to stages: never more than there are."""

import os
import shutil
import subprocess
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from pipelines.engine.memory import for_stages
from pipelines.graph.dag import Stage
from pipelines.graph.resources import written
from stages.common.threads import cores, environment, share

# Bytes of the DVC that waits for a stage, and of its guard.
BESIDE = 2**27


def gpus() -> tuple[str, ...]:
    """The GPUs in CUDA_VISIBLE_DEVICES, else those that the driver lists."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return tuple(filter(None, (name.strip() for name in given.split(","))))
    if not shutil.which("nvidia-smi"):
        return ()
    listed = subprocess.run(
        ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True
    )
    return tuple(listed.stdout.split()) if listed.returncode == 0 else ()


@dataclass(frozen=True)
class Lease:
    """The share of a running stage. threads: its cores; gpus: its devices.

    elsewhere: whether a worker on another machine runs it, so that it takes nothing of this one.
    """

    threads: int
    gpus: tuple[str, ...]
    elsewhere: bool = False

    def environment(self) -> dict[str, str]:
        """Variables that keep a stage to its share."""
        return environment(self.threads) | {"CUDA_VISIBLE_DEVICES": ",".join(self.gpus)}


class Room(Protocol):
    """What gives stages their share."""

    def lease(self, stage: Stage, among: int = 1) -> Lease | None:
        """The share of a stage, as ``Machine.lease``; None while there is no room for it."""

    def release(self, stage: Stage, lease: Lease) -> None:
        """Take a share back."""


@dataclass
class Machine:
    """Hands out leases to ``workers`` stages at most; where these exceed the cores, they share.

    memory: bytes to share.
    peaks: bytes that stages held at most in their last run, by name, for stages that declare none.
    """

    workers: int
    cores: int = field(default_factory=cores)
    gpus: tuple[str, ...] = field(default_factory=gpus)
    memory: int = field(default_factory=for_stages)
    peaks: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._slots, self._cores = self.workers, max(self.cores, self.workers)
        self._memory = self.memory
        self._gpus = list(self.gpus)
        self._guard = threading.Lock()

    def lease(self, stage: Stage, among: int = 1) -> Lease | None:
        """The share that ``stage`` asks for, at most all there is; None while others hold it.

        among: stages that could start now and want what is free, with this one.
        """
        slots, memory = self._slots_of(stage), self._memory_of(stage)
        with self._guard:
            among = max(1, min(among, self._slots))
            devices, threads = share(stage.gpus, len(self.gpus)), share(stage.threads, self.cores)
            if stage.gpus == "free":
                devices = min(devices, max(1, len(self._gpus) // among))
            if stage.threads == "free":
                threads = min(threads, max(1, self._cores // among))
            held = self._held(stage, threads)
            if (
                slots > self._slots
                or memory > self._memory
                or held > self._cores
                or devices > len(self._gpus)
            ):
                return None
            self._slots, self._cores = self._slots - slots, self._cores - held
            self._memory -= memory
            mine, self._gpus = tuple(self._gpus[:devices]), self._gpus[devices:]
            return Lease(threads, mine)

    def release(self, stage: Stage, lease: Lease) -> None:
        with self._guard:
            self._slots += self._slots_of(stage)
            self._cores += self._held(stage, lease.threads)
            self._memory += self._memory_of(stage)
            self._gpus = [name for name in self.gpus if name in self._gpus or name in lease.gpus]

    def needs(self, stage: Stage) -> int:
        """Bytes that a stage is known to hold at most; 0 where nothing is known."""
        return int(self.peaks.get(stage.name, 0)) if stage.memory is None else stage.memory

    def warnings(self, stages: Iterable[Stage]) -> Iterator[str]:
        """A sentence per stage that needs more memory than there is."""
        for stage in stages:
            if self._alone(stage) and (needs := self.needs(stage)):
                source = "its last run here" if stage.memory is None else "meta.resources.memory"
                yield (
                    f"{stage.name} needs {written(needs)} of memory ({source}) and stages have "
                    f"{written(self.memory)} here: it runs alone and may fail"
                )

    def _alone(self, stage: Stage) -> bool:
        """Whether a stage needs more memory than there is, so that no other runs beside it."""
        return self.needs(stage) + BESIDE > self.memory

    def _slots_of(self, stage: Stage) -> int:
        return self.workers if self._alone(stage) else 1

    def _memory_of(self, stage: Stage) -> int:
        return min(self.needs(stage) + BESIDE, self.memory)

    def _held(self, stage: Stage, threads: int) -> int:
        """Cores that a stage takes. A stage that wants all of them runs alone in any case."""
        return max(self.cores, self.workers) if stage.threads == "all" else threads
