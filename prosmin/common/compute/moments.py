"""Sums, means and covariances of the rows of large arrays, part by part, on all threads.

Letters in shapes: N rows, F features, G groups.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from prosmin.common.compute.backend import NUMPY, chunks, rows_at_once
from prosmin.common.compute.stacked import Stack

Array = np.ndarray


@dataclass(frozen=True)
class Rows:
    """Rows of an array [*, F], each of a group, that are converted when they are read.

    chosen: numbers of the rows, int [N].
    group: number of the group of each, int [N]; every group of 0..G-1 occurs.
    convert: makes float64 [n, F] of some rows.
    """

    array: Array | Stack
    chosen: Array
    group: Array
    convert: Callable[[Array], Array]

    def total(self, function: Callable[[Array, Array], Any]) -> Any:
        """Sum ``function`` of converted rows and their groups over all parts, in their order."""
        size = rows_at_once(self.array.shape[1])

        def part(rows: slice) -> Any:
            return function(self.convert(self.array[self.chosen[rows]]), self.group[rows])

        result = None
        for value in NUMPY.map(part, chunks(len(self.chosen), size)):
            result = value if result is None else result + value
        return result

    def means(self) -> Array:
        """Mean of each group, float64 [G, F]."""
        from scipy.sparse import csr_array

        counts = np.bincount(self.group)

        def sums(rows: Array, group: Array) -> Array:
            ones, place = np.ones(len(rows)), np.arange(len(rows))
            within = csr_array((ones, (group, place)), shape=(len(counts), len(rows)))
            result: Array = within @ rows
            return result

        means: Array = self.total(sums) / counts[:, None]
        return means

    def covariance(self, centres: Array) -> Array:
        """Mean product of the rows less the centre of their group, float64 [F, F].

        centres: [G, F].
        """

        def products(rows: Array, group: Array) -> Array:
            residual = rows - centres[group]
            result: Array = residual.T @ residual
            return result

        covariance: Array = self.total(products) / len(self.chosen)
        return covariance
