"""List the files of a folder, apart from the files that systems leave in it."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from prosmin.data.picture import SUFFIXES

SHOWN = 3  # names in a sentence

# Left behind by macOS, Synology, QNAP, Linux and Windows, beside hidden files. In lower case.
_LEFT_BEHIND = {
    "__macosx", "@eadir", "@tmp", "@recycle", "#recycle", "#snapshot", "lost+found", "$recycle.bin",
    "system volume information", "recycler", "recycled", "found.000", "@synoresource", "@__thumb",
    "__pycache__", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r",
}  # fmt: skip
# Control characters, and bytes that are no UTF-8, which Python keeps as lone surrogates.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def is_left_behind(name: str) -> bool:
    """Return whether a file or folder of this name is hidden or was made by a system."""
    return name.startswith(".") or name.lower() in _LEFT_BEHIND


def is_image(name: str) -> bool:
    """Return whether a file's name has the ending of an image."""
    return ending(name) in SUFFIXES


def ending(name: str) -> str:
    """Return the ending of a file's name in lower case, such as ``.jpg``, or an empty text."""
    return os.path.splitext(name)[1].lower()


def subfolders(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, sorted."""
    return sorted(entry.name for entry in _entries(folder) if _is_folder(entry))


def files_in(folder: Path) -> list[str]:
    """Return the names of the files in a folder, sorted."""
    return sorted(entry.name for entry in _entries(folder) if not _is_folder(entry))


def files_below(folder: Path) -> Iterator[str]:
    """Yield the paths of all files below a folder, relative to it, in no order.

    Links are followed, apart from links to a folder above them.
    """
    waiting = [(folder, "", frozenset[Path]())]
    while waiting:
        here, prefix, above = waiting.pop()
        real = here.resolve()
        if real in above:
            continue
        for entry in _entries(here):
            if _is_folder(entry):
                waiting.append((here / entry.name, f"{prefix}{entry.name}/", above | {real}))
            else:
                yield prefix + entry.name


def by_ending(files: Iterable[str]) -> dict[str, int]:
    """Count files by ending, the most frequent ending first."""
    counts = Counter(map(ending, files))
    order = sorted(counts, key=lambda name: (-counts[name], name))
    return {escape_unprintable(name): counts[name] for name in order}


def counted(endings: Mapping[str, int], most: int = 5) -> str:
    """Write the output of ``by_ending`` as ``10 .heic, 2 .txt``, with ``most`` endings in full."""
    frequent = list(endings.items())[:most]
    parts = [f"{count} {name or 'without an ending'}" for name, count in frequent]
    rest = sum(list(endings.values())[most:])
    return ", ".join(parts + [f"{rest} others"] * bool(rest))


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    return (entry for entry in os.scandir(folder) if not is_left_behind(entry.name))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def escape_unprintable(name: str) -> str:
    """Replace control characters, and bytes that are no UTF-8, by escapes such as ``\\xe9``."""

    def escape(match: re.Match[str]) -> str:
        code = ord(match[0])
        is_byte = code < 0xA0 or 0xDC80 <= code < 0xDD00
        return f"\\x{code & 0xFF:02x}" if is_byte else f"\\u{code:04x}"

    return _UNPRINTABLE.sub(escape, name)
