"""Check that a stage reads what was written, by the checksums of ``dvc.lock``, once per file.

DVC takes an object of its cache for intact because of its name. A rotten object comes back into the
folder, is used, and is noted as right for good. So before a stage reads a file, the file is
compared with its checksum in ``dvc.lock``, or in the manifest of its dataset where the lock has no
checksum. The result is remembered by size, time stamp and inode (``.prosmin/intact``). Files that a
stage has just written are remembered too, so only files from elsewhere are read for the check.
"""

import configparser
import contextlib
import hashlib
import json
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from prosmin.common import files
from prosmin.common.errors import UserError
from stages.common import declared

NOTES = Path(".prosmin/intact")
MANIFEST = "manifest.json"  # of a dataset
FOLDER = ".dir"  # ends the checksum of a folder, which is the checksum of a list of its files

Place = list[int]  # size, time of the last change, inode


def check(paths: Iterable[str]) -> None:
    """Check outputs of stages, and all outputs below these paths.

    Raises:
        UserError: for the first damaged file.
    """
    for fault in faults(paths):
        raise UserError(fault)


def faults(paths: Iterable[str]) -> Iterator[str]:
    """A sentence for each output at or below one of ``paths`` that holds a damaged file."""
    checksums = {
        out["path"]: out["md5"]
        for entry in declared.locked().values()
        for out in entry.get("outs", ())
        if "md5" in out
    }
    inside_of: dict[str, list[str]] = {}
    for out in checksums:
        for folder in declared.above(out):
            inside_of.setdefault(folder, []).append(out)
    for path in paths:
        inside = inside_of.get(path, [])
        for out in inside or ([path] if Path(path, MANIFEST).is_file() else []):
            if fault := _fault(out, checksums.get(out)):
                yield fault


def remember(outs: Iterable[str]) -> None:
    """Note that the files of these outputs are intact, because this process has written them."""
    for out in outs:
        note(out, _places(out))


def _fault(out: str, md5: str | None) -> str:
    """A sentence about the damage of an output, empty where there is none.

    md5: its checksum in ``dvc.lock``; None where the lock has none.
    """
    known = noted(out)
    here = _places(out)
    unknown = [path for path, seen in here.items() if known.get(path) != seen]
    if not unknown:
        return ""
    algorithm = "sha256" if md5 is None else "md5"
    wanted = _by_manifest(out) if md5 is None else listing(out, md5)
    if wanted is None:  # without DVC's list, the list of the files as they are must be the same
        digests = {path: digest(path, algorithm) for path in here}
        if folder_digest(out, digests) != md5:
            return _sentence(out, out, md5, ["-rf", out])
    else:
        for path in unknown:
            if path in wanted and digest(path, algorithm) != wanted[path]:
                return _sentence(path, out, wanted[path], ["-f", path])
    note(out, here)
    return ""


def _sentence(path: str, out: str, md5: str | None, remove: list[str]) -> str:
    copy = cached(md5) if md5 else None
    rotten = (
        copy is not None and copy.is_file() and digest(str(copy), "md5") != md5.removesuffix(FOLDER)
    )
    whose = ", and so is DVC's copy of it" if rotten else ""
    command = shlex.join(["rm", *remove, *([str(copy)] if rotten else [])])
    return (
        f"{path} is damaged{whose}: it is not what the stage that makes {out} has written; "
        f"`{command}` and run again with `dvc repro`, which restores it or makes it anew"
    )


# --- the right checksums --------------------------------------------------------------------------


def listing(out: str, md5: str) -> dict[str, str] | None:
    """MD5 by path of the files of an output; None where DVC's list of them is gone or damaged."""
    if not md5.endswith(FOLDER):
        return {out: md5}
    try:
        text = cached(md5).read_bytes()
    except OSError:
        return None
    if hashlib.md5(text, usedforsecurity=False).hexdigest() != md5.removesuffix(FOLDER):
        return None
    return {os.path.join(out, file["relpath"]): file["md5"] for file in json.loads(text)}


def folder_digest(out: str, digests: Mapping[str, str]) -> str:
    """DVC's checksum of a folder. digests: the MD5 of each file in it, by path."""
    listed = [
        {"md5": md5, "relpath": Path(path).relative_to(out).as_posix()}
        for path, md5 in digests.items()
    ]
    listed.sort(key=lambda file: file["relpath"])
    text = json.dumps(listed, sort_keys=True).encode()
    return hashlib.md5(text, usedforsecurity=False).hexdigest() + FOLDER


def _by_manifest(out: str) -> dict[str, str]:
    """SHA-256 by path of the splits of a dataset; empty for another output."""
    try:
        splits = files.read_json(Path(out, MANIFEST))["splits"]
        return {
            os.path.join(out, shard["file"]): shard["sha256"]
            for name, facts in splits.items()
            for shard in facts.get("shards", [{"file": f"{name}.arrow", **facts}])
        }
    except (OSError, UserError, ValueError, KeyError, TypeError, AttributeError):
        return {}  # the stage that reads the manifest says what is wrong with it


def cached(md5: str) -> Path:
    """The object of DVC's cache with this checksum."""
    return cache() / "files" / "md5" / md5[:2] / md5[2:]


def kept(md5: str) -> bool:
    """Whether DVC's cache has an output with this checksum, all files of a folder included."""
    listed = listing("", md5)
    return listed is not None and all(cached(inner).is_file() for inner in listed.values())


def cache() -> Path:
    """The folder of DVC's cache."""
    return Path(".dvc", setting("dir") or "cache")  # relative to the file of settings


def setting(name: str) -> str:
    """The value of a key in the section ``cache`` of DVC's configuration; empty where not set."""
    value = ""
    for file in ("config", "config.local"):
        settings = configparser.ConfigParser(strict=False, interpolation=None)
        with contextlib.suppress(OSError, configparser.Error, UnicodeDecodeError):
            settings.read_string(Path(".dvc", file).read_text())
        value = settings.get("cache", name, fallback=value)
    return value


def digest(path: str, algorithm: str) -> str:
    """md5 or sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(
            file, lambda: hashlib.new(algorithm, usedforsecurity=False)
        ).hexdigest()


# --- files that are known to be intact ------------------------------------------------------------


def below(out: str) -> Iterator[str]:
    """The files of a folder, or the file itself.

    Names that begin with a dot are left out: another process is still writing such a file, or has
    left it, as desktops and network disks do. So are Python's compiled modules. ``.dvcignore``
    keeps both from DVC, whose checksum of a folder would be another one.
    """
    if not os.path.isdir(out):
        yield out
    for folder, inside, names in os.walk(out):
        inside[:] = [name for name in inside if not name.startswith((".", "__pycache__"))]
        yield from (
            os.path.join(folder, name) for name in sorted(names) if not name.startswith(".")
        )


def place(path: str | Path) -> Place | None:
    """Size, time of the last change and inode of a file; None where there is none."""
    try:
        facts = os.stat(path)
    except OSError:
        return None
    return [facts.st_size, facts.st_mtime_ns, facts.st_ino]


def _places(out: str) -> dict[str, Place]:
    return {path: seen for path in below(out) if (seen := place(path))}


def _file(out: str) -> Path:
    return NOTES / f"{out.replace('/', '+')}.json"


def noted(out: str) -> dict[str, Place]:
    """The files of an output that are known to be intact."""
    try:
        content = files.read_json(_file(out))
    except (OSError, UserError):
        return {}
    return content if isinstance(content, dict) else {}


def forget(out: str) -> None:
    """Drop what is known of an output, which has been removed."""
    with contextlib.suppress(OSError):
        _file(out).unlink()


def note(out: str, places: Mapping[str, Place]) -> None:
    """Remember that the files of an output are intact."""
    with contextlib.suppress(OSError):  # without the note, they are checked again
        files.write_json(_file(out), places)
