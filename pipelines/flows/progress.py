"""What the page of a run shows while it goes on: bars, and the curves of a training."""

import contextlib
import contextvars
import os
import re
import threading
import time
from typing import Any
from uuid import UUID

from pipelines.flows import page
from prosmin.common.errors import UserError
from prosmin.common.files import read_csv
from stages.common import declared

BAR = re.compile(r"(\d{1,3})%\|")  # as tqdm draws it
EVERY = 1.0  # seconds between two updates of the page
ALL = "stages-done"
DRAWN_EVERY = 20.0  # seconds between two drawings of the curves


class Progress:
    """Takes reports from the threads of stages. Its own thread tells the server, however slow."""

    def __init__(self, total: int):
        self._total, self._done = total, 0
        self._shares, self._known = {ALL: 0.0}, dict[str, tuple[UUID, float]]()
        self._drawn, self._curves = time.monotonic(), _curves()
        self._closed = threading.Event()
        # The context says which run the bars belong to.
        self._thread = threading.Thread(
            target=contextvars.copy_context().run, args=(self._work,), daemon=True
        )
        self._thread.start()

    def line(self, stage: str, text: str) -> bool:
        """Read a line that a stage has written; returns whether it was a bar."""
        percent = BAR.findall(text)
        if percent:
            self._shares[re.sub("[^a-z0-9]+", "-", stage.lower())] = float(percent[-1])
        return bool(percent)

    def ended(self) -> None:
        self._done += 1
        self._shares[ALL] = 100.0 * self._done / self._total

    def close(self) -> None:
        self._closed.set()
        self._thread.join(timeout=10)

    def _work(self) -> None:
        while not self._closed.wait(EVERY):
            self._tell()
            if time.monotonic() - self._drawn >= DRAWN_EVERY:
                # Neither a curve that is just being replaced nor a slow server may end a run.
                with contextlib.suppress(Exception):
                    self.draw()
        self._tell()

    def draw(self) -> None:
        """Show the curves that a training has written since the last look, if there are any."""
        from prefect.artifacts import create_markdown_artifact

        self._drawn, curves = time.monotonic(), _curves()
        if curves == self._curves:
            return
        self._curves = curves
        images = []
        for path in curves:
            settings, table = _plots()[path], read_csv(path)
            if table:
                shown = settings["title"], table, settings["x"], settings["y"]
                images.append(page.plot(*shown))
        if images:
            create_markdown_artifact("\n\n".join(images), key="training", description="So far.")

    def _tell(self) -> None:
        from prefect.artifacts import create_progress_artifact, update_progress_artifact

        for key, share in list(self._shares.items()):
            artifact, shown = self._known.get(key, (None, None))
            if share == shown:
                continue
            # A bar that cannot be drawn must not end a run; the next look tries again.
            with contextlib.suppress(Exception):
                if artifact is None:
                    what = "Stages done" if key == ALL else f"Progress of {key}"
                    artifact = create_progress_artifact(share, key=key, description=what)
                else:
                    update_progress_artifact(artifact, share)
                self._known[key] = (artifact, share)


def _plots() -> dict[str, dict[str, Any]]:
    """The plots of a training in ``dvc.yaml``: title, x and y by path."""
    try:
        listed = declared.parse(declared.GRAPH.read_bytes())["stages"]["pretrain"]["plots"]
        every = {path: settings for plot in listed for path, settings in plot.items()}
        return {path: settings for path, settings in every.items() if "x" in settings}
    except (OSError, UserError, KeyError, TypeError, AttributeError):
        return {}  # another graph


def _curves() -> dict[str, int]:
    """When the curves of a training were last written, by path."""
    times = {}
    for path in _plots():
        with contextlib.suppress(OSError):
            times[path] = os.stat(path).st_mtime_ns
    return times
