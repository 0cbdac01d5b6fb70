"""Checkpoints of a run that was killed: whole or absent, checked when read.

A run owns the folder ``<root>/<key>``; its key changes with everything that determines the result.
The folder holds the two newest states as safetensors files. Nothing is ever unpickled.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import platform
import shutil
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from prosmin.common import files
from prosmin.common.errors import UserError
from prosmin.training import fingerprint

log = logging.getLogger(__name__)

Arrays = dict[str, np.ndarray]

TRAINS = ("prosmin.training.loop", "prosmin.models.store")  # they train and build the model
KEPT = 2  # states of a run: one to fall back on should the newest be damaged
KEPT_RUNS = 4  # stopped runs that may continue
SHARE = 0.02  # largest share of the time, about, that goes into writing checkpoints


def key(**facts: Any) -> str:
    """16 hexadecimal digits that identify a run.

    They change with any of ``facts`` (JSON, dataclasses), with the code that ``TRAINS`` reaches,
    and with the versions of Python and the libraries.
    """
    facts |= {"code": _code(), "python": platform.python_version()}
    facts |= {name: version(name) for name in ("torch", "timm", "accelerate", "numpy")}
    text = json.dumps(facts, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return dict(value)


def _code() -> str:
    return fingerprint.code(*TRAINS)


class Checkpoints:
    """The checkpoints of one run, written by its first process.

    every: seconds between two checkpoints, at least, and a sixth of it at the end of an epoch. 0:
        after every step. Where writing is slow, checkpoints are rarer and take no more than about
        ``SHARE`` of the time.
    about: the model, as JSON or a dataclass, for a program that replays a step.
    like: the key of all runs that differ in the number of processes or the device alone.
    lent: whether runs with the same ``like`` may go on from these states; they do where they have
        none of their own, and lend theirs in turn.
    """

    def __init__(
        self,
        root: str | Path,
        key: str,
        every: float = 60.0,
        about: Any = None,
        like: str = "",
        lent: bool = False,
    ):
        self.folder, self.key, self.every = Path(root) / key, key, every
        self.about, self.like, self.lent = about, like, lent
        self._lender: Path | None = None
        self._last, self._cost = time.monotonic(), 0.0

    def due(self, epoch_ends: bool) -> bool:
        """Is it time for a checkpoint?"""
        wait = max(
            self.every / 6 if epoch_ends else self.every, self._cost / SHARE if self.every else 0.0
        )
        return time.monotonic() - self._last >= wait

    def path(self, step: int) -> Path:
        """The file of the state after ``step`` steps."""
        return self.folder / f"step-{step:09}.safetensors"

    def save(self, step: int, arrays: Mapping[str, np.ndarray], facts: Any) -> bool:
        """Write ``arrays`` and ``facts`` (JSON) as the state after ``step`` steps. Was it written?

        A full disk costs this checkpoint and a line in the log. The run and older checkpoints stay.
        """
        began, path, written = time.monotonic(), self.path(step), False
        head = {"run": self.key, "facts": json.dumps(facts)}
        if self.lent:
            head["like"] = self.like
        try:
            files.private_folder(self.folder)
            files.write_arrays(path, arrays, head)
        except OSError as error:
            log.warning(
                "the checkpoint of step %d cannot be written to %s (%s); training goes on, %s",
                step,
                self.folder,
                error.strerror,
                f"the last good checkpoint is {self._states()[-1].name}"
                if self._states()
                else "there is none yet",
            )
        else:
            written = True
            for old in self._states()[:-KEPT]:
                old.unlink(missing_ok=True)
        self._last = time.monotonic()
        self._cost = self._last - began
        return written

    def step_path(self, step: int, rank: int) -> Path:
        """The file that keeps what is needed to replay a step, counted from 0, in one process."""
        return self.folder / f"kept-{step:09}.rank{rank}.safetensors"

    def write_step(self, path: Path, arrays: Mapping[str, np.ndarray], facts: Any) -> bool:
        """Write a step that is kept, with ``facts`` and ``about`` as JSON. Was it written?"""
        head = {"run": self.key, "facts": json.dumps(facts | {"about": self.about}, default=_plain)}
        try:
            files.private_folder(self.folder)
            files.write_arrays(path, arrays, head)
        except OSError as error:
            log.warning("the step cannot be kept in %s (%s)", path, error.strerror)
            return False
        return True

    def newest(self, until: int | None = None) -> tuple[Path, bytes] | None:
        """The newest state that is whole and of this run; damaged ones are renamed.

        until: the largest step that it may have; ``None``: any.
        """
        self._clear_leftovers()
        for path in reversed(self._states()):
            if until is not None and path > self.path(until):
                continue
            try:
                content = path.read_bytes()
                self._check(content)
                return path, content
            except (UserError, OSError) as error:
                reason = error.strerror if isinstance(error, OSError) else error
                aside = path.with_suffix(".damaged")
                log.warning(
                    "the checkpoint %s is passed over and put aside as %s: %s",
                    path,
                    aside.name,
                    reason,
                )
                with contextlib.suppress(OSError):
                    path.rename(aside)
        return None

    def borrowed(self) -> tuple[Path, bytes] | None:
        """The newest state that another run with the same ``like`` lends; this run then lends too.

        Damaged files are passed over.
        """
        if not self.like:
            return None
        states = (path for path in self.folder.parent.glob("*/step-*.safetensors"))
        for path in sorted(states, key=lambda path: path.name, reverse=True):
            with contextlib.suppress(UserError, OSError):
                with open(path, "rb") as file:
                    size = file.read(8)
                    head = _head(size + file.read(int.from_bytes(size, "little")))
                if head.get("like") == self.like:
                    content = path.read_bytes()
                    parse(content)
                    self.lent, self._lender = True, path.parent
                    return path, content
        return None

    def finish(self) -> None:
        """Remove the checkpoints of a run whose results are written, and those it has borrowed."""
        for folder in filter(None, (self.folder, self._lender)):
            shutil.rmtree(folder, ignore_errors=True)

    def prune_runs(self, but: "Checkpoints | None" = None) -> None:
        """Remove the other runs in the same root, except for ``but`` and ``KEPT_RUNS`` newest."""
        kept = {self.folder, but.folder if but else self.folder}
        if self.folder.parent.is_dir():
            others = [
                folder
                for folder in self.folder.parent.iterdir()
                if folder.is_dir() and folder not in kept
            ]
            others.sort(key=lambda folder: folder.stat().st_mtime)
            for folder in others[: -KEPT_RUNS or None]:
                shutil.rmtree(folder, ignore_errors=True)

    def _check(self, content: bytes) -> None:
        run = _head(content)["run"]
        if run != self.key:
            raise UserError(f"it is of another run, {run}")
        parse(content)

    def _states(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.safetensors"))

    def _clear_leftovers(self) -> None:
        """Remove unfinished files of a killed process."""
        for part in self.folder.glob(".*.part"):
            part.unlink(missing_ok=True)


def _head(content: bytes) -> dict[str, str]:
    """The text in the head of a safetensors file: 8 bytes of length, then JSON.

    Raises ``UserError`` where there is none.
    """
    try:
        head = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
        return {"run": head["run"], **head}
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError("it is not a whole checkpoint") from None


def parse(content: bytes) -> tuple[Arrays, Any]:
    """The arrays and facts of a checkpoint. Raises ``UserError`` where it is damaged."""
    from safetensors.numpy import load

    head = _head(content)
    try:
        arrays, facts = load(content), json.loads(head["facts"])
    except Exception:  # SafetensorError, ValueError, KeyError, TypeError: all mean damage
        raise UserError("it is not a whole checkpoint") from None
    if not files.matches(arrays, head):
        raise UserError("its content does not match its checksum")
    return arrays, facts
