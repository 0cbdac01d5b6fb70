"""The rows of a bank that are closest to queries: exact, in tiles, with the best so far kept.

Each tile of the bank is read and prepared once. A query keeps its k closest rows; of a further tile
only rows closer than the k-th are looked at, which are few, so that nearly all of the time is in
the matrix product.

Letters in shapes: N rows of the bank, Q queries, F features.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from prosmin.common.compute.backend import Backend, backend, chunks
from prosmin.common.compute.stacked import Stack
from prosmin.common.errors import ConfigError

# Queries and rows of the bank of one product: 8 MB of closeness per thread, 1 GB on a GPU.
TILE = {"cpu": (256, 8192), "cuda": (4096, 65_536)}
MANY = 4  # times k candidates per query: from here on their number is reduced before they are read

Prepare = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]]


def closest(
    bank: Sequence[np.ndarray | Stack], queries: np.ndarray, k: int, prepare: Prepare
) -> tuple[np.ndarray, np.ndarray]:
    """Find the k rows of the bank that are closest to each query.

    bank: parts ``[n, F]``, N rows together.
    queries: ``[Q, F]``, float32.
    prepare: of rows of the bank, the vectors ``[n, F]``, float32, whose inner product with a query
        is its closeness, and numbers ``[n]`` to subtract from it, or None.
    Returns closeness ``[Q, k]``, highest first, and index ``[Q, k]`` among the N rows. Of equally
    close rows the first in the bank comes first. Raises ``ConfigError`` for a k outside 1..N.
    """
    count = sum(map(len, bank))
    if not 1 <= k <= count:
        raise ConfigError("k", k, f"there are {count} training images; allowed: 1 to {count}")
    device = backend()
    rows_of_queries, rows_of_bank = TILE[device.device]
    asked = device.put(queries)
    best, index = np.full((len(queries), k), -np.inf, np.float32), np.zeros((len(queries), k), int)
    first = 0
    for part in bank:
        for rows in chunks(len(part), rows_of_bank):
            vectors, less = prepare(part[rows])
            keys = device.put(vectors).T
            subtracted = None if less is None else device.put(less)

            def update(
                block: slice, keys: Any = keys, less: Any = subtracted, first: int = first
            ) -> None:
                closeness = asked[block] @ keys
                if less is not None:
                    closeness -= less
                _keep_best(device, closeness, best[block], index[block], first)

            list(device.map(update, chunks(len(queries), rows_of_queries)))
            first += len(vectors)
    return best, index


def _keep_best(
    device: Backend, closeness: Any, best: np.ndarray, index: np.ndarray, first: int
) -> None:
    """Update the best of some queries, [q, k], by their closeness to a tile, [q, t].

    first: number in the bank of the first row of the tile.
    """
    k, size = best.shape[1], closeness.shape[1]
    flat = _candidates(device, closeness, best[:, -1:], k)
    row, column = np.divmod(device.get(flat), size)
    values = device.get(closeness.reshape(-1)[flat])
    counts = np.bincount(row, minlength=len(best))
    crowded = counts > 2 * MANY * k  # many rows tie: such queries are sorted in full
    if crowded.any():
        every = device.get(closeness)[crowded]
        names = np.broadcast_to(np.arange(first, first + size), every.shape)
        best[crowded], index[crowded] = _largest(
            np.concatenate([best[crowded], every], axis=1),
            np.concatenate([index[crowded], names], axis=1),
            k,
        )
        kept = ~crowded[row]
        row, column, values = row[kept], column[kept], values[kept]
        counts[crowded] = 0
    touched = np.flatnonzero(counts)
    if not len(touched):
        return
    # The candidates of a query as a row behind the best so far: sorting keeps the order of ties.
    place = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    new = np.full((len(best), counts.max()), -np.inf, best.dtype)
    named = np.zeros(new.shape, index.dtype)
    new[row, place], named[row, place] = values, column + first
    best[touched], index[touched] = _largest(
        np.concatenate([best[touched], new[touched]], axis=1),
        np.concatenate([index[touched], named[touched]], axis=1),
        k,
    )


def _largest(values: np.ndarray, names: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k largest values of each row, highest first, and their names; ties keep their order."""
    order = np.argsort(-values, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(values, order, axis=1), np.take_along_axis(names, order, axis=1)


def _candidates(device: Backend, closeness: Any, bound: np.ndarray, k: int) -> Any:
    """Flat positions in the closeness [q, t] of all that may be among the k best of their query.

    bound: [q, 1], the k-th best so far.
    """
    xp, (queries, size) = device.xp, closeness.shape
    wanted = closeness > device.put(bound)
    groups = size // 4
    if groups >= k and int(xp.count_nonzero(wanted)) > MANY * k * queries:
        # The k-th largest of the maxima of groups is at most the k-th largest of all.
        maxima = device.get(xp.amax(closeness[:, : 4 * groups].reshape(queries, 4, groups), 1))
        bound = np.partition(maxima, groups - k, axis=1)[:, groups - k, None]
        wanted &= closeness >= device.put(bound)
    return xp.where(wanted.reshape(-1))[0]
