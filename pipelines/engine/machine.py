"""The cores and GPUs of the machine, leased to stages: never more than there are."""

import os
import shutil
import subprocess
import threading
from dataclasses import dataclass, field

from pipelines.graph.dag import Stage
from stages.common.threads import cores, environment, share


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
    """The share of a running stage. threads: its cores; gpus: its devices."""

    threads: int
    gpus: tuple[str, ...]

    def environment(self) -> dict[str, str]:
        """Variables that keep a stage to its share."""
        return environment(self.threads) | {"CUDA_VISIBLE_DEVICES": ",".join(self.gpus)}


@dataclass
class Machine:
    """Hands out leases to ``workers`` stages at most; where these exceed the cores, they share."""

    workers: int
    cores: int = field(default_factory=cores)
    gpus: tuple[str, ...] = field(default_factory=gpus)

    def __post_init__(self) -> None:
        self._slots, self._cores = self.workers, max(self.cores, self.workers)
        self._gpus = list(self.gpus)
        self._guard = threading.Lock()

    def lease(self, stage: Stage) -> Lease | None:
        """The share that ``stage`` asks for, at most all there is; None while others hold it."""
        devices = share(stage.gpus, len(self.gpus))
        with self._guard:
            if not self._slots or self._held(stage) > self._cores or devices > len(self._gpus):
                return None
            self._slots, self._cores = self._slots - 1, self._cores - self._held(stage)
            mine, self._gpus = tuple(self._gpus[:devices]), self._gpus[devices:]
            return Lease(share(stage.threads, self.cores), mine)

    def release(self, stage: Stage, lease: Lease) -> None:
        with self._guard:
            self._slots, self._cores = self._slots + 1, self._cores + self._held(stage)
            self._gpus = [name for name in self.gpus if name in self._gpus or name in lease.gpus]

    def _held(self, stage: Stage) -> int:
        """Cores that a stage takes. A stage that wants all of them runs alone in any case."""
        return (
            max(self.cores, self.workers)
            if stage.threads == "all"
            else share(stage.threads, self.cores)
        )
