"""How many threads a stage computes with: as many as ``dvc.yaml`` declares for it, whoever starts it.

The number of threads that share a sum decides its last digits, and small operations are many times slower on two busy
threads than on one. So the number is declared beside the stage, in ``meta.resources.threads`` (a number or all, default
1; it enters no checksum), and holds for ``dvc repro``, for ``make flow`` and for a stage started by hand alike: all give the
same bytes. OMP_NUM_THREADS in the environment overrides it (of a list by commas the first number, for the outer level, the only one
here); a machine with fewer cores gives what it has.
"""

import os
import sys
from pathlib import Path

from prosmin.common.errors import UserError
from stages.common.declared import GRAPH, definitions

NAMES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
DEFAULT = 1


def cores() -> int:
    """Cores that this process may use: PROSMIN_CORES, else what the scheduler and a container's quota leave."""
    if given := os.environ.get("PROSMIN_CORES"):
        if not (number := _positive(given)):
            raise UserError(f"PROSMIN_CORES is {given!r}; it must be a whole number of at least 1")
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
    """What ``dvc.yaml`` says: a number or all; None when it has no such stage."""
    definition = definitions(path).get(stage)
    if definition is None:
        return None
    meta = definition.get("do", definition).get("meta") or {}
    return meta.get("resources", {}).get("threads", DEFAULT)


def share(wanted: int | str, available: int) -> int:
    """What a stage that wants ``wanted`` (a number or all) gets of ``available``."""
    return available if wanted == "all" else min(int(wanted), available)


def given() -> int | None:
    """The threads that OMP_NUM_THREADS asks for; None where it asks for none. Raises ``UserError`` for what OpenMP does not know."""
    text = os.environ.get(NAMES[0], "")
    if not text.strip():
        return None
    levels = [_positive(level.strip()) for level in text.split(",")]
    if not all(levels):
        raise UserError(
            f"{NAMES[0]} is {text!r}; it must be a whole number of at least 1, or several by commas, as OpenMP has it"
        )
    return levels[0]


def _positive(text: str) -> int:
    """A whole number of at least 1, 0 for any other text."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 7 else 0


def environment(threads: int) -> dict[str, str]:
    """What makes a process that is yet to start compute with so many threads, unless the environment says how many."""
    return {} if given() else dict.fromkeys(NAMES, str(threads))


def keep_to_share(stage: str) -> None:
    """Make this process, whatever it has imported, and those it starts compute with the threads of ``stage``."""
    wanted = declared(stage)
    if wanted is None:
        return
    # A thread that waits for the others sleeps instead of spinning; else one busy process beside it makes training several
    # times slower, because what spins takes the core that the others wait for. Read when the first library is loaded.
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
