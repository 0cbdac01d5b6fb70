"""Points of a sweep or study, each in a process and a folder of its own, on its cores."""

import argparse
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from pipelines.engine import machine, memory
from pipelines.engine.execute import ended, guarded
from pipelines.flows.grid import Value, written
from pipelines.flows.server import stop
from prosmin.training.settings import STOPPED


def add_slots(parser: argparse.ArgumentParser, kind: str, default: int = 2) -> None:
    """Add ``--slots``, how many of a kind run at the same time, such as points."""
    parser.add_argument(
        "--slots", type=int, default=default, help=f"{kind} at the same time (default: {default})"
    )


def check_slots(parser: argparse.ArgumentParser, slots: int) -> None:
    """End with the usage and a sentence for fewer than one slot."""
    if slots < 1:
        parser.error(f"--slots is {slots}; it must be at least 1")


@dataclass(frozen=True)
class Point:
    """An experiment to run.

    changes: of params, by dotted key.
    stages: to run, with all that they need; empty: all stages.
    title: in the name of its task; left out: the changes.
    single: run the stages alone.
    """

    changes: Mapping[str, Value]
    stages: Sequence[str] = field(default=())
    title: str = ""
    single: bool = False

    @property
    def shown(self) -> str:
        """The title, or the changes where it has none."""
        return self.title or ", ".join(f"{key}={value}" for key, value in self.changes.items())


class Running(Protocol):
    """Runs points, here or on other machines, each in the thread that asks."""

    def run(self, name: str, point: Point, show: Callable[[str], None]) -> str:
        """Run a point; returns why it failed, or an empty string. show: gets lines about it."""

    def stop(self) -> None:
        """End all points, from any thread."""


def hopeless(why: str) -> bool:
    """Whether a point ended because ``pretrain.stop_below`` says so, by the reason it gave."""
    return STOPPED in why


class Slots:
    """The machine in equal parts, one per point that runs."""

    def __init__(self, count: int):
        cores, gpus = machine.cores(), machine.gpus()
        share = max(1, memory.for_stages() // count // 2**20)
        self._free: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
        for slot in range(count):
            devices = ",".join(gpus[slot::count])
            self._free.put(
                {
                    "PROSMIN_CORES": str(max(1, cores // count)),
                    "PROSMIN_MEMORY": f"{share}MiB",
                    "CUDA_VISIBLE_DEVICES": devices,
                }
            )

    @contextmanager
    def taken(self) -> Iterator[dict[str, str]]:
        """Wait for a free part; yields the variables that keep a process to it."""
        slot = self._free.get()
        try:
            yield slot
        finally:
            self._free.put(slot)


class Points:
    """Runs points as processes below guards, each in the thread that asks."""

    def __init__(self, snapshot: str, slots: int):
        self.snapshot, self.slots = snapshot, Slots(slots)
        self._running: dict[str, subprocess.Popen[str]] = {}
        self._guard, self._stopped = threading.Lock(), False

    def run(self, name: str, point: Point, show: Callable[[str], None]) -> str:
        """Run a point; returns why it failed, or an empty string."""
        command = [sys.executable, "-m", "pipelines.run", *point.stages]
        command += ["--name", name, "--snapshot", self.snapshot]
        command += ["--single-item"] if point.single else []
        changes = [f"{key}={written(value)}" for key, value in point.changes.items()]
        command += ["--set", *changes] if changes else []
        with self.slots.taken() as share:
            with self._guard:
                if self._stopped:
                    return "stopped"
                process = self._running[name] = guarded(command, share)
            error = ""
            try:
                for line in process.stdout:
                    show(line.rstrip("\n"))
                    error = line.strip() if line.startswith("error: ") else error
                code = ended(process)
            finally:
                stop(process)
                with self._guard:
                    del self._running[name]
        if code == 0:
            return ""
        if self._stopped:
            return "stopped"
        return error.removeprefix("error: ") or f"ended with code {code}"

    def stop(self) -> None:
        """Interrupt all points, from any thread."""
        with self._guard:
            self._stopped = True
            for process in self._running.values():
                if process.poll() is None:
                    process.terminate()
