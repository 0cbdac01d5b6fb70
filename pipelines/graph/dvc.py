"""DVC's messages and private files, as DVC 3.67.1 has them.

DVC documents its commands and ``dvc.yaml``. It promises neither the words of its messages nor the
files in ``.dvc/tmp`` and ``.dvc/cache``. All code that reads these stands here; ``lockfile.py``
beside it reads ``dvc.lock``. ``tests/pipelines/graph/test_dvc.py`` tries both with the installed
DVC, and fails for another version until ``VERSION`` is raised.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prosmin.common.files import running, write_text
from stages.common import declared, proof
from stages.common.declared import LOCK

VERSION = "3.67.1"  # for which the code below was written
TMP = Path(".dvc/tmp")

# --- messages -------------------------------------------------------------------------------------

# Another DVC holds a lock for a moment. A stage whose own command failed is never tried again.
BUSY = re.compile(r"^ERROR:.*(is busy, it is being blocked by|Unable to acquire lock)", re.M | re.S)
BROKEN = re.compile(r"^ERROR: failed to reproduce .*failed to run: ", re.M)
# A DVC that was killed has left its note of readers and writers half-written.
TORN_NOTE = re.compile(r"^ERROR:.*RWLock-file", re.M)
# What DVC advises after every stage. Between the lines of a stage it is in the way.
ADVICE = re.compile(
    r"(Updating|Generating) lock file|To track the changes with git|To enable auto staging"
    r"|Use `dvc push`|\s*git add |\s*dvc config core.autostage"
)


def try_again(output: str) -> bool:
    """Whether ``dvc repro`` failed only because another DVC held a lock."""
    busy = BUSY.search(output) or TORN_NOTE.search(output)
    return bool(busy) and not BROKEN.search(output)


def outcome(output: str) -> str:
    """What ``dvc repro --single-item`` did: ran, cached or skipped.

    DVC says it before the stage writes its first line.
    """
    for line in output.splitlines():
        if line.startswith("Running stage '"):
            return "ran"
        if re.match(r"Stage '.*' is cached - skipping run", line):
            return "cached"
    return "skipped"


def reason(output: str, code: int) -> str:
    """Why a stage failed: its own complaint where it made one, else DVC's."""
    lines = output.splitlines()
    own = [line for line in lines if line.startswith("error: ")]
    errors = own or [line for line in lines if line.startswith("ERROR: ")]
    return errors[-1].partition(": ")[2] if errors else f"ended with code {code}"


# --- locks in .dvc/tmp ----------------------------------------------------------------------------


@contextlib.contextmanager
def held(name: str) -> Iterator[bool]:
    """Hold a lock of DVC (``lock``, ``rwlock.lock``) while the block runs, as DVC holds it.

    Yields False where another process holds it, and where there is no ``.dvc/tmp``.
    """
    try:
        handle = open(TMP / name, "a")  # noqa: SIM115
    except OSError:
        yield False
        return
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True


def mend_note() -> Iterator[str]:
    """Put right ``.dvc/tmp/rwlock``, DVC's note of the processes that read and write outputs.

    DVC refuses to start over a torn note, and over a process id that belongs to another program
    by now. Yields a sentence where something was done.
    """
    with held("rwlock.lock") as alone:
        if alone:
            yield from _mend_note(TMP / "rwlock")


def _mend_note(path: Path) -> Iterator[str]:
    try:
        text, since = path.read_text(encoding="utf-8"), path.stat().st_mtime
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError):
        text, since = "", 0.0
    try:
        note = json.loads(text)
        writers = {name: _is_dvc(info, since) for name, info in note.get("write", {}).items()}
        readers = {
            name: [info for info in infos if _is_dvc(info, since)]
            for name, infos in note.get("read", {}).items()
        }
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        path.unlink()
        yield f"{path} was torn by an interrupted DVC and has been removed"
        return
    kept = {
        "write": {name: note["write"][name] for name, alive in writers.items() if alive},
        "read": {name: infos for name, infos in readers.items() if infos},
    }
    if kept != {"write": {}, "read": {}} | note:
        write_text(path, json.dumps(kept))
        yield f"took out of {path} what processes held that have ended"


def _is_dvc(info: dict[str, Any], since: float) -> bool:
    """Whether the process of an entry ``{pid, cmd}`` still runs and has made the entry."""
    number, command = int(info["pid"]), str(info["cmd"])
    if not running(number, since):
        return False
    import psutil

    try:
        words = psutil.Process(number).cmdline()
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True
    # DVC notes its sys.argv, which for `python -m a.b` begins with the path of the module.
    module = [after.replace(".", "/") for word, after in zip(words, words[1:]) if word == "-m"]
    python = Path(words[0]).name.startswith("python") if words else False
    programs = [word for word in words[1:] if "/" in word] + ([] if python else words[:1]) + module
    return any(program in command for program in programs)


# --- unfinished copies ----------------------------------------------------------------------------

COPY = re.compile(r".*\.[\w-]{22}\.tmp")  # the name of a copy until it is complete
QUIET = 60.0  # seconds since the last write after which an unfinished copy is abandoned


def remove_copies(folder: Path) -> Iterator[Path]:
    """Remove unfinished copies from a folder. Call it under DVC's lock."""
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(folder)):
            if COPY.fullmatch(name):
                Path(folder, name).unlink()
                yield Path(folder, name)


def remove_abandoned_copies(cache: Path) -> Iterator[Path]:
    """Remove unfinished copies from a cache that other projects may share.

    Only copies of this user that nobody writes any more.
    """
    for pattern in ("files/md5/.*.tmp", "files/md5/*/.*.tmp", "runs/*/*/.*.tmp"):
        for path in sorted(cache.glob(pattern)):
            with contextlib.suppress(OSError):
                facts = path.stat()
                old = time.time() - facts.st_mtime > QUIET
                mine = facts.st_uid == os.getuid()
                if COPY.fullmatch(path.name) and old and mine and not _is_open(path):
                    path.unlink()
                    yield path


def _is_open(path: Path) -> bool:
    """Whether a process of this user has the file open."""
    import psutil

    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if str(path.resolve()) in {file.path for file in process.open_files()}:
                return True
    return False


# --- the cache ------------------------------------------------------------------------------------


RUNS = "dvc-runs"  # the note of intact entries of the run cache


def distrust(cache: Path) -> None:
    """Have DVC compute the checksum of an object before it restores the object.

    DVC trusts an object whose mode is read-only. It computes the checksum of any other, once per
    size and time stamp, removes a rotten one and makes a good one read-only again. Links into the
    cache need the mode, so nothing is done where the configuration asks for links.
    """
    if {"hardlink", "symlink"} & set(re.split(r"\W+", proof.setting("type"))):
        return
    for path in cache.glob("files/md5/*/*"):
        with contextlib.suppress(OSError):  # another user's
            if path.stat().st_mode & 0o777 == 0o444:
                path.chmod(0o644)


def remove_torn_runs(cache: Path) -> Iterator[Path]:
    """Remove torn entries and empty folders of the run cache, over which DVC fails each time.

    The name of an entry is the checksum of its content. An entry is read once per size and time
    stamp.
    """
    known = proof.noted(RUNS)
    intact = {}
    for path in sorted(cache.glob("runs/*/*/*")):
        if path.name.startswith("."):
            continue  # unfinished
        place = proof.place(path)
        seen = place is not None and known.get(str(path)) == place
        if path.is_file() and (seen or _digest_of_run(path) == path.name):
            intact[str(path)] = place
            continue
        with contextlib.suppress(OSError):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            yield path
    for folder in cache.glob("runs/*/*"):
        with contextlib.suppress(OSError):  # not empty
            folder.rmdir()
    if intact != known:
        proof.note(RUNS, intact)


def remove_run(cache: Path, stage: str) -> None:
    """Remove the entries of the run cache for a stage with the inputs that ``dvc.lock`` has."""
    entry = _read(LOCK).get("stages", {}).get(stage)
    if entry:
        key = _digest(entry | {"outs": [out["path"] for out in entry.get("outs", ())]})
        shutil.rmtree(cache / "runs" / key[:2] / key, ignore_errors=True)


def recall(stage: declared.Stage, deps: Mapping[str, str]) -> dict[str, str] | None:
    """The checksums of what a stage has written with these inputs before, if the cache has it all.

    deps: the checksums of its dependencies, by path. Outputs are by path, too.
    """
    content = _read(declared.PARAMS)
    values = {key: declared.value(content, key) for key in stage.params}
    entry = {
        "cmd": stage.command,
        "deps": [{"path": path, "hash": "md5", "md5": deps[path]} for path in sorted(deps)],
        "params": {str(declared.PARAMS): values.get("", values)} if values else {},
        "outs": sorted(stage.outs),
    }
    key = _digest({name: part for name, part in entry.items() if part})
    runs = (proof.cache() / "runs" / key[:2] / key).glob("[!.]*")
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):  # none, or a torn one
        newest = max(runs, key=lambda path: path.stat().st_mtime)
        sums = {out["path"]: out["md5"] for out in _read(newest)["outs"]}
        if all(map(proof.kept, sums.values())):
            return sums
    return None


def _digest_of_run(path: Path) -> str:
    """The checksum by which DVC names an entry of its run cache, empty for a torn entry."""
    try:
        return _digest(_read(path))
    except (OSError, ValueError, TypeError, RecursionError):
        return ""


def _digest(content: Any) -> str:
    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(part) for part in value]
        if not isinstance(value, dict):
            return value
        return {key: plain(part) for key, part in value.items() if key not in ("size", "nfiles")}

    return hashlib.sha256(json.dumps(plain(content), sort_keys=True).encode()).hexdigest()


def _read(path: Path) -> Any:
    """The content of a file of DVC, by DVC's reader: PyYAML takes 1e-6 for text.

    Raises:
        ValueError: where it is no YAML.
    """
    from ruamel.yaml import YAML, YAMLError

    try:
        return YAML(typ="safe").load(path.read_bytes())
    except YAMLError as error:
        raise ValueError(f"{path} is not valid YAML") from error
