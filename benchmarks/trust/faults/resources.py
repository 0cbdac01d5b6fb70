"""What a machine may lack during a run: room, inodes, open files, memory, a temporary folder."""

import ctypes
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.trust.faults.judge import ENDS, Missed, Skipped, ended, python
from benchmarks.trust.faults.project import FLOW, REPRO, Place, patient, something_to_do
from benchmarks.trust.faults.signals import traced

MOUNTED = ("metrics", "plots", "results", "data", ".dvc/cache", ".dvc/tmp", ".prosmin")
NEW_NAMESPACE = 0x00020000


def own_mounts() -> None:
    """Keep what this process mounts to itself and its children; it is gone when they are."""
    if os.geteuid() == 0 and ctypes.CDLL(None).unshare(NEW_NAMESPACE) == 0:
        subprocess.run(["mount", "--make-rprivate", "/"], check=False, capture_output=True)


def _mount(place: Place, folder: Path) -> None:
    """A file system of its own over ``folder``, with what was in it."""
    kept = place.root / "kept"
    shutil.copytree(folder, kept, symlinks=True) if folder.exists() else kept.mkdir()
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "tmpfs", folder]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        raise Skipped("mounting needs root")
    place.after.append(lambda: subprocess.run(["umount", "-l", folder], check=True))
    shutil.copytree(kept, folder, symlinks=True, dirs_exist_ok=True)


def _remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True, capture_output=True)


def full_disk(place: Place, draw: random.Random) -> None:
    """Some kilobytes, or some inodes, are left in one of the folders; then there is room again."""
    name = draw.choice(MOUNTED)
    folder = place.folder / name
    something_to_do(place, draw)
    _mount(place, folder)
    status = os.statvfs(folder)
    if draw.random() < 0.7:
        spare = draw.choice([0, 4, 8, 16, 32, 64, 256])
        used = (status.f_blocks - status.f_bfree) * status.f_frsize // 1024
        tight, room, text = f"size={used + spare}k", "size=50%", f"{spare} kB left"
    else:
        spare = draw.choice([0, 1, 2, 3, 5, 8])
        used = status.f_files - status.f_ffree
        tight, room, text = f"nr_inodes={used + spare}", "nr_inodes=100000", f"{spare} inodes left"
    _remount(folder, tight)
    place.story.append(f"{name}: {text}")
    _starved(place, draw, lambda: _remount(folder, room))


def read_only(place: Place, draw: random.Random) -> None:
    name = draw.choice(MOUNTED)
    folder = place.folder / name
    something_to_do(place, draw)
    _mount(place, folder)
    _remount(folder, "ro")
    place.story.append(f"{name} is read-only")
    _starved(place, draw, lambda: _remount(folder, "rw"))


def _starved(place: Place, draw: random.Random, relieve: Callable[[], None]) -> None:
    try:
        _short(place, python(*draw.choice([REPRO, REPRO, REPRO, FLOW])))
    finally:
        relieve()


def _short(
    place: Place, command: list[str], extra: Mapping[str, str] | None = None, silent: bool = False
) -> None:
    """Run ``command``, which may fail, and note how it ended."""
    module = next(word for word in command if word.startswith("pipelines."))
    place.story.append(module)
    code = ended(place, place.start(command, extra), silent=silent)
    place.story.append(f"ended with {code}")


def limits(place: Place, draw: random.Random) -> None:
    """What ``ulimit`` allows: open files, memory in kB, blocks of a file, seconds of a core."""
    files, memory = ["-n 16", "-n 24", "-n 48"], ["-v 400000", "-v 1000000", "-s 64"]
    limit = draw.choice([*files, *memory, "-f 0", "-f 1", "-f 8", "-f 64", "-t 1", "-t 3"])
    something_to_do(place, draw)
    place.story.append(f"ulimit {limit}")
    module = draw.choice([REPRO, REPRO, REPRO, FLOW])
    _short(place, ["sh", "-c", f'ulimit {limit} && exec "$@"', "sh", *python(*module)], silent=True)


def surroundings(place: Place, draw: random.Random) -> None:
    """Folders that a program takes for granted, and an output that nobody can write to."""
    something_to_do(place, draw)
    module = draw.choice([REPRO, REPRO, FLOW])
    folders = ["TMPDIR is missing", "TMPDIR is full", "HOME is read-only", "HOME is missing"]
    how = draw.choice([*folders, "the output is full", "the reader has gone", "no HOME, no TMPDIR"])
    extra: dict[str, str] = {}
    command = python(*module)
    if how == "TMPDIR is missing":
        extra = {"TMPDIR": str(place.root / "nowhere")}
    elif how == "TMPDIR is full":
        _mount(place, place.root / "tmp")
        _remount(place.root / "tmp", "size=4k")
        (place.root / "tmp" / "full").write_bytes(b"x" * 4096)
    elif how == "HOME is read-only":
        extra = {"HOME": "/proc/1/task"}
    elif how == "HOME is missing":
        extra = {"HOME": str(place.root / "nowhere")}
    elif how == "the output is full":
        command = ["sh", "-c", '"$@" > /dev/full', "sh", *command]
    elif how == "the reader has gone":
        command = ["sh", "-c", '"$@" 2>&1 | head -n 1', "sh", *command]
    else:
        command = ["env", "-u", "HOME", "-u", "TMPDIR", "-u", "USER", *command]
    place.story.append(how)
    _short(place, command, extra, silent=True)


def broken_disk(place: Place, draw: random.Random) -> None:
    """A system call that fails once with an error of the disk."""
    if not shutil.which("strace"):
        raise Skipped("strace is not installed")
    call = draw.choice(["fsync", "rename", "rename", "unlink", "mkdir", "write", "openat"])
    error = draw.choice(["EIO", "EIO", "EROFS", "ENOSPC", "EDQUOT", "EACCES"])
    when = draw.randint(1, 12)
    something_to_do(place, draw)
    path = place.folder / draw.choice(["metrics", "dvc.lock", "results", ".dvc/tmp/rwlock"])
    path = path if call in ("write", "openat") else None
    strace = traced(place, call, f"error={error}:when={when}", path)
    place.story.append(f"{error} at {call} {when}")
    _short(place, [*strace, *python(*REPRO)], silent=True)
    if "(INJECTED)" not in (place.root / "trace").read_text(errors="replace"):
        raise Missed


def at_once(place: Place, draw: random.Random) -> None:
    """Two runs started at the same moment in one folder: the second waits, or says so."""
    something_to_do(place, draw)
    plain = ("-m", "pipelines.engine.dvc_command", "repro")
    first, second = draw.choice([(REPRO, REPRO), (REPRO, FLOW), (FLOW, FLOW), (FLOW, plain)])
    place.story.append(f"{first[1]} and {second[1]}")
    running, other = place.start(python(*first)), place.start(python(*second))
    running.wait(patient(ENDS))
    code = ended(place, other)
    place.story.append(f"ended with {running.returncode} and {code}")
