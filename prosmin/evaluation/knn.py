"""Nearest neighbours among features, and weighted k-nearest-neighbour classification.

The votes are those of Wu et al. 2018, sec. 3.4, by cosine similarity, as DINO evaluates.
"""

import math
from collections.abc import Sequence
from functools import partial

import numpy as np

from prosmin.common.errors import ConfigError, UserError
from prosmin.evaluation.label_subsets import Labelled, count_classes
from prosmin.metrics import classification

_BLOCK = 2**24  # values of closeness held at a time: 64 MB of float32


def unit(features: np.ndarray) -> np.ndarray:
    """Return the rows of ``features`` at length 1 in float32; a row of zeros stays zero.

    Raises ``UserError`` for features that are not finite.
    """
    if not np.isfinite(features).all():
        raise UserError("the features hold values that are not finite; they have no neighbours")
    features = features.astype(np.float32)
    length = np.linalg.norm(features, axis=1, keepdims=True)
    scaled: np.ndarray = features / np.maximum(length, np.finfo(np.float32).tiny)
    return scaled


def neighbours(bank: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the k nearest rows of the bank by cosine similarity.

    bank ``[N, F]``, queries ``[Q, F]`` -> similarity ``[Q, k]`` float32, highest first, and index
    ``[Q, k]``. Of equally similar rows the first in the bank comes first.
    Raises ``UserError`` for features that are not finite and ``ConfigError`` for a k above N.
    """
    return nearest(unit(bank), unit(queries), k)


def nearest(
    bank: np.ndarray, queries: np.ndarray, k: int, less: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Find the k rows of the bank that are closest to each query, in blocks of queries.

    bank: ``[N, F]``. queries: ``[Q, F]``.
    less: ``[N]``, subtracted from the inner products; half the squared length of the bank's rows
        ranks by Euclidean distance. None: the inner product alone ranks.
    Returns closeness ``[Q, k]``, highest first, and index ``[Q, k]``. Of equally close rows the
    first in the bank comes first. Raises ``ConfigError`` for a k outside 1..N.
    """
    count = len(bank)
    if not 1 <= k <= count:
        raise ConfigError("k", k, f"there are {count} training images; allowed: 1 to {count}")
    keys, size = bank.T, max(1, _BLOCK // count)
    blocks = []
    for start in range(0, len(queries), size):
        closeness = queries[start : start + size] @ keys
        if less is not None:
            closeness -= less
        index = _largest(closeness, k)
        last = np.take_along_axis(closeness, index, axis=1).min(axis=1)
        # Where rows tie at the k-th place the partition picks at random; sort those few queries in
        # full.
        for tied in np.flatnonzero(np.count_nonzero(closeness >= last[:, None], axis=1) > k):
            index[tied] = np.argsort(-closeness[tied], kind="stable")[:k]
        index.sort(axis=1)
        order = np.argsort(-np.take_along_axis(closeness, index, axis=1), axis=1, kind="stable")
        index = np.take_along_axis(index, order, axis=1)
        blocks.append((np.take_along_axis(closeness, index, axis=1), index))
    closeness, index = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    return closeness, index


def _largest(values: np.ndarray, k: int) -> np.ndarray:
    """Columns ``[Q, k]``, in no order, of the k largest of values ``[Q, N]`` in each row.

    Deal the columns into groups: the k largest values lie in the k groups with the largest maxima.
    The maxima take one pass, in which the processor handles many columns at a time; only the
    columns of those k groups are then partitioned.
    """
    rows, n = values.shape
    size = math.isqrt(n // k)  # of a group: about as many groups as columns in k of them
    if size < 4:
        return _partition(values, k)
    groups = n // size
    # Column c is in group c % groups.
    dealt = values[:, : size * groups].reshape(rows, size, groups)
    best = _partition(dealt.max(axis=1), k)
    columns = (best[:, None, :] + groups * np.arange(size)[:, None]).reshape(rows, -1)
    rest = np.broadcast_to(np.arange(size * groups, n), (rows, n - size * groups))
    columns = np.concatenate([columns, rest], axis=1)
    return np.take_along_axis(
        columns, _partition(np.take_along_axis(values, columns, axis=1), k), axis=1
    )


def _partition(values: np.ndarray, k: int) -> np.ndarray:
    return np.argpartition(values, values.shape[1] - k, axis=1)[:, values.shape[1] - k :]


def vote(
    similarity: np.ndarray, labels: np.ndarray, temperature: float, classes: int
) -> np.ndarray:
    """Share of the vote per class, ``[Q, C]``; neighbours weigh exp(similarity / temperature).

    similarity: ``[Q, k]``, highest first. labels: ``[Q, k]``, of the neighbours.
    """
    # Relative to the nearest: the shares are the same and a low temperature does not overflow.
    weight = np.exp((similarity.astype(np.float64) - similarity[:, :1]) / temperature)
    cell = labels + classes * np.arange(len(labels))[:, None]
    votes = np.bincount(cell.ravel(), weight.ravel(), len(labels) * classes).reshape(
        len(labels), classes
    )
    shares: np.ndarray = votes / votes.sum(axis=1, keepdims=True)
    return shares


def evaluate_knn(
    train: Labelled,
    val: Labelled,
    test: Labelled,
    ks: Sequence[int],
    temperatures: Sequence[float],
    bootstrap: int,
    seed: int,
) -> tuple[dict[str, float], list[tuple[int, float, float]]]:
    """Choose k and temperature by accuracy on val, and measure the chosen pair on test.

    The bank is train for val, and train and val together for test. Of equally accurate pairs the
    smaller k wins, then the higher temperature (the flatter vote).

    Returns two things:
    metrics: ``accuracy`` on test with its interval, ``k``, ``temperature``, ``n``. There is no
        top-5 accuracy, which says little when fewer than five classes get a vote.
    grid: rows (k, temperature, accuracy on val).
    """
    classes = count_classes({"train": train[1], "val": val[1], "test": test[1]})
    similarity, index = neighbours(train[0], val[0], max(ks))
    near = train[1][index]
    grid = []
    for k in sorted(set(ks)):
        for temperature in sorted(set(temperatures)):
            votes = vote(similarity[:, :k], near[:, :k], temperature, classes)
            grid.append((k, temperature, float(classification.accuracy(votes, val[1]))))
    k, temperature, _ = max(grid, key=lambda row: (row[2], -row[0], row[1]))

    features, labels = (np.concatenate(parts) for parts in zip(train, val, strict=True))
    similarity, index = neighbours(features, test[0], k)
    votes = vote(similarity, labels[index], temperature, classes)
    accuracy = partial(classification.accuracy, votes, test[1])
    scored = classification.with_intervals({"accuracy": accuracy}, len(test[1]), bootstrap, seed)
    return scored | {"k": k, "temperature": temperature, "n": len(test[1])}, grid
