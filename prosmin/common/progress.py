"""How far a long pass over images is."""

import logging
import time

from tqdm import tqdm

_SAY = 30.0  # seconds between two lines where there is no terminal

log = logging.getLogger(__name__)


class Progress:
    """The progress of a pass over images: a bar in a terminal, else a line in the log now and then.

    name: of the pass. total: number of images. done: images that an earlier run has finished.
    """

    def __init__(self, name: str, total: int, done: int = 0):
        self.name, self.total, self.done, self.first = name, total, done, done
        self.began = self.said = time.monotonic()
        self._bar = tqdm(desc=name, total=total, initial=done, unit=" images", disable=None)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def add(self, count: int) -> None:
        """Count images that are finished."""
        self.done += count
        self._bar.update(count)
        now = time.monotonic()
        if self._bar.disable and now - self.said >= _SAY:
            self.said = now
            log.info("%s", self.line(now - self.began))

    def line(self, seconds: float) -> str:
        """Return the progress after so many seconds, such as

        ``images: 5000 of 10000, 100 images/s, 1 min left``.
        """
        rate = max(self.done - self.first, 1) / max(seconds, 1e-9)
        left = round((self.total - self.done) / rate / 60)
        place = f"{self.name}: {self.done} of {self.total}"
        return f"{place}, {rate:.0f} images/s, {left or 'less than 1'} min left"
