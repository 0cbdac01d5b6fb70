"""What a stage reads stays as it is while the stage runs.

DVC notes the params, the code and the data of a stage when the stage has ended, as they are *then*.
So a stage looks at its own keys of ``params.yaml`` and at the files that it depends on before it
reads them, and again at its end: where they differ, the result is of the old ones and would be
noted under the new ones.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prosmin.common.errors import UserError, shown
from stages.common import declared, proof
from stages.common.declared import PARAMS
from stages.params.yaml_file import read

SMALL = (
    2**20
)  # bytes up to which a file is told by its content, above by its size, time and place on the disk

State = (
    str | tuple[int, int, int]
)  # the checksum of a small file; size, time of the last change and inode of another


@dataclass(frozen=True)
class Inputs:
    """What ``stage`` was about to read. text: of ``params.yaml``; values: of its keys in it; files:
    their states by path."""

    stage: declared.Stage
    text: bytes
    values: dict[str, Any]
    files: dict[str, State | None]

    def changed(self) -> str:
        """What differs by now, as a part of a sentence; empty where nothing does."""
        if params_text() != self.text:
            try:
                content = read(PARAMS)
            except UserError as error:
                return str(error)
            for key, before in self.values.items():
                now = declared.value(content, key)
                if now != before:
                    key, before, now = _inner(key, before, now)
                    was = f"{shown(before)} when {self.stage.name} read it and is {shown(now)} now"
                    return f"{PARAMS}: {key} was {was}"
        for path in sorted(self.files.keys() | set(_files(self.stage))):
            if self.files.get(path) != _state(path):
                return f"{path} has changed since {self.stage.name} read it"
        return ""


_now: Inputs | None = None


def note(stage: str, arguments: list[str], text: bytes | None = None) -> None:
    """Look at what ``stage`` of ``dvc.yaml`` is about to read in this process. text: of
    ``params.yaml``, as it was before it was read; None: as it is now. Raises ``UserError`` where a
    file that the stage reads is damaged."""
    global _now
    _now = look(declared.address(stage, arguments), text)
    if _now:
        proof.check(_now.stage.deps)


def finish() -> None:
    """Raise ``UserError``, and remove what this process has written, where ``confirm`` does; else
    remember it as its own."""
    try:
        confirm("its results are removed; run it again")
    except UserError:
        _discard()
        raise
    if _now:
        proof.remember(_now.stage.outs)


def forget() -> None:
    """For a process that writes nothing, as all but the first of those that train: what is there at
    its end is another's."""
    global _now
    _now = None


def look(name: str, text: bytes | None = None) -> Inputs | None:
    """The inputs of a stage as they are now; None where ``dvc.yaml`` and ``params.yaml`` give no
    such stage. text: as for ``note``."""
    text = params_text() if text is None else text
    content = declared.parse(text)
    stage = declared.graph(content).get(name) if isinstance(content, dict) else None
    if stage is None:
        return None
    values = {key: declared.value(content, key) for key in stage.params}
    return Inputs(stage, text, values, {path: _state(path) for path in _files(stage)})


def confirm(remedy: str) -> None:
    """Raise ``UserError`` where what this process has read is not what stands there now. remedy:
    what to do then."""
    if _now and (what := _now.changed()):
        raise UserError(f"{what}; {remedy}")


def _discard() -> None:
    for out in _now.stage.outs if _now else ():
        if os.path.isdir(out):
            shutil.rmtree(out, ignore_errors=True)
        else:
            Path(out).unlink(missing_ok=True)


def params_text() -> bytes:
    try:
        return PARAMS.read_bytes()
    except OSError:  # ``stages.params.load`` says why
        return b""


def _files(stage: declared.Stage) -> Iterator[str]:
    for dep in stage.deps:
        yield from proof.below(dep)


def _state(path: str) -> State | None:
    """None where there is no such file."""
    try:
        found = os.stat(path)
        if found.st_size > SMALL:
            return found.st_size, found.st_mtime_ns, found.st_ino
        # A file that is written anew with the same content, as an editor or git does, is the same
        # file.
        return hashlib.md5(Path(path).read_bytes(), usedforsecurity=False).hexdigest()
    except OSError:
        return None


def _inner(key: str, before: Any, now: Any) -> tuple[str, Any, Any]:
    """The first key inside a section that differs, with both values."""
    while isinstance(before, dict) and isinstance(now, dict):
        step = next(each for each in [*before, *now] if before.get(each) != now.get(each))
        key, before, now = f"{key}.{step}".lstrip("."), before.get(step), now.get(step)
    return key, before, now
