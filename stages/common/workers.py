"""Run a stage as several processes of this machine: one output, one error, one exit code.

Process 0 writes to the terminal. The errors of another process are shown only where it alone fails.
When a process ends with an error, the others are stopped; on Linux none outlives the process that
started them. They communicate on loopback alone: a program on the network that reached their
sockets could change what they compute. ``stages.common.hosts`` starts them on several hosts.
"""

import contextlib
import ctypes
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prosmin.common.errors import UserError, shown
from stages.common import memory, threads

LOOPBACK = "127.0.0.1"
LOOPBACKS = ("lo", "lo0")  # names of its interface
# Seconds for process 0 to report an error that another has met too, and for a process to end.
GRACE = 5.0

# Exit code of a process that ended because another process had ended. EX_TEMPFAIL of sysexits.h.
PEER_LOST = 75

_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def run(module: str, count: int) -> int:
    """Run ``python -m module`` as ``count`` processes of torch.distributed; returns its code."""
    with (
        tempfile.TemporaryDirectory() as folder,
        _terminated_as_interrupted(),
        meeting() as variables,
    ):
        workers = [_start(module, rank, count, variables, Path(folder)) for rank in range(count)]
        try:
            return _wait(workers, Path(folder))
        except KeyboardInterrupt:
            _stop(workers, signal.SIGINT)
            return 130
        finally:
            _stop(workers, signal.SIGKILL)


@contextlib.contextmanager
def meeting() -> Iterator[dict[str, str]]:
    """Hold the store of torch.distributed on loopback while the block runs; yields its variables.

    Process 0 itself would open the store on every network. torchrun holds it in the same way.
    """
    from torch.distributed import TCPStore

    listening = socket.create_server((LOOPBACK, 0))
    port = listening.getsockname()[1]
    store = TCPStore(
        LOOPBACK, port, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach()
    )
    variables = {
        "MASTER_ADDR": LOOPBACK,
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    for _, name in socket.if_nameindex():
        if name in LOOPBACKS:  # on which the processes listen for each other
            variables |= {"GLOO_SOCKET_IFNAME": name, "NCCL_SOCKET_IFNAME": f"={name}"}
    try:
        yield variables
    finally:
        del store


def _start(
    module: str, rank: int, count: int, meeting: Mapping[str, str], folder: Path
) -> subprocess.Popen[bytes]:
    share = max(1, (threads.given() or 1) // count)  # of the threads of the stage
    environment = os.environ | dict.fromkeys(threads.NAMES, str(share)) | dict(meeting)
    environment |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        memory.LAUNCHER: str(os.getpid()),
    }
    command = [sys.executable, "-m", module]
    if rank == 0:
        return subprocess.Popen(command, env=environment, preexec_fn=_die_with_parent)
    with open(folder / str(rank), "wb") as said:
        return subprocess.Popen(command, env=environment, stderr=said, preexec_fn=_die_with_parent)


def _die_with_parent() -> None:
    if _libc is not None:
        _libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def die_with_launcher() -> None:
    """End this process when the one ends that started it; torchrun's engine does not see to that.

    Under a launcher of another program nothing happens.
    """
    launcher = os.environ.get(memory.LAUNCHER)
    if launcher == str(os.getppid()):
        _die_with_parent()


def peer_lost(error: BaseException) -> bool:
    """Whether another process has ended. Gloo raises a plain ``RuntimeError`` then."""
    told = (
        "Connection closed by peer",
        "Connection reset by peer",
        "Broken pipe",
        "Socket closed",
        "remote process exited",
    )
    return "RANK" in os.environ and any(words in str(error) for words in told)


def _wait(workers: list[subprocess.Popen[bytes]], folder: Path) -> int:
    """Wait for all; returns the code of the process that failed first, and shows its error."""
    while any(worker.poll() is None for worker in workers) and not any(
        worker.poll() for worker in workers
    ):
        time.sleep(0.1)
    if not any(worker.poll() for worker in workers):
        return 0
    until = time.monotonic() + GRACE
    while workers[0].poll() is None or _cause(workers) is None:
        if time.monotonic() > until or all(worker.poll() is not None for worker in workers):
            break
        time.sleep(0.05)
    if (failed := _cause(workers)) is None:
        return PEER_LOST
    code = workers[failed].returncode
    if code < 0:
        print(f"error: process {failed} was ended by {signal.Signals(-code).name}", file=sys.stderr)
        return 128 - code
    if failed:
        sys.stderr.write((folder / str(failed)).read_text(errors="replace"))
    return code


def _cause(workers: list[subprocess.Popen[bytes]]) -> int | None:
    """The first process that failed by itself, not because another had ended."""
    return next(
        (rank for rank, worker in enumerate(workers) if worker.poll() not in (None, 0, PEER_LOST)),
        None,
    )


def _stop(workers: list[subprocess.Popen[bytes]], number: int) -> None:
    for worker in workers:
        if worker.poll() is None:
            worker.send_signal(number)
    for worker in workers:
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.wait(GRACE)


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM as KeyboardInterrupt, so that it ends the workers too."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# --- settings of the environment ------------------------------------------------------------------


def number_of_processes(variable: str, default: int, least: int) -> int:
    """The number of processes in an environment variable. Raises ``UserError`` for other text."""
    says = f"processes, {least} to {threads.MOST}"
    return int(number(variable, default, least, says, int, threads.MOST))


def number(
    variable: str,
    default: float,
    least: float,
    says: str,
    kind: type = float,
    most: float = sys.float_info.max,
) -> Any:
    """The number in an environment variable. Raises ``UserError`` for any other text."""
    given = os.environ.get(variable, str(default))
    try:
        value = kind(given)
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        raise UserError(f"{variable} is {shown(given)}; it must be a number of {says}")
    return value


def decoders(processes: int, gpu: bool) -> int:
    """How many processes decode images per process that trains.

    PROSMIN_WORKERS, or beside a GPU a share of the cores, on a CPU one.
    """
    share = max(1, threads.cores() // processes) if gpu else 1
    return number_of_processes("PROSMIN_WORKERS", share, 0)
