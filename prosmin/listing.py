"""What a folder holds, without what systems and programs leave in it, and how its names are written down."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from prosmin.images import SUFFIXES

# Beside hidden ones. In lower case: of macOS, Synology, QNAP, Linux and Windows.
_LEFT_BEHIND = {
    "__macosx", "@eadir", "@tmp", "@recycle", "#recycle", "#snapshot", "lost+found", "$recycle.bin",
    "system volume information", "recycler", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r",
}  # fmt: skip
# Bytes that are no UTF-8, which Python keeps as lone surrogates, and what would move a terminal's cursor.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def is_left_behind(name: str) -> bool:
    """Whether a file or folder of this name is hidden or was put there by a system rather than by its owner."""
    return name.startswith(".") or name.lower() in _LEFT_BEHIND


def is_image(name: str) -> bool:
    """Whether the ending of a file's name is that of an image."""
    return ending(name) in SUFFIXES


def ending(name: str) -> str:
    """In lower case, such as ``.jpg``; empty where there is none."""
    return os.path.splitext(name)[1].lower()


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted."""
    return sorted(entry.name for entry in os.scandir(folder) if not is_left_behind(entry.name) and _is_folder(entry))


def files_in(folder: Path) -> list[str]:
    """Names of the files in a folder, sorted."""
    return sorted(
        entry.name for entry in os.scandir(folder) if not is_left_behind(entry.name) and not _is_folder(entry)
    )


def files_below(folder: Path) -> Iterator[str]:
    """Paths of all files below a folder, relative to it, in no order. Links are followed, and none of them twice around."""
    waiting = [(folder, "", frozenset[Path]())]
    while waiting:
        here, prefix, above = waiting.pop()
        real = here.resolve()
        if real in above:
            continue
        for entry in os.scandir(here):
            if is_left_behind(entry.name):
                continue
            if _is_folder(entry):
                waiting.append((here / entry.name, f"{prefix}{entry.name}/", above | {real}))
            else:
                yield prefix + entry.name


def by_ending(files: Iterable[str]) -> dict[str, int]:
    """How many files have each ending, the most frequent first."""
    counts = Counter(map(ending, files))
    return {printable(each): counts[each] for each in sorted(counts, key=lambda each: (-counts[each], each))}


def counted(endings: Mapping[str, int], most: int = 5) -> str:
    """``10 .heic, 2 .txt`` of what ``by_ending`` gives."""
    said = [f"{count} {name or 'without an ending'}" for name, count in list(endings.items())[:most]]
    rest = sum(list(endings.values())[most:])
    return ", ".join(said + [f"{rest} others"] * bool(rest))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def printable(name: str) -> str:
    """The name in UTF-8, with an escape such as ``\\xe9`` for every byte that has none and for control characters."""

    def escape(found: re.Match[str]) -> str:
        code = ord(found[0])
        return f"\\x{code & 0xFF:02x}" if code < 0xA0 or 0xDC80 <= code < 0xDD00 else f"\\u{code:04x}"

    return _UNPRINTABLE.sub(escape, name)
