"""Before a run: put in order what one before it, that was killed, has left in the folder; a line says each thing that was done.

Everything here belongs to the program or to DVC and is made anew when it is needed: files that were half-written, the note of
who reads and writes which outputs (``.dvc/tmp/rwlock``), locks, folders of experiments. What a living process holds is let be.
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines.engine import durations
from pipelines.graph import lockfile
from pipelines.graph.private import FOLDER, private
from prosmin.common.files import recover, running, write_text
from stages.common import declared, proof

DVC = Path(".dvc/tmp")
EXPERIMENTS = FOLDER / "experiments"
WRITTEN = (
    "metrics",
    "plots",
    "results",
)  # by stages, at any depth; data/ holds folders of files and may be large
QUIET = 60.0  # seconds since the last write, after which a copy that no process here has open is nobody's
COPY = re.compile(r".*\.[\w-]{22}\.tmp")  # the name of DVC's copies until they are whole


def heal() -> Iterator[str]:
    """Yields what has been done, a sentence each. Call it while no other run is at work in the current folder."""
    yield from make_room(DVC, *(DVC / name for name in ("lock", "rwlock", "rwlock.lock")))
    yield from make_room(FOLDER, durations.KEPT)
    with _held(DVC / "lock") as alone:  # else a `dvc` that somebody has started by hand is copying
        found = [
            path
            for folder in _folders()
            for path in (*recover(folder, _is_output), *(_copies(folder) if alone else ()))
        ]
    found += _abandoned(proof.cache())
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        yield f"removed what an interrupted write had left: {', '.join(map(str, found[:3]))}{more}"
    with _held(DVC / "rwlock.lock") as alone:
        if alone:
            yield from _rwlock(DVC / "rwlock")
    yield from lockfile.mend()
    yield from clear_experiments()


def _is_output(path: Path) -> bool:
    """Whether a stage writes this folder; where the graph cannot be read, any may be one."""
    content = declared.sections(declared.PARAMS)
    stages = declared.graph(content) if content else {}
    return not stages or any(str(path) in stage.outs for stage in stages.values())


def _folders() -> Iterator[Path]:
    yield from (Path("."), FOLDER, DVC, Path("data"))
    with contextlib.suppress(OSError):
        yield from (
            path
            for path in sorted(Path("data").iterdir())
            if path.is_dir() and not path.is_symlink()
        )
    for name in WRITTEN:
        for folder, inside, _ in os.walk(name):
            inside.sort()
            yield Path(folder)


def _copies(folder: Path) -> Iterator[Path]:
    """Remove DVC's unfinished copies."""
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(folder)):
            if COPY.fullmatch(name):
                Path(folder, name).unlink()
                yield Path(folder, name)


def _abandoned(cache: Path) -> Iterator[Path]:
    """Remove unfinished copies from a cache, which others may share: only those that nobody is writing."""
    for pattern in ("files/md5/.*.tmp", "files/md5/*/.*.tmp", "runs/*/*/.*.tmp"):
        for path in sorted(cache.glob(pattern)):
            with contextlib.suppress(OSError):
                facts = path.stat()
                old = time.time() - facts.st_mtime > QUIET
                if (
                    COPY.fullmatch(path.name)
                    and old
                    and facts.st_uid == os.getuid()
                    and not _is_open(path)
                ):
                    path.unlink()
                    yield path


def _is_open(path: Path) -> bool:
    """Whether a process of this user has the file open."""
    import psutil

    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if str(path.resolve()) in {each.path for each in process.open_files()}:
                return True
    return False


# --- locks ----------------------------------------------------------------------------------------


def make_room(folder: Path, *files: Path) -> Iterator[str]:
    """Let ``folder`` be a folder and ``files`` in it be files; what stands in the way is no run's."""
    if folder.is_file():
        away = folder.with_name(f"{folder.name}.away")
        os.replace(folder, away)
        yield f"moved {folder} to {away}: it was a file, and there must be a folder"
    for path in files:
        if path.is_dir():
            shutil.rmtree(path)
            yield f"removed {path}: it was a folder, and there must be a file"


@contextlib.contextmanager
def _held(path: Path) -> Iterator[bool]:
    """Hold a lock of DVC, as DVC does, while the block runs; False where another process holds it or there is none to hold."""
    try:
        handle = open(path, "a")
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


def _rwlock(path: Path) -> Iterator[str]:
    """DVC refuses to start over this file when it is torn, and when one of its numbers belongs to another process now."""
    try:
        text, since = path.read_text(encoding="utf-8"), path.stat().st_mtime
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError):
        text, since = "", 0.0
    try:
        noted = json.loads(text)
        writers = {name: _is_dvc(info, since) for name, info in noted.get("write", {}).items()}
        readers = {
            name: [info for info in infos if _is_dvc(info, since)]
            for name, infos in noted.get("read", {}).items()
        }
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        path.unlink()
        yield f"{path} was torn by an interrupted DVC and has been removed"
        return
    kept = {
        "write": {name: noted["write"][name] for name, alive in writers.items() if alive},
        "read": {name: infos for name, infos in readers.items() if infos},
    }
    if kept != {"write": {}, "read": {}} | noted:
        write_text(path, json.dumps(kept))
        yield f"took out of {path} what processes held that have ended"


def _is_dvc(info: dict[str, Any], since: float) -> bool:
    """Whether the process of a note in the rwlock, ``{pid, cmd}``, still runs and is the one that made it."""
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


# --- experiments ----------------------------------------------------------------------------------


@contextlib.contextmanager
def experiment_folder(name: str) -> Iterator[Path]:
    """A new folder that is gone when the block ends, and that ``clear_experiments`` knows to be in use until then."""
    private(EXPERIMENTS)
    with contextlib.ExitStack() as locks:
        with contextlib.ExitStack() as making:
            _lock_folder(EXPERIMENTS, making)
            folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=EXPERIMENTS.resolve()))
            _lock_folder(folder, locks)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def clear_experiments() -> Iterator[str]:
    """Remove the folders of experiments whose process has ended without doing so."""
    if not EXPERIMENTS.is_dir():
        return
    with contextlib.ExitStack() as making:
        _lock_folder(EXPERIMENTS, making)
        for folder in sorted(EXPERIMENTS.iterdir()):
            with contextlib.ExitStack() as lock:
                if _lock_folder(folder, lock, fcntl.LOCK_NB):
                    shutil.rmtree(folder, ignore_errors=True)
                    yield f"removed {folder}, which an experiment that was killed had left"


def _lock_folder(folder: Path, until: contextlib.ExitStack, how: int = 0) -> bool:
    """Hold a lock on the folder itself; False where that cannot be had, as on some network disks."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        until.callback(os.close, handle)
        fcntl.flock(handle, fcntl.LOCK_EX | how)
        return True
    return False
