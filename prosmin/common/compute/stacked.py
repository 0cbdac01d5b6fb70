"""Rows of several large arrays as one table, which is never copied as a whole.

Letters in shapes: N rows, F columns.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from prosmin.common.compute.backend import chunks, rows_at_once

Array = np.ndarray


@dataclass(frozen=True)
class Stack:
    """Arrays one below the other, or some of their rows.

    It is read like an array, by slices of rows or by their numbers, and gives arrays.

    parts: ``[n, F]`` each, at least one.
    chosen: numbers of the rows of the table among those of all parts, int ``[N]``. None: all.
    """

    parts: tuple[Array, ...]
    chosen: Array | None = None

    @cached_property
    def _ends(self) -> Array:
        """The number of the first row behind each part."""
        return np.cumsum([len(part) for part in self.parts])

    @property
    def shape(self) -> tuple[int, int]:
        """N and F."""
        rows = self._ends[-1] if self.chosen is None else len(self.chosen)
        return int(rows), self.parts[0].shape[1]

    @property
    def dtype(self) -> np.dtype:
        """The type of the values."""
        return self.parts[0].dtype

    def blocks(self) -> Iterator[Array]:
        """Yield consecutive rows of the table, some at a time."""
        for rows in chunks(len(self), rows_at_once(self.shape[1])):
            yield self[rows]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, wanted: slice | Array) -> Array:
        """Read rows. wanted: numbers of rows, int of any shape, or consecutive rows."""
        if self.chosen is not None:
            return self._numbered(self.chosen[wanted])
        if not isinstance(wanted, slice):
            return self._numbered(wanted)
        first, last, _ = wanted.indices(len(self))
        starts = self._ends - [len(part) for part in self.parts]
        pieces = [
            part[max(first - start, 0) : max(last - start, 0)]
            for part, start in zip(self.parts, starts.tolist(), strict=True)
        ]
        pieces = [piece for piece in pieces if len(piece)] or pieces[:1]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _numbered(self, rows: Array) -> Array:
        if len(self.parts) == 1:
            only: Array = self.parts[0][rows]
            return only
        read = np.empty((*rows.shape, self.shape[1]), self.parts[0].dtype)
        place = np.searchsorted(self._ends, rows, side="right")
        for number, part in enumerate(self.parts):
            inside = place == number
            read[inside] = part[rows[inside] - (self._ends[number] - len(part))]
        return read

    def rows(self, chosen: Array) -> "Stack":
        """The table of these rows alone. chosen: their numbers, or a mask ``[N]``."""
        numbers = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        return Stack(self.parts, numbers if self.chosen is None else self.chosen[numbers])
