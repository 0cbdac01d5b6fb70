"""NumPy arrays by name as one safetensors file, which carries a checksum of its content.

Large arrays are neither copied to be written nor, where the reader asks for it, to be read: the
features of ImageNet take 2 GB, and each copy as much again.
"""

import json
import mmap
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prosmin.common.errors import UserError, shown
from prosmin.common.files.atomic import whole_file
from prosmin.common.files.damage import AGAIN, damaged, decoding

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

WHOLE = "is not a whole safetensors file"
NUMBER = "number"  # for ``Arrays.check``: any type that counts or measures
CHECKSUM = "crc32"  # the checksum's name in the header of the file
# Types of arrays that can be mapped: by their names in safetensors, those of NumPy.
TYPES = {"BOOL": "?", "F16": "<f2", "F32": "<f4", "F64": "<f8"} | {
    f"{letter.upper()}{8 * size}": f"<{letter}{size}" for letter in "iu" for size in (1, 2, 4, 8)
}


def write_arrays(
    path: str | Path, arrays: Mapping[str, Any], facts: Mapping[str, str] | None = None
) -> None:
    """Write arrays in sorted order of their names; equal arrays give equal bytes.

    arrays: a table (``prosmin.common.compute.stacked.Stack``) is written part by part.
    facts: text by name for the header of the file, beside the checksum.
    """
    import numpy as np

    from prosmin.common.compute.stacked import Stack

    whole = {
        name: array if isinstance(array, Stack) else np.asarray(array, order="C")
        for name, array in sorted(arrays.items())
    }
    head = dict(facts or {})
    header, names = _header(whole, head | {CHECKSUM: checksum(whole, head)})
    with whole_file(path) as part, open(part, "wb") as handle:
        handle.write(header)
        for name in names:
            for block in _blocks(whole[name]):
                handle.write(block)


def _header(arrays: Mapping[str, Any], head: dict[str, str]) -> tuple[bytes, list[str]]:
    """The bytes in front of the values, and the names in the order of the values.

    They are those of safetensors, which decides the order and the words for types; the texts of
    ``head``, which it mixes, are sorted.
    """
    import numpy as np
    from safetensors.numpy import save

    empty = {name: np.empty(0, array.dtype) for name, array in arrays.items()}
    described = json.loads(save(empty, head)[8:])
    names, end = [name for name in described if name != "__metadata__"], 0
    described["__metadata__"] = dict(sorted(head.items()))
    for name in names:
        shape, start = arrays[name].shape, end
        end += arrays[name].dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        described[name] |= {"shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(described, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # so that the values of every type are aligned
    return len(text).to_bytes(8, "little") + text, names


def _blocks(array: Any) -> Iterator[memoryview]:
    """The values of an array, or of a table part by part, in the order of its rows."""
    import numpy as np

    from prosmin.common.compute.stacked import Stack

    for block in array.blocks() if isinstance(array, Stack) else (array,):
        yield np.ascontiguousarray(block).reshape(-1).view(np.uint8).data


class Arrays(dict[str, "np.ndarray"]):
    """The arrays of a file by name.

    A missing name raises ``UserError``, because it means that the file has been changed.
    """

    def __init__(self, arrays: Mapping[str, "np.ndarray"], path: str | Path):
        super().__init__(arrays)
        self._path = path

    def __missing__(self, name: str) -> "np.ndarray":
        raise damaged(self._path, f"it has no {shown(name)}")

    def check(self, wanted: Mapping[str, tuple[str, str]]) -> None:
        """Raise ``UserError`` where an array has another type or shape.

        wanted: by name the type, or ``NUMBER``, and one character per dimension. A digit is a size.
            A letter stands for the same size in all arrays.
        """
        sizes: dict[str, int] = {}
        for name, (kind, letters) in wanted.items():
            array = self[name]
            number = kind == NUMBER and array.dtype.kind in "fiu"
            fits = (kind == str(array.dtype) or number) and array.ndim == len(letters)
            for letter, size in zip(letters, array.shape):
                expected = int(letter) if letter.isdigit() else sizes.setdefault(letter, size)
                fits = fits and size == expected
            if not fits:
                there = f"{array.dtype} {list(array.shape)}"
                needed = f"{kind} [{', '.join(letters)}]"
                raise damaged(self._path, f"{shown(name)} is {there} where {needed} is needed")


def read_arrays(
    path: str | Path, remedy: str = AGAIN, says: str = "cannot be read", mapped: bool = False
) -> Arrays:
    """Read arrays from a safetensors file, never a pickle.

    Files of other programs need no checksum.

    remedy, says: as for ``damaged``.
    mapped: the arrays are the file itself, mapped into memory, of which the system takes back what
        others need. What is written to them is not written to the file.

    Raises ``UserError`` where the file is not whole or does not match its checksum.
    """
    from safetensors import safe_open

    with decoding(path, remedy, says):
        with safe_open(str(path), framework="np") as file:
            head = file.metadata() or {}
            names = file.keys()  # of a file, which cannot be iterated itself
            arrays = _mapped(path) if mapped else {name: file.get_tensor(name) for name in names}
        if CHECKSUM in head and not matches(arrays, head):
            raise UserError(f"{path} is damaged: its content does not match its checksum; {AGAIN}")
    return Arrays(arrays, path)


def _mapped(path: str | Path) -> dict[str, "np.ndarray"]:
    """The arrays of a file whose header safetensors has checked."""
    import numpy as np

    with open(path, "rb") as handle:
        whole = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_COPY)
    start = 8 + int.from_bytes(whole[:8], "little")
    arrays = {}
    for name, of in json.loads(whole[8:start]).items():
        if name != "__metadata__":
            (first, last), kind = of["data_offsets"], np.dtype(TYPES[of["dtype"]])
            count, place = (last - first) // kind.itemsize, start + first
            arrays[name] = np.frombuffer(whole, kind, count, place).reshape(of["shape"])
    return arrays


def read_tensors(path: str | Path, remedy: str = AGAIN) -> "dict[str, Tensor]":
    """Read tensors on the CPU from a safetensors file of another program."""
    from safetensors.torch import load_file

    with decoding(path, remedy, WHOLE):
        tensors: dict[str, Tensor] = load_file(str(path))
    return tensors


def matches(arrays: Mapping[str, Any], head: Mapping[str, str]) -> bool:
    """Return whether the arrays and the header of a file match the checksum in the header."""
    facts = {name: text for name, text in head.items() if name != CHECKSUM}
    return head.get(CHECKSUM) == checksum(arrays, facts)


def checksum(arrays: Mapping[str, Any], head: Mapping[str, str]) -> str:
    """Compute the CRC-32 of the arrays' names, types, shapes and values, and of the header's text.

    Returns: 8 hexadecimal digits.
    """
    value = zlib.crc32(json.dumps(head, sort_keys=True).encode())
    for name in sorted(arrays):
        kind = f"{name} {arrays[name].dtype.str} {arrays[name].shape}"
        value = zlib.crc32(kind.encode(), value)
        for block in _blocks(arrays[name]):
            value = zlib.crc32(block, value)
    return f"{value:08x}"
