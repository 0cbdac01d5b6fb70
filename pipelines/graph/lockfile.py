"""The text of ``dvc.lock``: its entries in DVC's order, and whole.

DVC updates an entry in place and appends a new entry when its stage is done. After stages have run
at the same time, new entries stand in order of completion; here they are put into the order that
``dvc repro`` alone would have left. Entries are moved as text, so they stay as DVC wrote them.

The order before a run is kept in a file until the run is done, so the next run knows it where this
run is killed.
"""

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from pipelines.graph.private import FOLDER
from prosmin.common.errors import UserError
from prosmin.common.files import read_json, write_json, write_text
from stages.common import declared, proof
from stages.common.declared import LOCK, Loader

ORDER = FOLDER / "order.json"
# PyYAML's constructors raise many kinds for a value that does not fit, such as 2026-13-45.
UNREADABLE = (yaml.YAMLError, RecursionError, ValueError, LookupError, AttributeError, TypeError)
LOST = "\ufffd"  # stands for bytes that are no text
HEAD = "schema: '2.0'\nstages:\n"


def snapshot(stages: Iterable[str]) -> dict[Path, list[str]]:
    """Note and return the order of entries in each lock file that a run of ``stages`` may write.

    The order stays noted until ``forget``. Where a run that was killed has noted an order, that
    order is kept.
    """
    paths = {_path(stage) for stage in stages}
    order = {path: [name for name, _ in _split(_text(path))[1]] for path in paths} | noted()
    _note(order)
    return order


def noted() -> dict[Path, list[str]]:
    """The order before a run that was killed; empty where there was none."""
    try:
        return {
            Path(path): [str(name) for name in names] for path, names in read_json(ORDER).items()
        }
    except (OSError, UserError, ValueError, TypeError, AttributeError):
        return {}


def _note(order: dict[Path, list[str]]) -> None:
    with contextlib.suppress(OSError):  # a full disk: only the order of entries is at stake
        write_json(ORDER, {str(path): names for path, names in order.items()})


def forget() -> None:
    with contextlib.suppress(OSError):
        ORDER.unlink()


def mend(path: Path = LOCK) -> Iterator[str]:
    """Take the torn entries out of a lock file; yields a sentence where something was done.

    DVC refuses to run over a torn file. The stages of the removed entries run again. DVC reads
    wrong sizes and line ends and keeps them for good, so these are put right.
    """
    if path.is_dir():
        away = path.with_name(f"{path.name}.away")
        os.replace(path, away)
        yield f"moved {path} to {away}: it was a folder, and there must be a file"
    if not path.is_file():
        return
    read = path.read_bytes().decode("utf-8", errors="replace")
    text = read.replace("\r\n", "\n")
    with contextlib.suppress(*UNREADABLE):
        content = declared.parse(text.encode())
        current = isinstance(content, dict) and content.get("schema") == "2.0"
        if current and text.endswith("\n") and LOST not in text:
            entries = content.get("stages") or {}
            if all(map(_is_whole, entries.values())):
                text = _with_sizes(text, entries)
                if text != read:
                    write_text(path, text)
                    yield f"put right sizes or line ends in {path}"
                return
    kept, lost, order = [], [], []
    for block in re.split(r"^(?=  [^\s-])", text, flags=re.M)[1:]:
        name = block.partition(":")[0].strip(" '\"\n")
        order.append(name)
        with contextlib.suppress(*UNREADABLE):
            (entry,) = yaml.load(block, Loader).values()
            if _is_whole(entry) and block.endswith("\n") and LOST not in block:
                kept.append(block)
                continue
        lost.append(name)
    _note({path: order} | noted())
    if kept:
        write_text(path, HEAD + "".join(kept))
    else:
        path.unlink()
    what = ", ".join(lost) or "its beginning"
    yield f"took out of {path}, which was torn, what was not whole: {what}"


def _is_whole(entry: Any) -> bool:
    """Whether DVC can read it as the entry of a stage."""
    if not isinstance(entry, dict) or not entry.keys() <= {"cmd", "deps", "params", "outs"}:
        return False
    files, params = [entry.get("deps", []), entry.get("outs", [])], entry.get("params", {})
    return (
        isinstance(entry.get("cmd"), str | list)
        and all(isinstance(part, list) for part in files)
        and all(isinstance(file, dict) and _is_file(file) for file in files[0] + files[1])
        and isinstance(params, dict)
        and all(isinstance(values, dict) for values in params.values())
    )


def _is_file(entry: dict[str, Any]) -> bool:
    """Whether a file of an entry is complete: DVC reads it without sizes, but never adds them."""
    md5 = entry.get("md5", "")
    wanted = ("size", "nfiles") if str(md5).endswith(".dir") else ("size",) if md5 else ()
    known = isinstance(entry.get("path"), str) and entry.get("hash", "md5") == "md5"
    return known and all(isinstance(entry.get(number), int) for number in wanted)


def _with_sizes(text: str, entries: dict[str, Any]) -> str:
    """The lock file with the right size of each file whose checksum is right."""
    for name, entry in entries.items():
        for file in (*entry.get("deps", ()), *entry.get("outs", ())):
            numbers = {number: file[number] for number in ("size", "nfiles") if number in file}
            here = _numbers(file["path"], file.get("md5", ""))
            if numbers and here and here != numbers and _digest(file["path"]) == file.get("md5"):
                start = text.index(f"\n  {name}:\n")
                for number, value in here.items():
                    place = rf"\n    - path: {re.escape(file['path'])}\n(?:      .*\n)*?"
                    wrong = re.compile(rf"({place}      {number}: ).*")
                    text = text[:start] + wrong.sub(rf"\g<1>{value}", text[start:], count=1)
    return text


def _numbers(path: str, md5: str) -> dict[str, int]:
    """Size of a file; size and number of files of a folder; empty where there is none."""
    try:
        sizes = [os.path.getsize(file) for file in proof.below(path)]
    except OSError:
        return {}
    return {"size": sum(sizes)} | ({"nfiles": len(sizes)} if md5.endswith(proof.FOLDER) else {})


def _digest(path: str) -> str:
    digests = {file: proof.digest(file, "md5") for file in proof.below(path)}
    return proof.folder_digest(path, digests) if os.path.isdir(path) else digests[path]


def restore_order(before: dict[Path, list[str]], stages: Iterable[str]) -> None:
    """Put old entries into the order ``before``, and new entries into the order of ``stages``.

    Call it under DVC's lock. stages: in DVC's order.
    """
    stages = list(stages)
    for path, old in before.items():
        head, entries, tail = _split(_text(path))
        blocks = dict(entries)
        wanted = [
            *old,
            *(stage.rpartition(":")[2] for stage in stages if _path(stage) == path),
            *blocks,
        ]
        order = [name for name in dict.fromkeys(wanted) if name in blocks]
        if order != list(blocks):
            write_text(path, head + "".join(blocks[name] for name in order) + tail)


def update(path: Path, entries: dict[str, str]) -> bool:
    """Replace or append entries, given as text by stage; returns whether the file has changed."""
    head, old, tail = _split(_text(path))
    blocks = dict(old)
    if blocks | entries == blocks:
        return False
    write_text(path, head + "".join((blocks | entries).values()) + tail)
    return True


def adopt(stage: str, show: Callable[[Path], str]) -> None:
    """Replace or append the entry of a stage by that of another copy of the project.

    show: gives the text of a lock file there.
    """
    path, name = _path(stage), stage.rpartition(":")[2]
    update(path, {name: dict(_split(show(path))[1])[name]})


def remove(stage: str, path: Path = LOCK) -> None:
    """Take out the entry of a stage."""
    head, entries, tail = _split(_text(path))
    blocks = {name: text for name, text in entries if name != stage}
    if blocks:
        write_text(path, head + "".join(blocks.values()) + tail)
    else:
        path.unlink(missing_ok=True)


def _path(stage: str) -> Path:
    """The lock file beside the dvc.yaml of a stage. stage: as ``dag.name_of`` names it."""
    return Path(stage.rpartition(":")[0] or "dvc.yaml").with_suffix(".lock")


def _text(path: Path) -> str:
    """The text of a lock file; empty where there is none."""
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _split(text: str) -> tuple[str, list[tuple[str, str]], str]:
    """(text before the entries, the entries by name, text after them)."""
    head, tail = "", ""
    entries: list[tuple[str, str]] = []
    inside = over = False
    for line in text.splitlines(keepends=True):
        if line[0] not in " \n":
            over, inside = inside or over, line.startswith("stages:")
            head, tail = (head, tail + line) if over else (head + line, tail)
        elif not inside:
            head, tail = (head, tail + line) if over else (head + line, tail)
        elif line.startswith("  ") and line[2:3] not in (" ", "-", "\n", ""):
            entries.append((str(next(iter(yaml.safe_load(line)))), line))
        else:
            entries[-1] = (entries[-1][0], entries[-1][1] + line)
    return head, entries, tail
