"""Files that are either whole or absent: write beside the target, fsync, rename.

The file beside the target carries the number of the process that writes it. If that process is killed the file stays, and
the next one that writes into the same folder removes it (``recover``). A file that is damaged all the same, by a disk or a hand,
is one sentence for whoever reads it: which file, why, and what to do.
"""

import contextlib
import csv
import io
import json
import logging
import math
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prosmin.common.errors import UserError, reason, shown

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

log = logging.getLogger(__name__)

AGAIN = "remove it and run `dvc repro`"  # what to do about a damaged file that a stage has made
WHOLE = "is not a whole safetensors file"
NUMBER = "number"
CHECKSUM = "crc32"  # its name in the head of a safetensors file


def _sync_folder(folder: Path) -> None:
    """Make a rename inside ``folder`` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


LEFT = re.compile(
    r"\.(.+)\.(\d+)\.(part|old)"
)  # of what ``_sibling`` names: the target, the process, the mark


def _sibling(path: Path, mark: str) -> Path:
    return path.parent / f".{path.name}.{os.getpid()}.{mark}"


def running(number: int, since: float) -> bool:
    """Whether the process ``number`` that was at work at ``since`` (seconds, as in a time stamp of a file) still runs.

    A process that was started later has the number again, which happens soon in a container.
    """
    import psutil

    try:
        process = psutil.Process(number)
        return process.create_time() <= since + 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:  # it is there, and it is somebody else's
        return True


def recover(
    folder: str | Path, belongs: Callable[[Path], bool] = lambda target: True
) -> list[Path]:
    """Remove from ``folder`` what processes that were killed while they wrote have left in it; returns what was there.

    A folder that had been moved aside for a new one is put back where the new one never came, if it ``belongs`` at that path.
    """
    try:
        names = [name for name in os.listdir(folder) if name.startswith(".")]
    except OSError:
        return []
    found = []
    for name in sorted(names):
        match, path = LEFT.fullmatch(name), Path(folder, name)
        with contextlib.suppress(OSError):
            # A rename changes this time and not that of the content.
            if match is None or running(int(match[2]), path.lstat().st_ctime):
                continue
            found.append(path)
            target = path.with_name(match[1])
            if match[3] == "old" and not target.exists() and belongs(target):
                os.replace(path, target)
            elif path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    return found


def private_folder(path: str | Path) -> None:
    """Make ``path``, and what is missing above it, a folder that no other user of this machine can look into."""
    path = Path(path)
    for folder in (*reversed(path.parents), path):
        if not folder.is_dir():
            folder.mkdir(mode=0o700, exist_ok=True)
    if path.stat().st_mode & 0o077:
        path.chmod(0o700)


def write_bytes(path: str | Path, content: bytes, mode: int = 0o666) -> None:
    """mode: of the new file, from which the umask takes away."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    recover(path.parent)
    part = _sibling(path, "part")
    try:
        with open(part, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    _sync_folder(path.parent)


def write_text(path: str | Path, text: str, mode: int = 0o666) -> None:
    write_bytes(path, text.encode(), mode)


def write_json(path: str | Path, content: Any) -> None:
    """Two-space JSON with a final newline; NaN and infinity are refused (they are not JSON)."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def rounded(value: float, digits: int = 6) -> float:
    """To significant digits: what a metrics file keeps, so that it reads well and differs only where it matters."""
    return float(f"{value:.{digits}g}")


def write_metrics(path: str | Path, content: Mapping[str, Any]) -> None:
    """JSON of nested mappings whose floats are ``rounded`` and whose whole numbers stay whole."""

    def tidy(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: tidy(each) for name, each in value.items()}
        return rounded(value) if isinstance(value, float) else value

    write_json(path, tidy(content))


def write_csv(path: str | Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Floats are written with six significant digits, which is more than any plot shows."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    for row in rows:
        table.writerow([f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row])
    write_text(path, text.getvalue())


@contextlib.contextmanager
def decoding(path: str | Path, remedy: str = AGAIN, says: str = "cannot be read") -> Iterator[None]:
    """Turn whatever a reader makes of a damaged file into a ``UserError``; the readers of other libraries raise nearly anything.

    Errors of the system, such as a file that does not exist, stay what they are. remedy: what to do about it; says: what is wrong with it.
    """
    try:
        yield
    except (UserError, OSError):
        raise
    except Exception as error:
        log.debug("%s", path, exc_info=True)
        raise damaged(path, reason(error), remedy, says) from None


def damaged(
    path: str | Path, why: str, remedy: str = AGAIN, says: str = "cannot be read"
) -> UserError:
    return UserError(f"{path} {says} ({why}); {remedy}")


def read_csv(path: str | Path) -> "list[Section]":
    """Rows by column. Raises ``UserError`` for a row with more or fewer cells than columns, as for what is no text."""
    with decoding(path), open(path, newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
        if any(None in row or None in row.values() for row in rows):
            raise ValueError("a row has more or fewer cells than there are columns")
        return [Section(row, path) for row in rows]


class Section(dict[str, Any]):
    """A section of a JSON file. A key that it lacks is a ``UserError``, as the file is another than was written."""

    def __init__(self, content: Any = (), path: str | Path = "a file", remedy: str = AGAIN):
        super().__init__(content)
        self._path, self._remedy = path, remedy

    def __missing__(self, key: str) -> Any:
        raise damaged(self._path, f"it has no {shown(key)}", self._remedy)

    def section(self, key: str) -> "Section":
        """The section under a key, empty where there is none or null. Raises ``UserError`` where it is no section."""
        found = self.get(key)
        if found is not None and not isinstance(found, Section):
            raise damaged(
                self._path,
                f"{shown(key)} is {shown(found)}, where a section is needed",
                self._remedy,
            )
        return Section((), self._path, self._remedy) if found is None else found

    def number(self, key: str) -> float:
        """The number under a key. Raises ``UserError`` where there is none."""
        found = self[key]
        if isinstance(found, bool) or not isinstance(found, int | float):
            raise damaged(
                self._path,
                f"{shown(key)} is {shown(found)}, where a number is needed",
                self._remedy,
            )
        return found


def read_json(path: str | Path, remedy: str = AGAIN, says: str = "cannot be read") -> Any:
    """Mappings are ``Section``. Raises ``UserError`` for what is no JSON, NaN and infinity included."""
    with decoding(path, remedy, says):
        return json.loads(
            Path(path).read_bytes(),
            object_hook=lambda content: Section(content, path, remedy),
            parse_float=_finite,
            parse_constant=_finite,
        )


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{shown(text)} is no finite number")
    return value


def read_metrics(path: str | Path) -> Section:
    """What ``write_metrics`` wrote: sections of sections, numbers and facts. Raises ``UserError`` for anything else."""
    content = read_json(path)
    if not isinstance(content, Section):
        raise damaged(path, "it holds no metrics")
    _same_kinds(content.section("trained"), content.section("random"))
    return content


def _same_kinds(one: Section, other: Section) -> None:
    """Raise ``UserError`` unless both hold numbers, sections and the same facts (null: undefined), and of each name the same kind."""
    for key in one | other:
        if isinstance(one.get(key), dict) or isinstance(other.get(key), dict):
            _same_kinds(one.section(key), other.section(key))
        elif one.get(key) != other.get(key) or not isinstance(
            one.get(key), str | list
        ):  # a fact of both
            for each in (one, other):
                if each.get(key) is not None:
                    each.number(key)


def write_arrays(
    path: str | Path, arrays: Mapping[str, Any], facts: Mapping[str, str] | None = None
) -> None:
    """NumPy arrays as one safetensors file, the keys in sorted order; the same arrays give the same bytes.

    facts: text by name, kept in the head of the file, where a checksum of all that is in it goes as well.
    """
    import numpy as np
    from safetensors.numpy import save

    whole = {name: np.asarray(arrays[name], order="C") for name in sorted(arrays)}
    head = dict(facts or {})
    write_bytes(path, save(whole, head | {CHECKSUM: checksum(whole, head)}))


class Arrays(dict[str, "np.ndarray"]):
    """The arrays of a file by name. One that it lacks is a ``UserError``, as the file is another than was written."""

    def __init__(self, arrays: Mapping[str, "np.ndarray"], path: str | Path):
        super().__init__(arrays)
        self._path = path

    def __missing__(self, name: str) -> "np.ndarray":
        raise damaged(self._path, f"it has no {shown(name)}")

    def check(self, wanted: Mapping[str, tuple[str, str]]) -> None:
        """Raise ``UserError`` where an array has another type or shape. wanted: by name the type, or ``NUMBER`` for
        any that counts or measures, and a letter for each dimension; a digit is a size, and a letter the same size wherever it stands."""
        sizes: dict[str, int] = {}
        for name, (kind, letters) in wanted.items():
            array = self[name]
            fits = (
                kind == str(array.dtype) or kind == NUMBER and array.dtype.kind in "fiu"
            ) and array.ndim == len(letters)
            for letter, size in zip(letters, array.shape):
                fits = fits and size == (
                    int(letter) if letter.isdigit() else sizes.setdefault(letter, size)
                )
            if not fits:
                there, needed = (
                    f"{array.dtype} {list(array.shape)}",
                    f"{kind} [{', '.join(letters)}]",
                )
                raise damaged(self._path, f"{shown(name)} is {there} where {needed} is needed")


def read_arrays(path: str | Path, remedy: str = AGAIN, says: str = "cannot be read") -> Arrays:
    """NumPy arrays by name from a safetensors file (never a pickle). Raises ``UserError`` where it is not whole, or does not match the
    checksum that it carries; one of another program need not carry any."""
    from safetensors import safe_open

    with decoding(path, remedy, says):
        with safe_open(str(path), framework="np") as file:
            head = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}
        if CHECKSUM in head and not matches(arrays, head):
            raise UserError(
                f"{path} is damaged: its content does not match its checksum; remove it and make it again"
            )
    return Arrays(arrays, path)


def read_tensors(path: str | Path, remedy: str = AGAIN) -> "dict[str, Tensor]":
    """The same as tensors on the CPU, of a file of another program."""
    from safetensors.torch import load_file

    with decoding(path, remedy, WHOLE):
        return load_file(str(path))


def matches(arrays: Mapping[str, Any], head: Mapping[str, str]) -> bool:
    """Whether arrays and the text in the head of their file are those that were written."""
    return head.get(CHECKSUM) == checksum(
        arrays, {name: text for name, text in head.items() if name != CHECKSUM}
    )


def checksum(arrays: Mapping[str, Any], head: Mapping[str, str]) -> str:
    """CRC-32 of the names, kinds, shapes and values of arrays, and of the text in the head of their file; 8 hexadecimal
    digits."""
    import numpy as np

    value = zlib.crc32(json.dumps(head, sort_keys=True).encode())
    for name in sorted(arrays):
        kind = f"{name} {arrays[name].dtype.str} {arrays[name].shape}"
        value = zlib.crc32(np.ascontiguousarray(arrays[name]), zlib.crc32(kind.encode(), value))
    return f"{value:08x}"


@contextlib.contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of ``path`` when the block ends without an error.

    An error or an interruption leaves ``path`` as it was and removes what was written.
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
