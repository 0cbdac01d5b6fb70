"""What a stage reads is what was written: proof by the checksums of ``dvc.lock``, once for each
file.

DVC takes an object of its cache for what its name says, so one that has rotted comes back into the
folder and is used, and noted as the right one, for good. Here a file that a stage is about to read
is compared with what the lock says of it, or by the checksum in its dataset's manifest where the
lock says nothing, and is remembered by its size, time and place on the disk (``.prosmin/intact``).
A file that a stage has just written is remembered too, so only what came from elsewhere is read for
it.
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
FOLDER = ".dir"  # ends the checksum of a folder, which is that of a list of its files

Place = list[int]  # size, time of the last change, inode


def check(paths: Iterable[str]) -> None:
    """Raise ``UserError`` for the first file of these outputs of stages, or below them, that is
    damaged."""
    for fault in faults(paths):
        raise UserError(fault)


def faults(paths: Iterable[str]) -> Iterator[str]:
    """A sentence for each output among ``paths``, or below one of them, of which a file is
    damaged."""
    noted = {
        out["path"]: out["md5"]
        for entry in declared.locked().values()
        for out in entry.get("outs", ())
        if "md5" in out
    }
    for path in paths:
        inside = [out for out in noted if out == path or f"{out}/".startswith(f"{path}/")]
        for out in inside or ([path] if Path(path, MANIFEST).is_file() else []):
            if fault := _fault(out, noted.get(out)):
                yield fault


def remember(outs: Iterable[str]) -> None:
    """Note that the files of these outputs are as this process has written them."""
    for out in outs:
        _note(out, {path: place for path in below(out) if (place := _place(path))})


def _fault(out: str, md5: str | None) -> str:
    """What is wrong with an output, empty where nothing is. md5: that of the lock, None where it
    has none."""
    known = _noted(out)
    here = {path: place for path in below(out) if (place := _place(path))}
    unknown = [path for path, place in here.items() if known.get(path) != place]
    if not unknown:
        return ""
    wanted = _by_manifest(out) if md5 is None else _listed(out, md5)
    algorithm = "sha256" if md5 is None else "md5"
    if wanted is None:  # DVC's list is not at hand; that of the files as they are must be the same
        found = {path: digest(path, algorithm) for path in here}
        if folder_digest(out, found) != md5:
            return _sentence(out, out, md5, ["-rf", out])
    else:
        for path in unknown:
            if path in wanted and digest(path, algorithm) != wanted[path]:
                return _sentence(path, out, wanted[path], ["-f", path])
    _note(out, here)
    return ""


def _sentence(path: str, out: str, md5: str | None, remove: list[str]) -> str:
    copy = _cached(md5) if md5 else None
    rotten = (
        copy is not None and copy.is_file() and digest(str(copy), "md5") != md5.removesuffix(FOLDER)
    )
    whose = ", and so is DVC's copy of it" if rotten else ""
    command = shlex.join(["rm", *remove, *([str(copy)] if rotten else [])])
    return (
        f"{path} is damaged{whose}: it is not what the stage that makes {out} has written; "
        f"`{command}` and run again with `dvc repro`, which restores it or makes it anew"
    )


# --- what a file should be ------------------------------------------------------------------------


def _listed(out: str, md5: str) -> dict[str, str] | None:
    """MD5 by path of the files of an output, None where DVC's list of them is not there or
    damaged."""
    if not md5.endswith(FOLDER):
        return {out: md5}
    try:
        text = _cached(md5).read_bytes()
    except OSError:
        return None
    if hashlib.md5(text, usedforsecurity=False).hexdigest() != md5.removesuffix(FOLDER):
        return None
    return {os.path.join(out, each["relpath"]): each["md5"] for each in json.loads(text)}


def folder_digest(out: str, found: Mapping[str, str]) -> str:
    """The checksum that DVC gives to a folder with these files."""
    listed = [
        {"md5": md5, "relpath": Path(path).relative_to(out).as_posix()}
        for path, md5 in found.items()
    ]
    listed.sort(key=lambda each: each["relpath"])
    return (
        hashlib.md5(json.dumps(listed, sort_keys=True).encode(), usedforsecurity=False).hexdigest()
        + FOLDER
    )


def _by_manifest(out: str) -> dict[str, str]:
    """SHA-256 by path of the splits of a dataset, nothing for another output."""
    try:
        splits = files.read_json(Path(out, MANIFEST))["splits"]
        return {
            os.path.join(out, f"{name}.arrow"): facts["sha256"] for name, facts in splits.items()
        }
    except (OSError, UserError, ValueError, KeyError, TypeError, AttributeError):
        return {}  # whoever reads it says what is wrong


def _cached(md5: str) -> Path:
    """The object of DVC's cache with this checksum."""
    return cache() / "files" / "md5" / md5[:2] / md5[2:]


def cache() -> Path:
    """The folder of DVC's cache."""
    where = "cache"
    for name in ("config", "config.local"):
        settings = configparser.ConfigParser(strict=False, interpolation=None)
        with contextlib.suppress(OSError, configparser.Error, UnicodeDecodeError):
            settings.read_string(Path(".dvc", name).read_text())
        where = settings.get("cache", "dir", fallback=where)
    return Path(".dvc", where)  # relative to the file of settings


def digest(path: str, algorithm: str) -> str:
    """md5 or sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(
            file, lambda: hashlib.new(algorithm, usedforsecurity=False)
        ).hexdigest()


# --- what is known of a file ----------------------------------------------------------------------


def below(out: str) -> Iterator[str]:
    """The files of a folder, or the file itself.

    Left out: names that begin with a dot, which another process is about to write, and what
    ``.dvcignore`` keeps from DVC, Python's compiled modules."""
    if not os.path.isdir(out):
        yield out
    for folder, inside, names in os.walk(out):
        inside[:] = [name for name in inside if not name.startswith((".", "__pycache__"))]
        yield from (
            os.path.join(folder, name) for name in sorted(names) if not name.startswith(".")
        )


def _place(path: str) -> Place | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns, found.st_ino]


def _file(out: str) -> Path:
    return NOTES / f"{out.replace('/', '+')}.json"


def _noted(out: str) -> dict[str, Place]:
    try:
        found = files.read_json(_file(out))
    except (OSError, UserError):
        return {}
    return found if isinstance(found, dict) else {}


def _note(out: str, places: Mapping[str, Place]) -> None:
    with contextlib.suppress(OSError):  # it is looked at anew then
        files.write_json(_file(out), places)
