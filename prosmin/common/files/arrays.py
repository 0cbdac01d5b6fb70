"""NumPy arrays by name as one safetensors file, which carries a checksum of its content."""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prosmin.common.errors import UserError, shown
from prosmin.common.files.atomic import write_bytes
from prosmin.common.files.damage import AGAIN, damaged, decoding

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

WHOLE = "is not a whole safetensors file"
NUMBER = "number"  # for ``Arrays.check``: any type that counts or measures
CHECKSUM = "crc32"  # the checksum's name in the header of the file


def write_arrays(
    path: str | Path, arrays: Mapping[str, Any], facts: Mapping[str, str] | None = None
) -> None:
    """Write arrays in sorted order of their names; equal arrays give equal bytes.

    facts: text by name for the header of the file, beside the checksum.
    """
    import numpy as np
    from safetensors.numpy import save

    whole = {name: np.asarray(arrays[name], order="C") for name in sorted(arrays)}
    head = dict(facts or {})
    write_bytes(path, save(whole, head | {CHECKSUM: checksum(whole, head)}))


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


def read_arrays(path: str | Path, remedy: str = AGAIN, says: str = "cannot be read") -> Arrays:
    """Read arrays from a safetensors file, never a pickle.

    Files of other programs need no checksum.

    remedy, says: as for ``damaged``.

    Raises ``UserError`` where the file is not whole or does not match its checksum.
    """
    from safetensors import safe_open

    with decoding(path, remedy, says):
        with safe_open(str(path), framework="np") as file:
            head = file.metadata() or {}
            names = file.keys()  # of a file, which cannot be iterated itself
            arrays = {name: file.get_tensor(name) for name in names}
        if CHECKSUM in head and not matches(arrays, head):
            raise UserError(f"{path} is damaged: its content does not match its checksum; {AGAIN}")
    return Arrays(arrays, path)


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
    import numpy as np

    value = zlib.crc32(json.dumps(head, sort_keys=True).encode())
    for name in sorted(arrays):
        kind = f"{name} {arrays[name].dtype.str} {arrays[name].shape}"
        value = zlib.crc32(kind.encode(), value)
        value = zlib.crc32(np.ascontiguousarray(arrays[name]).data, value)
    return f"{value:08x}"
