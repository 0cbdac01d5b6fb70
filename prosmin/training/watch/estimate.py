"""How long a run will take and how much memory it holds, told once its pace is known."""

import logging
import resource
import sys
import time

import torch

WARM = 5.0  # seconds of steps that do not count: the first compile and find their algorithms
MEASURED = 10.0  # seconds, at least, of those that count
SHORT = 60.0  # seconds; of a shorter rest nothing is told

log = logging.getLogger(__name__)

_KIB = 1 if sys.platform == "darwin" else 1024  # unit of ``ru_maxrss`` in bytes


class Estimate:
    """Looks at the pace of a run until it can tell the rest.

    total: steps of the whole run. batch: images of a step, over all processes.
    """

    def __init__(self, total: int, batch: int, device: torch.device):
        self.total, self.batch, self.device = total, batch, device
        self._start: tuple[float, int] | None = None
        self._told = False

    def tell(self, began: float, done: int) -> None:
        """Log what ``look`` says."""
        if told := self.look(began, done):
            log.info("%s", told)

    def look(self, began: float, done: int, now: float | None = None) -> str:
        """A sentence, once in a run, else an empty text.

        began, now: seconds of one clock, by default of ``time.perf_counter``: when training began,
        and now. done: steps of the whole run.
        """
        if self._told:
            return ""
        now = time.perf_counter() if now is None else now
        if now - began < WARM:
            return ""
        if self._start is None:
            self._start = now, done
        since, first = self._start
        if now - since < MEASURED or done == first:
            return ""
        self._told = True
        pace = (done - first) / (now - since)
        left = (self.total - done) / pace
        if left < SHORT:
            return ""
        return (
            f"about {lasting(left)} for the {self.total - done} steps that are left, at "
            f"{pace * self.batch:.0f} images/s; {held(self.device)}"
        )


def lasting(seconds: float) -> str:
    """A time in its two largest units: ``3 d 4 h``, ``2 h 5 min``, ``7 min``."""
    minutes = max(1, round(seconds / 60))
    days, hours, rest = minutes // 1440, minutes // 60 % 24, minutes % 60
    parts = [(days, "d"), (hours, "h"), (rest, "min")]
    while parts[0][0] == 0:
        del parts[0]
    return " ".join(f"{count} {unit}" for count, unit in parts[:2] if count)


def held(device: torch.device) -> str:
    """The most memory that this process has held so far, and on its GPU."""
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB / 2**30
    if device.type != "cuda":
        return f"a process holds {own:.1f} GiB"
    there = torch.cuda.max_memory_reserved(device) / 2**30
    return f"a process holds {own:.1f} GiB, and {there:.1f} GiB of its GPU"
