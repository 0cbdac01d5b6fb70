"""Runs points of a sweep as array jobs of Slurm, sent by submitit.

All nodes see the folder of the project, as is usual on a cluster. So nothing goes by git or by a
DVC remote, and a job runs a point as this machine would. Points that wait at the same time become
one array. Slurm starts a job again that it has preempted, and submitit one that has reached its
time limit. Its pretraining then goes on from the last checkpoint.

The files of submitit lie in ``.prosmin/slurm``, which no other user can read: it pickles what a job
gets and returns.
"""

import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.flows.points import Point, Points
from pipelines.graph.private import FOLDER, private
from prosmin.common.errors import UserError, nearest, reason

if TYPE_CHECKING:
    from submitit import DelayedSubmission, Job

    from pipelines.machines.workers import Cluster

JOBS = FOLDER / "slurm"
DEFAULTS = {"time": 24 * 60, "job_name": "prosmin"}  # time: minutes
OPTION = re.compile(r"^\s*- (\w+) \(default", re.M)  # in the message of submitit
TIMEOUTS = 100  # time limits that a job may reach
SETTLE = 1.0  # seconds without another point after which an array is sent
LOOK = 2.0  # seconds between two looks at a job
MOST = 1000  # points of an array: Slurm's own limit, by default
# The server of the run that has sent a job listens on that machine alone.
SERVER = ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING")


class PointJob:
    """What a job runs: a point, in the folder of the project; returns why it failed, or ''."""

    def __init__(self, folder: Path, snapshot: str, name: str, point: Point):
        self.folder, self.snapshot, self.name, self.point = folder, snapshot, name, point

    def __call__(self) -> str:
        os.chdir(self.folder)
        for name in SERVER:
            os.environ.pop(name, None)
        for name, given in (("CORES", "CPUS_PER_TASK"), ("MEMORY", "MEM_PER_NODE")):
            if amount := os.environ.get(f"SLURM_{given}"):
                unit = "MiB" if name == "MEMORY" else ""
                os.environ.setdefault(f"PROSMIN_{name}", f"{amount}{unit}")
        return Points(self.snapshot, slots=1).run(self.name, self.point, print)

    def checkpoint(self) -> "DelayedSubmission":
        """What submitit sends again before the time limit: the guard of the point ends it here."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


@contextmanager
def opened(
    snapshot: str, cluster: "Cluster", slots: int, show: Callable[[str], None]
) -> Iterator["Slurm"]:
    """What runs points as jobs while the block runs.

    Args:
        snapshot: The state of the code, of ``take_snapshot``.
        cluster: Options of the jobs.
        slots: Jobs of an array that run at the same time.
        show: Gets lines about the jobs.

    Raises:
        UserError: without submitit or Slurm, and for an option that they do not know.
    """
    slurm = Slurm(snapshot, cluster.options, slots, show)
    thread = threading.Thread(target=slurm.send_all, daemon=True)
    thread.start()
    try:
        yield slurm
    finally:
        slurm.stop()
        thread.join()


class Slurm:
    """Runs points as jobs, each in the thread that asks."""

    def __init__(
        self,
        snapshot: str,
        options: Mapping[str, str | int],
        slots: int,
        show: Callable[[str], None],
    ):
        self._snapshot, self._show = snapshot, show
        self._folder = Path.cwd()
        self._executor = _executor(options, slots)
        self._asked: queue.SimpleQueue[tuple[PointJob, queue.SimpleQueue[Any]]] = (
            queue.SimpleQueue()
        )
        self._guard, self._stopped = threading.Lock(), threading.Event()

    def run(self, name: str, point: Point, show: Callable[[str], None]) -> str:
        """Run a point; returns why it failed, or an empty string."""
        answer: queue.SimpleQueue[Any] = queue.SimpleQueue()
        with self._guard:
            if self._stopped.is_set():
                return "stopped"
            self._asked.put((PointJob(self._folder, self._snapshot, name, point), answer))
        job = answer.get()
        if isinstance(job, str):
            return job
        show(f"job {job.job_id} of Slurm; its output: {os.path.relpath(job.paths.stdout)}")
        while not (done := job.done()) and not self._stopped.is_set():
            time.sleep(LOOK)
        if not done:
            job.cancel()
            return "stopped"
        return _ending(job)

    def send_all(self) -> None:
        """Send the points that are asked for, until ``stop``."""
        while not self._stopped.is_set():
            asked: list[tuple[PointJob, queue.SimpleQueue[Any]]] = []
            with suppress(queue.Empty):
                asked.append(self._asked.get(timeout=SETTLE))
                while len(asked) < MOST:
                    asked.append(self._asked.get(timeout=SETTLE))
            if not asked:
                continue
            try:
                jobs: Sequence[Any] = self._sent([point for point, _ in asked])
            except Exception as error:  # whatever sbatch says; threads wait for the answer
                jobs = [f"Slurm does not take the job: {reason(error)}"] * len(asked)
            for (_, answer), job in zip(asked, jobs, strict=True):
                answer.put(job)
        with suppress(queue.Empty):  # nothing is asked for any more
            while True:
                self._asked.get_nowait()[1].put("stopped")

    def _sent(self, points: Sequence[PointJob]) -> "Sequence[Job[str]]":
        with self._executor.batch():
            jobs = [self._executor.submit(point) for point in points]
        array = jobs[0].job_id.partition("_")[0]
        self._show(f"{len(jobs)} points are the array {array} of Slurm: squeue -j {array}")
        return jobs

    def stop(self) -> None:
        """Have all jobs cancelled, from any thread."""
        with self._guard:
            self._stopped.set()


def _executor(options: Mapping[str, str | int], slots: int) -> Any:
    try:
        from submitit import SlurmExecutor
    except ImportError:
        raise UserError("--slurm needs submitit: pip install 'prosmin[slurm]'") from None
    private(JOBS)
    try:
        executor = SlurmExecutor(folder=JOBS.resolve(), max_num_timeout=TIMEOUTS)
    except RuntimeError:
        raise UserError("--slurm needs Slurm's commands, and there is no srun here") from None
    for name, value in (DEFAULTS | {"array_parallelism": slots} | dict(options)).items():
        try:
            executor.update_parameters(**{name: value})
        except ValueError as error:
            known = OPTION.findall(str(error))
            raise UserError(
                f"--slurm has {name}={value}, which is no option of a job{nearest(name, known)}; "
                f"there are: {', '.join(known) or reason(error)}"
            ) from None
    return executor


def _ending(job: "Job[str]") -> str:
    """Why a job that is done has no result, or an empty string."""
    try:
        return job.result()
    except Exception as error:  # what the job raised, or how it ended
        return f"the job {job.job_id} of Slurm ended without a result: {reason(error)}"
