"""Faults of a dataset by the features of its images: outliers, near-duplicates, wrong labels.

All three are read from one table, the nearest other images of every audited image. So an audit
costs one exact search in tiles, of Q audited images among all N, and no fit.

Letters in shapes: N images of the dataset, Q audited images, k neighbours, P pairs, C classes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prosmin.common.compute.backend import chunks, rows_at_once
from prosmin.common.compute.stacked import Stack
from prosmin.common.errors import ConfigError
from prosmin.evaluation.knn import Bank, vote

Rows = NDArray[np.int64]

NEAR = 0.4
"""Largest ratio of a near-duplicate: its distance to that of the k-th neighbour."""
TEMPERATURE = 0.3
"""Of the votes: a neighbour weighs exp(-(d / d_k)^2 / temperature)."""

_TINY = np.finfo(np.float64).tiny


@dataclass(frozen=True)
class Neighbourhood:
    """Audited images and their nearest other images.

    rows: of the audited images in the dataset, [Q].
    index: rows of their neighbours in the dataset, [Q, k], nearest first.
    distance: Euclidean, between features of length 1, float64 [Q, k].
    """

    rows: Rows
    index: Rows
    distance: np.ndarray

    @classmethod
    def find(cls, features: np.ndarray | Stack, rows: Rows, k: int) -> "Neighbourhood":
        """Search the neighbours of some rows of ``features`` [N, F] among all of them.

        Raises ``UserError`` for features that are not finite and ``ConfigError`` for a k outside of
        1..N - 1.
        """
        if not 1 <= k < len(features):
            raise ConfigError(
                "k", k, f"there are {len(features)} images; allowed: 1 to {len(features) - 1}"
            )
        distance, index = Bank.fit(features).nearest(features[rows], k + 1)
        own = index == rows[:, None]
        # An image with more than k copies may not be in its own list: then the last one goes.
        dropped = np.where(own.any(axis=1), own.argmax(axis=1), k)
        kept = np.arange(k + 1) != dropped[:, None]
        return cls(rows, index[kept].reshape(-1, k), distance[kept].reshape(-1, k))

    @property
    def radius(self) -> np.ndarray:
        """Distance to the k-th neighbour, float64 [Q]."""
        radius: np.ndarray = self.distance[:, -1]
        return radius

    @property
    def ratio(self) -> np.ndarray:
        """Each distance relative to that to the k-th neighbour, float64 [Q, k], in [0, 1]."""
        ratio: np.ndarray = self.distance / np.maximum(self.radius, _TINY)[:, None]
        return ratio


# --- outliers -------------------------------------------------------------------------------------


def outlier_scores(near: Neighbourhood) -> np.ndarray:
    """The distance to the k-th nearest other image, float64 [Q], high for an outlier.

    Ramaswamy et al. 2000, Efficient algorithms for mining outliers from large data sets. Copies of
    an outlier do not hide it as long as there are fewer than k.
    """
    return near.radius


# --- near-duplicates ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pairs:
    """Pairs of images, the most alike first.

    first, second: rows in the dataset, [P], the first below the second.
    distance: as in ``Neighbourhood``, [P]; 0 for identical images.
    ratio: the distance relative to that of the k-th neighbour, [P]; 0 for identical images.
    identical: whether both have the same pixels, bool [P].
    """

    first: Rows
    second: Rows
    distance: np.ndarray
    ratio: np.ndarray
    identical: np.ndarray

    def __len__(self) -> int:
        return len(self.first)

    def chosen(self, which: np.ndarray | slice) -> "Pairs":
        """Some of the pairs."""
        return Pairs(
            self.first[which],
            self.second[which],
            self.distance[which],
            self.ratio[which],
            self.identical[which],
        )


def near_duplicates(near: Neighbourhood, digests: np.ndarray) -> Pairs:
    """All identical images, and neighbours that are much nearer than the k-th neighbour.

    Features lie dense in one place and sparse in another, so no distance means "nearly the same"
    everywhere. The ratio to the distance of the k-th neighbour does (as Lowe 2004, sec. 7.1,
    compares with the second neighbour; a dataset may hold several copies of an image). A pair whose
    images are both audited has the smaller of its two ratios. Up to ``NEAR`` is near.

    digests: checksums of the pixels of all images, [N].
    Of m identical images there are m - 1 pairs, each with the first of them.
    """
    same = _identical(digests)
    place, column = np.nonzero(near.ratio <= NEAR)
    one, other = near.rows[place], near.index[place, column]
    apart = digests[one] != digests[other]
    one, other, place, column = (values[apart] for values in (one, other, place, column))
    distance, ratio = near.distance[place, column], near.ratio[place, column]
    first, second = np.minimum(one, other), np.maximum(one, other)
    order = np.lexsort([ratio, second, first])  # the smaller ratio of a pair that is there twice
    new = np.ones(len(order), bool)
    new[1:] = (np.diff(first[order]) != 0) | (np.diff(second[order]) != 0)
    once = order[new]
    alike = once[np.argsort(ratio[once], kind="stable")]
    zeros = np.zeros(len(same[0]))
    return Pairs(
        np.concatenate([same[0], first[alike]]),
        np.concatenate([same[1], second[alike]]),
        np.concatenate([zeros, distance[alike]]),
        np.concatenate([zeros, ratio[alike]]),
        np.concatenate([np.ones(len(zeros), bool), np.zeros(len(alike), bool)]),
    )


def _identical(digests: np.ndarray) -> tuple[Rows, Rows]:
    """The first of several images with one checksum, and each other image of them, [P] twice."""
    _, first, group = np.unique(digests, return_index=True, return_inverse=True)
    repeated = np.flatnonzero(first[group] != np.arange(len(digests)))
    return first[group][repeated], repeated


# --- wrong labels ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Suspicion:
    """How likely the labels of audited images are wrong.

    score: largest share of the votes for another class less the share for the label, float64 [Q],
        in [-1, 1], high for a wrong label.
    suggested: the class with the largest share of the votes, int64 [Q].
    share: its share, float64 [Q].
    likely: whether the label is likely wrong by confident learning, bool [Q].
    """

    score: np.ndarray
    suggested: Rows
    share: np.ndarray
    likely: np.ndarray


def suspect_labels(near: Neighbourhood, labels: Rows, classes: int) -> Suspicion:
    """Compare the labels of audited images with the votes of their neighbours.

    The shares of the votes are probabilities that the label itself has no part in. The score is
    their margin (normalized margin; Northcutt et al. 2021, JAIR 70, sec. 3.2). A label is likely
    wrong where another class has the largest share among the classes that reach their own
    threshold. The threshold of a class is the mean share that it has for images of its label
    (confident learning; there, eq. 2 and 3).

    labels: of all images, [N], in 0..C-1.
    """
    own, ratio = labels[near.rows], near.ratio
    blocks = list(chunks(len(own), rows_at_once(classes)))

    def shares(rows: slice) -> np.ndarray:
        return vote(-np.square(ratio[rows]), labels[near.index[rows]], TEMPERATURE, classes)

    def of_own(rows: slice) -> np.ndarray:
        share: np.ndarray = np.take_along_axis(shares(rows), own[rows, None], axis=1)[:, 0]
        return share

    share_of_own = np.concatenate([of_own(rows) for rows in blocks])
    counts = np.bincount(own, minlength=classes)
    totals = np.bincount(own, share_of_own, minlength=classes)
    # A class without an audited image has no threshold and is not suspected.
    thresholds = np.where(counts > 0, totals / np.maximum(counts, 1), np.inf)
    score, share = np.empty((2, len(own)))
    suggested, likely = np.empty(len(own), np.int64), np.empty(len(own), bool)
    for rows in blocks:
        votes, place = shares(rows), own[rows, None]
        suggested[rows], share[rows] = votes.argmax(axis=1), votes.max(axis=1)
        others = votes.copy()
        np.put_along_axis(others, place, 0.0, axis=1)
        score[rows] = others.max(axis=1) - share_of_own[rows]
        votes[votes < thresholds] = 0
        likely[rows] = votes.any(axis=1) & (votes.argmax(axis=1) != own[rows])
    return Suspicion(score, suggested, share, likely)


def flip(labels: Rows, share: float, classes: int, rng: np.random.Generator) -> tuple[Rows, Rows]:
    """Give a share of the images a wrong label, drawn from the other classes.

    labels: [N], in 0..C-1, with C of at least 2.
    Returns the labels and the rows that have a wrong one, ascending, at least one.
    """
    count = max(1, round(share * len(labels)))
    rows = np.sort(rng.choice(len(labels), count, replace=False))
    wrong = labels.copy()
    wrong[rows] = (labels[rows] + rng.integers(1, classes, count)) % classes
    return wrong, rows
