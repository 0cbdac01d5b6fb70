"""Progress bars on the page of a run: a bar for the whole run, and bars that stages draw."""

import contextlib
import contextvars
import re
import threading
from uuid import UUID

BAR = re.compile(r"(\d{1,3})%\|")  # as tqdm draws it
EVERY = 1.0  # seconds between two updates of the page
ALL = "stages-done"


class Progress:
    """Takes reports from the threads of stages. Its own thread tells the server, however slow."""

    def __init__(self, total: int):
        self._total, self._done = total, 0
        self._shares, self._known = {ALL: 0.0}, dict[str, tuple[UUID, float]]()
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
        self._tell()

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
