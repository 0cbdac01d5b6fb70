"""Weighted k-nearest-neighbour classification by cosine similarity (Wu et al. 2018, sec. 3.4; as DINO evaluates)."""

import math
from collections.abc import Sequence
from functools import partial

import numpy as np

from prosmin.common.errors import ConfigError, UserError
from prosmin.evaluation.label_subsets import Labelled, count_classes
from prosmin.metrics import classification

# Similarities held at a time: 64 MB of float32.
_BLOCK = 2**24


def _unit(features: np.ndarray) -> np.ndarray:
    """Rows of length 1 in float32; a row of zeros stays one, at similarity 0 to everything."""
    if not np.isfinite(features).all():
        raise UserError("the features hold values that are not finite; they have no neighbours")
    features = features.astype(np.float32)
    return features / np.maximum(
        np.linalg.norm(features, axis=1, keepdims=True), np.finfo(np.float32).tiny
    )


def neighbours(bank: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosine similarity ``[Q, k]`` float32, highest first, and index ``[Q, k]`` of the k nearest rows of the bank.

    bank ``[N, F]``, queries ``[Q, F]``; of equally similar rows the first in the bank comes first.
    Raises ``UserError`` for features that are not finite and ``ConfigError`` for a k above N.
    """
    if not 1 <= k <= len(bank):
        raise ConfigError(
            "k", k, f"the bank has {len(bank)} images, so k must be from 1 to {len(bank)}"
        )
    keys, rows = _unit(bank).T, max(1, _BLOCK // len(bank))
    found = []
    for start in range(0, len(queries), rows):
        similarity = _unit(queries[start : start + rows]) @ keys
        index = _largest(similarity, k)
        last = np.take_along_axis(similarity, index, axis=1).min(axis=1)
        # Where rows tie at the k-th place the partition picks at random; sort those few queries in full.
        for tied in np.flatnonzero(np.count_nonzero(similarity >= last[:, None], axis=1) > k):
            index[tied] = np.argsort(-similarity[tied], kind="stable")[:k]
        index.sort(axis=1)
        order = np.argsort(-np.take_along_axis(similarity, index, axis=1), axis=1, kind="stable")
        index = np.take_along_axis(index, order, axis=1)
        found.append((np.take_along_axis(similarity, index, axis=1), index))
    similarity, index = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return similarity, index


def _largest(values: np.ndarray, k: int) -> np.ndarray:
    """Columns ``[Q, k]``, in no order, of the k largest of values ``[Q, N]`` in each row.

    The columns are dealt into groups; the k largest lie in the k groups of the largest maxima, and to find the maxima is
    one pass that the processor does many columns at a time. Only what those groups hold is then partitioned.
    """
    rows, n = values.shape
    size = math.isqrt(n // k)  # of a group: about as many groups as columns in k of them
    if size < 4:
        return _partition(values, k)
    groups = n // size
    dealt = values[:, : size * groups].reshape(
        rows, size, groups
    )  # column c is in group c % groups
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
    """Share of the vote of each class, ``[Q, C]``; a neighbour's vote weighs exp(similarity / temperature).

    similarity ``[Q, k]``, highest first, and the labels ``[Q, k]`` of the neighbours.
    """
    # Relative to the nearest: the shares are the same and a low temperature does not overflow.
    weight = np.exp((similarity.astype(np.float64) - similarity[:, :1]) / temperature)
    cell = labels + classes * np.arange(len(labels))[:, None]
    votes = np.bincount(cell.ravel(), weight.ravel(), len(labels) * classes).reshape(
        len(labels), classes
    )
    return votes / votes.sum(axis=1, keepdims=True)


def evaluate_knn(
    train: Labelled,
    val: Labelled,
    test: Labelled,
    ks: Sequence[int],
    temperatures: Sequence[float],
    bootstrap: int,
    seed: int,
) -> tuple[dict[str, float], list[tuple[int, float, float]]]:
    """Metrics on test of the k and temperature that are most accurate on val, and the grid on val.

    On val the bank is train, on test it is train and val together. Of equals the smaller k wins, then the
    higher temperature (the flatter vote). Metrics: ``accuracy`` with its interval, ``k``, ``temperature``,
    ``n``; no top-5, which says little when fewer than five classes get a vote.
    Grid: rows (k, temperature, accuracy).
    """
    classes = count_classes({"train": train[1], "val": val[1], "test": test[1]})
    similarity, index = neighbours(train[0], val[0], max(ks))
    near = train[1][index]
    grid = [
        (
            k,
            temperature,
            classification.accuracy(
                vote(similarity[:, :k], near[:, :k], temperature, classes), val[1]
            ),
        )
        for k in sorted(set(ks))
        for temperature in sorted(set(temperatures))
    ]
    k, temperature, _ = max(grid, key=lambda row: (row[2], -row[0], row[1]))

    features, labels = (np.concatenate(parts) for parts in zip(train, val, strict=True))
    similarity, index = neighbours(features, test[0], k)
    votes = vote(similarity, labels[index], temperature, classes)
    accuracy = partial(classification.accuracy, votes, test[1])
    scored = classification.with_intervals({"accuracy": accuracy}, len(test[1]), bootstrap, seed)
    return scored | {"k": k, "temperature": temperature, "n": len(test[1])}, grid
