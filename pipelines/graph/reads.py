"""Withdraw entries of ``dvc.lock`` whose inputs are not those that the stage has read.

A stage fails where an input is edited while it runs (``stages/common/inputs.py``). DVC looks at the
inputs a moment later, when the stage has ended. An edit in that moment is seen here, after the run,
by the note that the stage has left.
"""

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

from pipelines.graph import dvc, lockfile
from prosmin.common.errors import UserError, shown
from prosmin.common.files import read_json
from stages.common import current, declared, inputs, proof


def forget() -> None:
    """Remove the notes of earlier runs; call it before a run."""
    shutil.rmtree(inputs.READ, ignore_errors=True)


def noted(key: str, stage: str = "") -> dict[str, float]:
    """A number of the stages that have ended in this run, by name, such as their ``seconds``.

    stage: the only one to look for; empty: all.
    """
    numbers = {}
    for path in [inputs.note_of(stage)] if stage else inputs.READ.glob("*.json"):
        with contextlib.suppress(OSError, UserError, KeyError, TypeError, ValueError):  # torn
            note = read_json(path)
            numbers[str(note["stage"])] = float(note[key])
    return numbers


def wrong() -> dict[str, str]:
    """A sentence per stage of this run whose entry has inputs that the stage has not read."""
    entries = declared.locked() if inputs.READ.is_dir() else {}
    faults = {}
    for path in sorted(inputs.READ.glob("*.json")):
        try:
            note = read_json(path)
            stage = note["stage"]
            entry = entries[stage]
            if declared.fingerprint(entry) == note["before"]:
                continue  # DVC has not noted this run: it failed after the stage had ended
            if what := next(_differences(note, entry), ""):
                faults[stage] = f"{what}; its results are not noted, run it again"
        except (OSError, UserError, KeyError, TypeError, AttributeError):
            continue  # a torn note, or a stage that DVC has not noted
    return faults


def _differences(note: dict[str, Any], entry: dict[str, Any]) -> Iterator[str]:
    stage = note["stage"]
    params = (entry.get("params") or {}).get(str(declared.PARAMS)) or {}
    for key, before, now in current.differences(note["params"], params):
        was = f"{shown(before)} when {stage} read it and is {shown(now)} now"
        yield f"{declared.PARAMS}: {key} was {was}"
    for dep in entry.get("deps") or ():
        if note["deps"].get(dep["path"], dep.get("md5")) != dep.get("md5"):
            yield f"{dep['path']} has changed since {stage} read it"


def withdraw(stage: str) -> None:
    """Take a stage out of ``dvc.lock`` and out of the run cache; call it under DVC's lock."""
    dvc.remove_run(proof.cache(), stage)
    lockfile.remove(stage)
