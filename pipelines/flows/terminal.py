"""A run in the terminal: one live line per stage, or plain lines where there is no terminal."""

import contextlib
import sys
import threading
import time
from collections import deque
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pipelines.engine.execute import Result
from pipelines.graph.dag import Stage

STYLES = {
    "ran": "green",
    "cached": "cyan",
    "skipped": "dim",
    "failed": "bold red",
    "stopped": "red",
    "blocked": "yellow",
}


def tell(text: str, file: TextIO) -> None:
    """Write a line. A run goes on where the reader of its output has gone (``| head -n 1``)."""
    with contextlib.suppress(OSError):
        print(text, file=file, flush=True)


class Terminal:
    """Shows a run (``graph_flow.View``). Its methods are called from several threads."""

    def __init__(self) -> None:
        self.results: dict[str, Result] = {}
        self.experiment: str | None = None
        self._console = Console(stderr=True)
        self._begun: dict[str, float] = {}
        self._last: dict[str, deque[str]] = {}
        self._stages: dict[str, Stage] = {}
        self._guard = threading.RLock()
        self._live = (
            Live(get_renderable=self._render, console=self._console, refresh_per_second=4)
            if self._console.is_terminal
            else None
        )

    def __enter__(self) -> "Terminal":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._live.stop()

    def began(self, stages: dict[str, Stage], plan: list[str]) -> None:
        self._stages = stages
        for line in plan:
            if self._live:
                self._console.print(line, highlight=False, markup=False)
            self._say(line)

    def started(self, stage: str) -> None:
        with self._guard:
            self._begun[stage], self._last[stage] = time.monotonic(), deque(maxlen=30)
        self._say(f"{stage}: started")

    def line(self, stage: str, text: str) -> None:
        if text.strip():
            self._last[stage].append(text)

    def ended(self, result: Result) -> None:
        with self._guard:
            self.results[result.stage] = result
        took = f" in {result.took}" if result.seconds else ""
        why = f": {result.reason}" if result.reason else ""
        self._say(f"{result.stage}: {result.outcome}{took}{why}")

    def saved(self, name: str) -> None:
        self.experiment = name

    def _say(self, text: str) -> None:
        if not self._live:
            with self._guard:
                tell(text, sys.stderr)

    def _render(self) -> RenderableType:
        shown = Table.grid(padding=(0, 2))
        with self._guard:
            for name in self._stages:
                result = self.results.get(name)
                if result:
                    outcome = Text(result.outcome, STYLES[result.outcome])
                    took = result.took if result.seconds else ""
                    shown.add_row(name, outcome, took, Text(result.reason, overflow="ellipsis"))
                elif name in self._begun:
                    last = self._last[name][-1].strip() if self._last[name] else ""
                    line = Text(last, "dim", no_wrap=True, overflow="ellipsis")
                    seconds = f"{time.monotonic() - self._begun[name]:.1f} s"
                    shown.add_row(name, Text("running", "bold"), seconds, line)
                else:
                    shown.add_row(name, Text("waiting", "dim"), "", "")
            count = f"{len(self.results)} of {len(self._stages)} stages"
        return Group(shown, Text(count if self._stages else "starting", "bold"))

    def failures(self) -> list[str]:
        """The last lines of each stage that failed."""
        lines = []
        for name, result in self.results.items():
            if result.outcome == "failed":
                lines += [f"--- {name} ---", *self._last.get(name, [])]
        return lines
