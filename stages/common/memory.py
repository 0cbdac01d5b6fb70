"""The most memory that a stage holds, together with the processes that it starts.

The kernel keeps such a peak for a process, but for no process together with its children. Its peak
also counts pages of mapped files, which it takes back when others need memory: images in Arrow
files would count as if they had to stay. So a thread adds up, some times a second, the pages that
have to stay. A page that several processes share counts once; after a fork they share most.
"""

import contextlib
import os
import re
import sys
import threading
import time
from collections.abc import Iterable

# The process that has started this one as one of several, which count together.
LAUNCHER = "PROSMIN_LAUNCHER"
PAUSE = 0.5  # seconds between two looks
# A look at several processes walks through all of their pages, about 10 ms per GB. The pauses are
# so many times longer than the looks.
REST = 50

_NUMBER = re.compile(r"^(\w+):\s+(\d+) kB$", re.MULTILINE)


class Peak:
    """The most memory that a stage has held so far: this process, all below it and its peers."""

    def __init__(self) -> None:
        parent = os.getppid()
        # An environment may hold the number of a process of long ago.
        self._top = parent if os.environ.get(LAUNCHER) == str(parent) else os.getpid()
        self._most = self._mapped = 0
        self._ended = threading.Event()

    def start(self) -> None:
        """Look again and again, in a thread of its own."""
        if sys.platform == "linux":
            threading.Thread(target=self._work, daemon=True).start()

    def stop(self) -> int:
        """Look for the last time; returns the peak in bytes, 0 where the system tells none."""
        self._ended.set()
        return self.look()

    def _work(self) -> None:
        while True:
            begun = time.monotonic()
            self.look()
            if self._ended.wait(max(PAUSE, REST * (time.monotonic() - begun))):
                return

    def look(self) -> int:
        """Look once; returns the peak so far in bytes."""
        own = numbers(f"/proc/{os.getpid()}/status")
        family = tree(self._top)
        now = held(own) if len(family) == 1 else sum(map(_proportional, family))
        # The kernel's own peak also knows what was held between two looks.
        self._mapped = max(self._mapped, own.get("RssFile", 0))
        self._most = max(self._most, now, own.get("VmHWM", 0) - self._mapped)
        return self._most


def tree(process: int) -> list[int]:
    """A process and all below it, where the kernel tells its children."""
    family = [process]
    for member in family:  # which grows meanwhile
        with contextlib.suppress(OSError):  # it has ended
            for task in os.listdir(f"/proc/{member}/task"):
                with open(f"/proc/{member}/task/{task}/children") as handle:
                    family += map(int, handle.read().split())
    return family


def held(of: dict[str, int], names: Iterable[str] = ("RssAnon", "RssShmem", "VmSwap")) -> int:
    """Bytes that cannot be taken back from a process. of: its ``status``."""
    return sum(of.get(name, 0) for name in names)


def _proportional(process: int) -> int:
    """Bytes that cannot be taken back, a shared page in equal parts for all that share it."""
    shares = numbers(f"/proc/{process}/smaps_rollup")
    if "Pss_Anon" in shares:  # which older kernels leave out
        return held(shares, ("Pss_Anon", "Pss_Shmem", "SwapPss"))
    return held(numbers(f"/proc/{process}/status"))


def numbers(path: str) -> dict[str, int]:
    """The numbers of a file of the kernel in bytes, by name; empty where it cannot be read."""
    try:
        with open(path) as handle:
            return {name: 1024 * int(value) for name, value in _NUMBER.findall(handle.read())}
    except OSError:
        return {}
