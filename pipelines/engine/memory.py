"""The memory that stages share: that of the machine or of the container, less that of the run."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from pipelines.graph.resources import memory

# Bytes of this process and of a Prefect server of its own.
RUN = 2**29
GROUPS, MOUNTED = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def for_stages() -> int:
    """Bytes that stages share: PROSMIN_MEMORY, else what the run itself leaves of the machine.

    Raises:
        UserError: for a PROSMIN_MEMORY that is no amount of memory.
    """
    if given := os.environ.get("PROSMIN_MEMORY"):
        return memory("PROSMIN_MEMORY", given)
    return max(0, total() - RUN)


def total(groups: Path = GROUPS, mounted: Path = MOUNTED) -> int:
    """Bytes of the machine, or the lowest limit of a control group that holds this process.

    groups: the file that names the groups. mounted: where the kernel shows them.
    """
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([physical, *_limits(groups, mounted)])


def _limits(groups: Path, mounted: Path) -> Iterator[int]:
    """The limits of this process's group and of all above it, of either version."""
    lines = []
    with contextlib.suppress(OSError):
        lines = groups.read_text().splitlines()
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            top, names = mounted, ("memory.max", "memory.high")
        elif "memory" in controllers.split(","):
            top, names = mounted / "memory", ("memory.limit_in_bytes",)
        else:
            continue
        # In a container the file may name the group as the host sees it, which does not exist here.
        # The groups above it do, up to the top of what is mounted.
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(top):
                for name in names:
                    with contextlib.suppress(OSError, ValueError):  # none, or "max"
                        yield int((folder / name).read_text())
