"""Write files and folders that are either whole or absent: write beside the target, fsync, rename.

The name of the file beside the target carries the number of the process. A killed process leaves
this file behind; the next process that writes into the same folder removes it (``recover``).
"""

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

# The names that ``_sibling`` gives: the target, the process, the mark.
_LEFTOVER = re.compile(r"\.(.+)\.(\d+)\.(part|old)")


def _sibling(path: Path, mark: str) -> Path:
    return path.parent / f".{path.name}.{os.getpid()}.{mark}"


def _sync_folder(folder: Path) -> None:
    """Make a rename inside ``folder`` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# --- writing --------------------------------------------------------------------------------------


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yield the path of a new file that takes the place of ``path`` when the block ends.

    After an error or an interruption ``path`` is as before, and the new file is gone.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    recover(path.parent)
    part = _sibling(path, "part")
    try:
        yield part
        with open(part, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    _sync_folder(path.parent)


def write_bytes(path: str | Path, content: bytes, mode: int = 0o666) -> None:
    """Write a file; missing folders above it are made.

    mode: permissions of the new file, before the umask.
    """
    with (
        whole_file(path) as part,
        open(part, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as handle,
    ):
        handle.write(content)


def write_text(path: str | Path, text: str, mode: int = 0o666) -> None:
    """Write text as UTF-8; see ``write_bytes``."""
    write_bytes(path, text.encode(), mode)


@contextlib.contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of ``path`` when the block ends without an error.

    After an error or an interruption ``path`` is as before, and the new folder is gone.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    recover(path.parent)
    part, old = _sibling(path, "part"), _sibling(path, "old")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        yield part
        for item in part.rglob("*"):
            if item.is_file():
                with open(item, "rb") as handle:
                    os.fsync(handle.fileno())
        if path.exists():
            os.replace(path, old)
        try:
            os.replace(part, path)
        except OSError:
            if old.exists():
                os.replace(old, path)
            raise
        shutil.rmtree(old, ignore_errors=True)
        _sync_folder(path.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def private_folder(path: str | Path) -> None:
    """Make a folder, and missing folders above it, that no other user of this machine can read."""
    path = Path(path)
    for folder in (*reversed(path.parents), path):
        if not folder.is_dir():
            folder.mkdir(mode=0o700, exist_ok=True)
    if path.stat().st_mode & 0o077:
        path.chmod(0o700)


# --- cleaning up after killed processes -----------------------------------------------------------


def running(number: int, since: float) -> bool:
    """Return whether the process ``number`` that ran at ``since`` still runs.

    A later process may have the same number, which happens soon in a container.

    since: seconds, as in a time stamp of a file.
    """
    import psutil

    try:
        process = psutil.Process(number)
        started: float = process.create_time()
        return started <= since + 1 and bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:  # the process exists and belongs to another user
        return True


def recover(
    folder: str | Path, belongs: Callable[[Path], bool] = lambda target: True
) -> list[Path]:
    """Remove the leftovers of killed writers from ``folder``.

    A folder that had been moved aside is put back where its successor never came.

    belongs: whether a folder may be put back at this path.

    Returns: the leftovers.
    """
    try:
        names = [name for name in os.listdir(folder) if name.startswith(".")]
    except OSError:
        return []
    leftovers = []
    for name in sorted(names):
        match, path = _LEFTOVER.fullmatch(name), Path(folder, name)
        with contextlib.suppress(OSError):
            # A rename changes st_ctime, but no time stamp of the content.
            if match is None or running(int(match[2]), path.lstat().st_ctime):
                continue
            leftovers.append(path)
            target = path.with_name(match[1])
            if match[3] == "old" and not target.exists() and belongs(target):
                os.replace(path, target)
            elif path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    return leftovers
