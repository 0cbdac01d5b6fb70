"""What a folder holds, but for what systems leave in it, and how its names are written down."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from prosmin.data.picture import SUFFIXES

SHOWN = 3  # names that a sentence holds

# Beside hidden ones. In lower case: of macOS, Synology, QNAP, Linux and Windows.
_LEFT_BEHIND = {
    "__macosx", "@eadir", "@tmp", "@recycle", "#recycle", "#snapshot", "lost+found", "$recycle.bin",
    "system volume information", "recycler", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r",
}  # fmt: skip
# Bytes that are no UTF-8, which Python keeps as lone surrogates, and control characters.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def is_left_behind(name: str) -> bool:
    """Whether a file or folder of this name is hidden or was put there by a system."""
    return name.startswith(".") or name.lower() in _LEFT_BEHIND


def is_image(name: str) -> bool:
    """Whether the ending of a file's name is that of an image."""
    return ending(name) in SUFFIXES


def ending(name: str) -> str:
    """In lower case, such as ``.jpg``; empty where there is none."""
    return os.path.splitext(name)[1].lower()


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted."""
    return sorted(entry.name for entry in _entries(folder) if _is_folder(entry))


def files_in(folder: Path) -> list[str]:
    """Names of the files in a folder, sorted."""
    return sorted(entry.name for entry in _entries(folder) if not _is_folder(entry))


def files_below(folder: Path) -> Iterator[str]:
    """Paths of all files below a folder, relative to it, in no order.

    Links are followed, but not to a folder that leads to them.
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
    """How many files have each ending, the most frequent first."""
    counts = Counter(map(ending, files))
    order = sorted(counts, key=lambda each: (-counts[each], each))
    return {printable(each): counts[each] for each in order}


def counted(endings: Mapping[str, int], most: int = 5) -> str:
    """``10 .heic, 2 .txt`` of what ``by_ending`` gives."""
    frequent = list(endings.items())[:most]
    said = [f"{count} {name or 'without an ending'}" for name, count in frequent]
    rest = sum(list(endings.values())[most:])
    return ", ".join(said + [f"{rest} others"] * bool(rest))


def listed(names: Sequence[str]) -> str:
    """``cat, dog, fox, … (12)``."""
    rest = f", … ({len(names)})" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + rest


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    return (entry for entry in os.scandir(folder) if not is_left_behind(entry.name))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def printable(name: str) -> str:
    """The name with an escape such as ``\\xe9`` for bytes that are no UTF-8 and for controls."""

    def escape(found: re.Match[str]) -> str:
        code = ord(found[0])
        is_byte = code < 0xA0 or 0xDC80 <= code < 0xDD00
        return f"\\x{code & 0xFF:02x}" if is_byte else f"\\u{code:04x}"

    return _UNPRINTABLE.sub(escape, name)
