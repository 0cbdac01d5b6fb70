"""The number of threads that a stage computes with, as ``dvc.yaml`` declares it.

The number of threads that share a sum decides its last digits, and small operations are many times
slower on two busy threads than on one. So the number is declared beside the stage, in
``meta.resources.threads`` (a number, all or free, default 1; in no checksum). It holds for ``dvc
repro``, for ``make flow`` and for a stage that is started by hand: all give the same bytes.
OMP_NUM_THREADS in the environment overrides it; of a list by commas, the first number counts. A
machine with fewer cores uses all of its cores.
"""

import os
import sys
from pathlib import Path

from prosmin.common.errors import UserError
from stages.common.declared import GRAPH, definitions

NAMES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
DEFAULT = 1
MOST = 4096  # threads or processes; a slip in an environment variable must not start a million


def cores() -> int:
    """Cores that this process may use: PROSMIN_CORES, else those of scheduler and container."""
    if given := os.environ.get("PROSMIN_CORES"):
        if not (number := _positive(given)):
            raise UserError(f"PROSMIN_CORES is {given!r}; it must be a whole number, 1 to {MOST}")
        return number
    allowed = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    try:
        with open("/sys/fs/cgroup/cpu.max") as handle:
            quota, period = handle.read().split()
        return max(1, min(allowed, int(quota) // int(period)))
    except (OSError, ValueError):  # no container, no quota ("max"), or an older kernel
        return allowed


def declared(stage: str, path: Path = GRAPH) -> int | str | None:
    """The number in ``dvc.yaml``, or all or free; None where it has no such stage."""
    definition = definitions(path).get(stage)
    if definition is None:
        return None
    meta = definition.get("do", definition).get("meta") or {}
    return meta.get("resources", {}).get("threads", DEFAULT)


def share(wanted: int | str, available: int) -> int:
    """The threads of a stage that wants ``wanted`` where ``available`` exist.

    wanted: a number, or all or free, which are the same for a stage that runs alone.
    """
    return available if wanted in ("all", "free") else min(int(wanted), available)


def given() -> int | None:
    """The threads that OMP_NUM_THREADS asks for; None where it is not set.

    Raises:
        UserError: for a value that OpenMP does not know.
    """
    text = os.environ.get(NAMES[0], "")
    if not text.strip():
        return None
    levels = [_positive(level.strip()) for level in text.split(",")]
    if not all(levels):
        raise UserError(
            f"{NAMES[0]} is {text!r}; it must be a whole number, 1 to {MOST}, "
            "or several by commas, as OpenMP has it"
        )
    return levels[0]


def _positive(text: str) -> int:
    """A whole number from 1 to ``MOST``, 0 for any other text."""
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 7 else 0
    return number if number <= MOST else 0


def environment(threads: int) -> dict[str, str]:
    """Variables that set the threads of a new process; empty where OMP_NUM_THREADS is set."""
    return {} if given() else dict.fromkeys(NAMES, str(threads))


def keep_to_share(stage: str) -> None:
    """Make this process and its children compute with the threads of ``stage``.

    It works after numpy and torch have been imported, too.
    """
    wanted = declared(stage)
    if wanted is None:
        return
    # A thread that waits for others sleeps instead of spinning. A spinning thread takes the core
    # that the others wait for: with a busy process beside it, training was several times slower.
    # OpenMP reads the variable when the first library is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from threadpoolctl import threadpool_limits

    asked = given()
    threads = asked or share(wanted, cores())
    os.environ.update(
        {NAMES[0]: str(asked)} if asked else environment(threads)
    )  # some libraries know no list
    threadpool_limits(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
