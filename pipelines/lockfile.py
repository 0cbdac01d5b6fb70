"""The entries of ``dvc.lock`` in the order in which ``dvc repro`` alone would have left them.

DVC updates an entry where it stands and appends a new one when its stage is done, so after stages have run at the same time
new entries stand in order of completion. Whole blocks of text are moved: what DVC wrote stays as it wrote it.
"""

from collections.abc import Iterable
from pathlib import Path

import yaml

from prosmin.files import write_text


def snapshot(stages: Iterable[str]) -> dict[Path, list[str]]:
    """The entries, in order, of each lock file that a run of ``stages`` may write (empty where there is none yet)."""
    return {path: [name for name, _ in _split(path)[1]] for path in {_path(stage) for stage in stages}}


def restore_order(before: dict[Path, list[str]], stages: Iterable[str]) -> None:
    """Old entries as they stood ``before``, new ones in the order of ``stages`` (DVC's own). Call it under DVC's lock."""
    stages = list(stages)
    for path, old in before.items():
        head, entries, tail = _split(path)
        blocks = dict(entries)
        wanted = [*old, *(stage.rpartition(":")[2] for stage in stages if _path(stage) == path), *blocks]
        order = [name for name in dict.fromkeys(wanted) if name in blocks]
        if order != list(blocks):
            write_text(path, head + "".join(blocks[name] for name in order) + tail)


def update(path: Path, entries: dict[str, str]) -> bool:
    """Put the text of each of ``entries`` in the place of the old one, or behind the last; whether any has changed."""
    head, old, tail = _split(path)
    blocks = dict(old)
    if blocks | entries == blocks:
        return False
    write_text(path, head + "".join((blocks | entries).values()) + tail)
    return True


def _path(stage: str) -> Path:
    """The lock file beside the dvc.yaml of a stage, which is named as in ``pipelines.graph``."""
    return Path(stage.rpartition(":")[0] or "dvc.yaml").with_suffix(".lock")


def _split(path: Path) -> tuple[str, list[tuple[str, str]], str]:
    """(text before the entries, the entries by name, text after them)."""
    if not path.is_file():
        return "", [], ""
    head, tail = "", ""
    entries: list[tuple[str, str]] = []
    inside = over = False
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line[0] not in " \n":
            over, inside = inside or over, line.startswith("stages:")
            head, tail = (head, tail + line) if over else (head + line, tail)
        elif not inside:
            head, tail = (head, tail + line) if over else (head + line, tail)
        elif line.startswith("  ") and line[2] not in " -\n":
            entries.append((str(next(iter(yaml.safe_load(line)))), line))
        else:
            entries[-1] = (entries[-1][0], entries[-1][1] + line)
    return head, entries, tail
