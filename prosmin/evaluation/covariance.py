"""Means of groups of features under one shrunk covariance, and distances to them.

Letters in shapes: N training images, Q images to score, F features, G groups.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from prosmin.common.compute.backend import NUMPY, blas, chunks, rows_at_once
from prosmin.common.compute.moments import Rows
from prosmin.common.compute.stacked import Stack
from prosmin.common.errors import ConfigError

Array = np.ndarray


def double(features: Array) -> Array:
    """Features in float64."""
    return features.astype(np.float64)


def by_class(
    features: Array | Stack, labels: Array, convert: Callable[[Array], Array] = double
) -> Rows:
    """Rows of features ``[N, F]``, one group per class; images with the label -1 are left out."""
    labelled = np.flatnonzero(labels >= 0)
    _, position = np.unique(labels[labelled], return_inverse=True)
    return Rows(features, labelled, position, convert)


@dataclass(frozen=True)
class Means:
    """The means of groups under one covariance for all groups, in float64.

    centre: ``[F]``, the mean of the means: a common offset would cost digits where squares are
        subtracted from each other.
    whiten: ``[F, F]``, from the right: it takes the covariance to the identity.
    means: ``[G, F]``, centred and whitened.
    """

    # Of a file, as ``prosmin.common.files.Arrays.check`` wants them.
    SHAPES: ClassVar = {
        "centre": ("float64", "F"),
        "whiten": ("float64", "FF"),
        "means": ("float64", "GF"),
    }

    centre: Array
    whiten: Array
    means: Array

    @classmethod
    def fit(cls, known: Rows, shrinkage: float) -> "Means":
        """Fit to the groups of some rows (Lee et al. 2018, eq. 1).

        The maximum-likelihood covariance S around the means of the groups is shrunk towards its
        mean variance v: ``(1 - shrinkage) S + shrinkage v I``.
        Raises ``ConfigError`` where the shrunk covariance cannot be inverted.
        """
        means = known.means()
        covariance = known.covariance(means)
        with blas().limit(limits=1):  # so that the number of threads changes no digit
            whiten = _whitening(covariance, len(known.chosen), shrinkage)
            centre = means.mean(axis=0)
            return cls(centre, whiten, (means - centre) @ whiten)

    def distances(self, asked: Array, convert: Callable[[Array], Array] = double) -> Array:
        """Squared Mahalanobis distance ``[Q]`` of ``asked`` ``[Q, F]`` to the nearest mean.

        convert: as for the rows that the means were fitted to.
        """
        half = np.square(self.means).sum(axis=1) / 2

        def nearest(rows: slice) -> Array:
            away = (convert(asked[rows]) - self.centre) @ self.whiten
            squares = np.square(away).sum(axis=1) - 2 * (away @ self.means.T - half).max(axis=1)
            distances: Array = np.maximum(squares, 0)
            return distances

        parts = chunks(len(asked), rows_at_once(*self.means.shape))
        return np.concatenate(list(NUMPY.map(nearest, parts)))


def _whitening(covariance: Array, count: int, shrinkage: float) -> Array:
    """[F, F]: from the right, it takes the shrunk ``covariance`` [F, F] to identity.

    count: number of the images that it is of.
    """
    size = len(covariance)
    mean = np.trace(covariance) / size
    covariance = (1 - shrinkage) * covariance + shrinkage * mean * np.eye(size)
    values, vectors = np.linalg.eigh(covariance)
    if values[0] <= values[-1] * size * np.finfo(np.float64).eps:
        raise ConfigError(
            "shrinkage",
            shrinkage,
            f"the covariance of the {size} features over {count} training images cannot be "
            "inverted; raise it, or see whether the encoder has collapsed",
        )
    whiten: Array = vectors / np.sqrt(values)
    return whiten
