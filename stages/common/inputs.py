"""Make sure that the inputs of a stage stay as they are while the stage runs.

DVC notes the params, the code and the data of a stage as they are when the stage has *ended*. An
edit in between would have the result of the old inputs noted under the new ones. So a stage looks
at its own keys of ``params.yaml`` and at the files that it depends on before it reads them, and
again at its end. It leaves a note of them (``.prosmin/read``), by which ``make repro`` and
``make flow`` check afterwards what DVC has noted. The note also tells how long the stage took, and
how much memory it held at most.
"""

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prosmin.common.errors import UserError, shown
from prosmin.common.files import write_json
from stages.common import declared, proof
from stages.common.declared import PARAMS
from stages.common.memory import Peak
from stages.params.yaml_file import read

READ = Path(".prosmin/read")
SMALL = 2**20  # bytes; a larger file is known by size, time stamp and inode instead of its content

# The MD5 of a small file; size, time of the last change and inode of a large one.
State = str | tuple[int, int, int]


@dataclass(frozen=True)
class Inputs:
    """The inputs of a stage at the time of a look.

    text: the content of ``params.yaml``. values: by key of ``params.yaml``. files: their states by
    path; None for a file that does not exist.
    """

    stage: declared.Stage
    text: bytes
    values: dict[str, Any]
    files: dict[str, State | None]

    def changed(self) -> str:
        """The first difference to the inputs as they are now, as a part of a sentence, or ""."""
        if params_text() != self.text:
            try:
                content = read(PARAMS)
            except UserError as error:
                return str(error)
            for key, before in self.values.items():
                now = declared.value(content, key)
                if now != before:
                    key, before, now = inner(key, before, now)
                    was = f"{shown(before)} when {self.stage.name} read it and is {shown(now)} now"
                    return f"{PARAMS}: {key} was {was}"
        for path in sorted(self.files.keys() | set(_files(self.stage))):
            if self.files.get(path) != _state(path):
                return f"{path} has changed since {self.stage.name} read it"
        return ""

    def note(self) -> dict[str, Any]:
        """The inputs as ``dvc.lock`` has them: values by key, checksums by dependency.

        Dependencies with a large file are left out. ``before`` is the fingerprint of the entry that
        ``dvc.lock`` has now, before DVC notes this run of the stage.
        """
        checksums = {}
        for dep in self.stage.deps:
            inside = {
                path: md5
                for path, md5 in self.files.items()
                if path == dep or path.startswith(f"{dep}/")
            }
            if inside and all(isinstance(md5, str) for md5 in inside.values()):
                folder = dep not in inside
                checksums[dep] = proof.folder_digest(dep, inside) if folder else inside[dep]
        params = self.values.get("", self.values)  # "": all of params.yaml
        before = declared.fingerprint(declared.locked().get(self.stage.name))
        return {"stage": self.stage.name, "params": params, "deps": checksums, "before": before}


_now: Inputs | None = None
_begun = time.monotonic()  # when this process began, but for the libraries imported before
_peak = Peak()


def note(stage: str, arguments: list[str], text: bytes | None = None) -> None:
    """Look at the inputs of ``stage``, which this process is about to read.

    text: content of ``params.yaml`` before it was read; None: as it is now.

    Raises:
        UserError: where a file that the stage reads is damaged.
    """
    global _now, _peak
    _now = look(declared.address(stage, arguments), text)
    if _now:
        proof.check(_now.stage.deps)
        _peak = Peak()
        _peak.start()


def finish() -> None:
    """Confirm the inputs and note that the outputs are intact.

    Raises:
        UserError: where an input has changed; the outputs are then removed.
    """
    try:
        confirm("its results are removed; run it again")
    except UserError:
        _discard()
        raise
    if _now:
        proof.remember(_now.stage.outs)
        with contextlib.suppress(OSError):  # a full disk: without a note, nothing is compared
            content = _now.note() | {"seconds": round(time.monotonic() - _begun, 1)}
            if memory := _peak.stop():
                content["memory"] = memory
            write_json(note_of(_now.stage.name), content)


def note_of(stage: str) -> Path:
    """The file of the note that a stage leaves."""
    return READ / f"{stage.replace('/', '+')}.json"


def forget() -> None:
    """Drop the inputs in a process that writes no outputs, as all but rank 0 of a training."""
    global _now
    _now = None
    _peak.stop()


def look(name: str, text: bytes | None = None) -> Inputs | None:
    """The inputs of a stage as they are now; None where there is no such stage.

    text: as for ``note``.
    """
    text = params_text() if text is None else text
    content = declared.parse(text)
    stage = declared.graph(content).get(name) if isinstance(content, dict) else None
    if stage is None:
        return None
    values = {key: declared.value(content, key) for key in stage.params}
    return Inputs(stage, text, values, {path: _state(path) for path in _files(stage)})


def confirm(remedy: str) -> None:
    """Compare the inputs that this process has read with those that are there now.

    remedy: ends the sentence where they differ.

    Raises:
        UserError: where they differ.
    """
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
        facts = os.stat(path)
        if facts.st_size > SMALL:
            return facts.st_size, facts.st_mtime_ns, facts.st_ino
        # Editors and git write a file anew with the same content: it is the same file.
        return hashlib.md5(Path(path).read_bytes(), usedforsecurity=False).hexdigest()
    except OSError:
        return None


def inner(key: str, before: Any, now: Any) -> tuple[str, Any, Any]:
    """The first key inside a section that differs, with both values."""
    while isinstance(before, dict) and isinstance(now, dict):
        step = next(step for step in [*before, *now] if before.get(step) != now.get(step))
        key, before, now = f"{key}.{step}".lstrip("."), before.get(step), now.get(step)
    return key, before, now
