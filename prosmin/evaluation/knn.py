"""Nearest neighbours among features, and weighted k-nearest-neighbour classification.

The votes are those of Wu et al. 2018, sec. 3.4, by cosine similarity, as DINO evaluates.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from prosmin.common.compute.backend import chunks, rows_at_once
from prosmin.common.compute.search import closest
from prosmin.common.compute.stacked import Stack
from prosmin.common.errors import UserError
from prosmin.common.seeds import sample_rows
from prosmin.evaluation.label_subsets import Labelled, count_classes
from prosmin.metrics import classification

HELD_OUT = 10_000  # images of val, at most, that choose k and temperature


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


def lengths(features: np.ndarray) -> np.ndarray:
    """Euclidean length of features ``[N, F]``, float64 ``[N]``."""
    norms: np.ndarray = np.linalg.norm(features.astype(np.float64), axis=1)
    return norms


def by_cosine(rows: np.ndarray) -> tuple[np.ndarray, None]:
    """Prepare rows of a bank for ``closest``, so that cosine similarity ranks them."""
    return unit(rows), None


def neighbours(
    bank: np.ndarray | Stack, queries: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Find the k nearest rows of the bank by cosine similarity.

    bank ``[N, F]``, queries ``[Q, F]`` -> similarity ``[Q, k]`` float32, highest first, and index
    ``[Q, k]``. Of equally similar rows the first in the bank comes first.
    Raises ``UserError`` for features that are not finite and ``ConfigError`` for a k above N.
    """
    return closest([bank], unit(queries), k, by_cosine)


@dataclass(frozen=True)
class Bank:
    """Training features to which the distances of other features are measured.

    Features are L2-normalised. Those of a self-supervised encoder with a large common mean lie
    within 1e-3 of each other, where ``sqrt(2 - 2 cos)`` has no digits left in float32. So the
    vectors are centred, and the distance is taken from their difference.

    features: ``[N, F]``, as the encoder gives them.
    centre: float32 ``[F]``, the mean of the normalised features.
    """

    features: np.ndarray | Stack
    centre: np.ndarray

    @classmethod
    def fit(cls, features: np.ndarray | Stack) -> "Bank":
        """Make the bank of features ``[N, F]``. Raises ``UserError`` where they are not finite."""
        parts = chunks(len(features), rows_at_once(features.shape[1]))
        total: np.ndarray = sum(
            unit(features[rows]).sum(axis=0, dtype=np.float64) for rows in parts
        )
        return cls(features, (total / len(features)).astype(np.float32))

    def _centred(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Prepare rows of the bank for ``closest``, so that Euclidean distance ranks them."""
        vectors = unit(rows) - self.centre
        return vectors, np.square(vectors).sum(axis=1) / 2

    def nearest(self, features: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Find the k nearest training images of features ``[Q, F]``.

        Returns Euclidean distances between normalised features, float64 ``[Q, k]``, in [0, 2],
        smallest first, and rows of the bank ``[Q, k]``.
        Raises ``ConfigError`` for a k above N.
        """
        asked = unit(features) - self.centre
        # The squared distance is |asked|^2 - 2 (asked . known - |known|^2 / 2).
        _, index = closest([self.features], asked, k, self._centred)
        columns = []
        for place in range(k):
            known, _ = self._centred(self.features[index[:, place]])
            columns.append(np.linalg.norm((asked - known).astype(np.float64), axis=1))
        return np.stack(columns, axis=1), index


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

    The bank is train for val, and train and val together for test. Of a larger val, ``HELD_OUT``
    images choose, drawn at random. Of equally accurate pairs the smaller k wins, then the higher
    temperature (the flatter vote).

    Returns two things:
    metrics: ``accuracy`` on test with its interval, ``k``, ``temperature``, ``n``. There is no
        top-5 accuracy, which says little when fewer than five classes get a vote.
    grid: rows (k, temperature, accuracy on val).
    """
    classes = count_classes({"train": train[1], "val": val[1], "test": test[1]})
    drawn = sample_rows(len(val[1]), HELD_OUT, seed, "queries that choose k")
    truth = val[1][drawn]
    similarity, index = neighbours(train[0], val[0][drawn], max(ks))
    near = train[1][index]
    grid = []
    for k in sorted(set(ks)):
        for temperature in sorted(set(temperatures)):
            votes = vote(similarity[:, :k], near[:, :k], temperature, classes)
            grid.append((k, temperature, float(classification.accuracy(votes, truth))))
    k, temperature, _ = max(grid, key=lambda row: (row[2], -row[0], row[1]))

    labels = np.concatenate([train[1], val[1]])
    similarity, index = closest((train[0], val[0]), unit(test[0]), k, by_cosine)
    votes = vote(similarity, labels[index], temperature, classes)
    accuracy = partial(classification.accuracy, votes, test[1])
    scored = classification.with_intervals({"accuracy": accuracy}, len(test[1]), bootstrap, seed)
    return scored | {"k": k, "temperature": temperature, "n": len(test[1])}, grid
