"""Runs points of a sweep as array jobs of Slurm, sent by submitit.

All nodes see the folder of the project, as is usual on a cluster. So nothing goes by git or by a
DVC remote, and a job runs a point as this machine would. Points that wait at the same time become
one array. Slurm starts a job again that it has preempted, and submitit one that has reached its
time limit. Its pretraining then goes on from the last checkpoint. A sweep that was killed leaves
its jobs running. Started again, it waits for those that Slurm still has.

``.prosmin/slurm``, which no other user can read, has the number of the job of each point, and the
files of submitit: it pickles what a job gets and returns.
"""

import json
import os
import queue
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.flows.points import Point, Points
from pipelines.graph.private import FOLDER, private
from prosmin.common.errors import UserError, nearest, reason
from prosmin.common.files import write_json

if TYPE_CHECKING:
    from submitit import DelayedSubmission, Job

    from pipelines.machines.workers import Cluster

JOBS = FOLDER / "slurm"
DEFAULTS = {"time": 24 * 60, "job_name": "prosmin"}  # time: minutes
OPTION = re.compile(r"^\s*- (\w+) \(default", re.M)  # in the message of submitit
TIMEOUTS = 100  # time limits that a job may reach
SETTLE = 1.0  # seconds without another point after which an array is sent
LOOK = 2.0  # seconds between two looks at a job
ASK = 20.0  # seconds for which the answer of squeue is remembered
LOST = 60.0  # seconds until a job that has left the queue without a result is given up
MOST = 1000  # points of an array: Slurm's own limit, by default
# The server of the run that has sent a job listens on that machine alone.
SERVER = ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING")


class PointJob:
    """What a job runs: a point, in the folder of the project; returns why it failed, or ''."""

    def __init__(self, folder: Path, snapshot: str, name: str, point: Point):
        self.folder, self.snapshot, self.name, self.point = folder, snapshot, name, point

    @property
    def key(self) -> str:
        """Tells points apart that have one name."""
        whole = [self.snapshot, dict(self.point.changes), list(self.point.stages)]
        return json.dumps(whole, sort_keys=True)

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


class Queue:
    """The jobs of this user that Slurm has, as squeue tells them."""

    def __init__(self) -> None:
        self._jobs: set[str] | None = None
        self._asked, self._guard = float("-inf"), threading.Lock()

    def __contains__(self, job: str) -> bool:
        """Whether a job waits or runs; also True where Slurm does not answer."""
        with self._guard:
            if time.monotonic() - self._asked > ASK:
                command = ["squeue", "--noheader", "--array", "--me", "--format=%i"]
                done = subprocess.run(command, capture_output=True, text=True)
                self._jobs = None if done.returncode else set(done.stdout.split())
                self._asked = time.monotonic()
            return self._jobs is None or job in self._jobs


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
        self._queue = Queue()
        self._asked: queue.SimpleQueue[tuple[PointJob, queue.SimpleQueue[Any]]] = (
            queue.SimpleQueue()
        )
        self._guard, self._stopped = threading.Lock(), threading.Event()

    def run(self, name: str, point: Point, show: Callable[[str], None]) -> str:
        """Run a point; returns why it failed, or an empty string."""
        asked = PointJob(self._folder, self._snapshot, name, point)
        note = JOBS / f"{name}.json"
        job = self._earlier(asked, note) or self._new(asked)
        if isinstance(job, str):
            return job
        write_json(note, {"job": job.job_id, "point": asked.key})
        show(f"job {job.job_id} of Slurm; its output: {os.path.relpath(job.paths.stdout)}")
        why = self._waited(job)
        note.unlink(missing_ok=True)
        return why

    def _earlier(self, asked: PointJob, note: Path) -> "Job[str] | None":
        """The job of a point that a sweep which was killed has sent, where Slurm still has it."""
        with suppress(OSError, ValueError):
            known = json.loads(note.read_text())
            if known["point"] == asked.key and known["job"] in self._queue:
                from submitit import SlurmJob

                return SlurmJob(JOBS.resolve(), known["job"])
        return None

    def _new(self, asked: PointJob) -> "Job[str] | str":
        """A job for a point, or why there is none."""
        answer: queue.SimpleQueue[Any] = queue.SimpleQueue()
        with self._guard:
            if self._stopped.is_set():
                return "stopped"
            self._asked.put((asked, answer))
        return answer.get()

    def _waited(self, job: "Job[str]") -> str:
        """Wait for the end of a job; returns why it has no result, or an empty string."""
        seen = time.monotonic()
        while not job.done():
            if self._stopped.is_set():
                job.cancel()
                return "stopped"
            if job.job_id in self._queue:
                seen = time.monotonic()
            elif time.monotonic() - seen > LOST:  # Slurm without accounting tells no end
                return f"the job {job.job_id} of Slurm has left the queue without a result"
            time.sleep(LOOK)
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
        self._show(f"{len(jobs)} point(s) are the array {array} of Slurm: squeue -j {array}")
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
