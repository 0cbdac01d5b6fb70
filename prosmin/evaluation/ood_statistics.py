"""What out-of-distribution (OOD) detectors are fitted to training images, as arrays.

A statistic is a function ``(train, settings) -> arrays by name``, and its entry in ``STATISTICS``
says which arrays they are. Several detectors may read one statistic, which is fitted once. All
sums are taken over parts of the features, so that memory does not grow with the number of images.

Letters in shapes: N images, F features, C classes, D directions.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np

from prosmin.common.compute.backend import blas
from prosmin.common.compute.moments import Rows
from prosmin.common.errors import ConfigError
from prosmin.evaluation.covariance import Means, by_class, double
from prosmin.evaluation.knn import Bank
from prosmin.evaluation.ood_detectors import (
    Array,
    Known,
    Sample,
    Settings,
    given,
    standardised_directions,
    unit_length,
)

Arrays = Mapping[str, Array]


def neighbours(train: Sample, settings: Settings) -> Arrays:
    """The centre of the bank of ``knn``. The features themselves are not copied."""
    return {"centre": Bank.fit(train.features).centre}


def classes(train: Sample, settings: Settings) -> Arrays:
    """Class means under one covariance for all classes (``Means``)."""
    return _means(by_class(train.features, given(train.labels), double), settings)


def classes_normalised(train: Sample, settings: Settings) -> Arrays:
    """``classes`` of L2-normalised features."""
    return _means(by_class(train.features, given(train.labels), unit_length), settings)


def gaussian(train: Sample, settings: Settings) -> Arrays:
    """The mean of all images under their covariance (``Means``)."""
    return _means(_as_one(train, double), settings)


def directions(train: Sample, settings: Settings) -> Arrays:
    """Mean and standard deviation of L2-normalised features, and ``gaussian`` of these features.

    The features are standardised for the Gaussian.
    """
    units = _as_one(train, unit_length)
    mean = units.means()
    variance = units.total(lambda rows, _: np.square(rows - mean).sum(axis=0))
    deviation = np.sqrt(variance / len(train.features)) + 1e-10
    convert = standardised_directions(mean, deviation)
    return {"mean": mean[0], "deviation": deviation} | _means(_as_one(train, convert), settings)


def residual(train: Sample, settings: Settings) -> Arrays:
    """The space outside of the principal space of ``vim`` (Wang et al., CVPR 2022, eq. 5-7).

    Features are centred where all logits are 0, at ``origin = -pinv(weight) bias``. The principal
    space has the ``vim_dim`` leading directions of the training features; the columns of
    ``outside`` span the rest. ``scale`` makes the mean of the residual over training images the
    mean of their largest logit.
    """
    size = train.features.shape[1]
    dim = size // 2 if settings.vim_dim is None else settings.vim_dim
    if not dim < size:
        raise ConfigError(
            "vim_dim", dim, f"there are {size} features; allowed: fewer than that, or null for half"
        )
    weight, bias = (part.astype(np.float64) for part in given(train.head))
    with blas().limit(limits=1):  # so that the number of threads changes no digit
        origin = -np.linalg.pinv(weight) @ bias
    known = _as_one(train, double)
    covariance = known.covariance(origin[None])
    with blas().limit(limits=1):
        _, vectors = np.linalg.eigh(covariance)
    outside = vectors[:, : size - dim]  # eigenvalues ascend
    length, largest = known.total(
        lambda rows, _: np.array(
            [
                np.linalg.norm((rows - origin) @ outside, axis=1).sum(),
                (rows @ weight.T + bias).max(axis=1).sum(),
            ]
        )
    )
    scale = largest / length if length > 0 else 0.0
    return {"origin": origin, "outside": outside, "scale": np.array([scale])}


def _means(rows: Rows, settings: Settings) -> dict[str, Array]:
    return vars(Means.fit(rows, settings.shrinkage))


def _as_one(train: Sample, convert: Callable[[Array], Array]) -> Rows:
    """All training images as rows of one group."""
    count = len(train.features)
    return Rows(train.features, np.arange(count), np.zeros(count, np.int64), convert)


@dataclass(frozen=True)
class Statistic:
    """An entry of the registry.

    fit: computes the arrays. Raises ``ConfigError`` for a setting that does not fit the features.
    shapes: types and shapes of the arrays, as ``prosmin.common.files.Arrays.check`` wants them.
    needs: fields of the training images that it reads beside the features.
    """

    fit: Callable[[Sample, Settings], Arrays]
    shapes: Mapping[str, tuple[str, str]]
    needs: tuple[str, ...] = ()


_OF_CLASSES = Means.SHAPES | {"means": ("float64", "CF")}
_OF_ALL = Means.SHAPES | {"means": ("float64", "1F")}
_VECTOR = ("float64", "F")
STATISTICS = {
    "neighbours": Statistic(neighbours, {"centre": ("float32", "F")}),
    "classes": Statistic(classes, _OF_CLASSES, ("labels",)),
    "classes_normalised": Statistic(classes_normalised, _OF_CLASSES, ("labels",)),
    "gaussian": Statistic(gaussian, _OF_ALL),
    "directions": Statistic(directions, _OF_ALL | {"mean": _VECTOR, "deviation": _VECTOR}),
    "residual": Statistic(
        residual,
        {"origin": _VECTOR, "outside": ("float64", "FD"), "scale": ("float64", "1")},
        ("head",),
    ),
}


def possible(train: Sample) -> set[str]:
    """The names of the statistics whose needs the training images meet."""
    return {
        name
        for name, entry in STATISTICS.items()
        if all(getattr(train, field) is not None for field in entry.needs)
    }


def fit(train: Sample, settings: Settings, names: Collection[str]) -> Known:
    """Fit the statistics of these names whose needs the training images meet.

    Raises ``ConfigError`` where a covariance cannot be inverted, or ``vim_dim`` is too large.
    """
    statistics = {}
    for name in sorted(possible(train) & set(names)):
        arrays = STATISTICS[name].fit(train, settings)
        # As they come back from a file: the order in memory decides the last digit of products.
        statistics[name] = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
    return Known(train.features, statistics)
