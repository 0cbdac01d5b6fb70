"""How many steps lie between two checks of a run."""

import time

SECONDS = 2.0  # about, between two checks; each of them waits for the device


class Interval:
    """A number of steps that take about ``SECONDS``, by the pace of the steps before them."""

    def __init__(self) -> None:
        self.start(1)

    def start(self, length: int) -> None:
        """Begin an interval of ``length`` steps."""
        self.length, self.done, self.began = length, 0, time.monotonic()

    def step_ends_it(self) -> bool:
        """Count a step. Was it the last of the interval?"""
        self.done += 1
        return self.done >= self.length

    def next_length(self, longest: float) -> int:
        """Length of the next interval: at most double this one, and at most ``longest`` seconds."""
        pace = (time.monotonic() - self.began) / max(self.done, 1)
        return max(1, min(2 * self.length, int(min(SECONDS, longest) / max(pace, 1e-9))))
