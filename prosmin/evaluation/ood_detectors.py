"""The formulas of the out-of-distribution (OOD) detectors, in NumPy.

A detector is a function ``(train, query, settings) -> scores [N]`` that is fitted to the images
``train`` and scores the images ``query``; a high score says OOD. ``prosmin.evaluation.ood_scores``
has the registry of detectors: a new detector is a function here and its entry there.

Letters in shapes: N images, F features, C classes.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from prosmin.common.compute.backend import chunks, rows_at_once
from prosmin.common.compute.moments import Rows
from prosmin.common.errors import ConfigError, UserError
from prosmin.evaluation.covariance import Means, by_class, double
from prosmin.evaluation.knn import Bank, lengths, unit

Array = np.ndarray
T = TypeVar("T")


@dataclass(frozen=True)
class Sample:
    """Images as detectors see them.

    features: [N, F].
    log_sigma: [N], predicted log sigma, mean over dimensions. None: nothing is predicted.
    logits: [N, C] of the linear probe. None: there is no probe.
    labels: [N], whole numbers, -1 for an image without a label. None: there are no labels.
    head: the linear probe of training images, weight [C, F] and bias [C], from features to logits.

    Raises ``UserError`` for features that are not finite.
    """

    features: Array
    log_sigma: Array | None = None
    logits: Array | None = None
    labels: Array | None = None
    head: tuple[Array, Array] | None = None

    def __post_init__(self) -> None:
        parts = chunks(len(self.features), rows_at_once(self.features.shape[1]))
        finite = sum(int(np.isfinite(self.features[rows]).all(axis=1).sum()) for rows in parts)
        if broken := len(self.features) - finite:
            count = f"{broken} of {len(self.features)} images"
            raise UserError(
                f"the features of {count} are NaN or infinite; the encoder may have diverged"
            )

    def rows(self, chosen: Array) -> "Sample":
        """Return the sample of the chosen images alone."""
        fields = ("features", "log_sigma", "logits", "labels")
        present: dict[str, Any] = {
            name: getattr(self, name)[chosen] for name in fields if getattr(self, name) is not None
        }
        return replace(self, **present)


@dataclass(frozen=True)
class Settings:
    """Settings of the detectors.

    k: ``knn`` takes the distance to the k-th nearest neighbour.
    temperature: of ``energy``.
    shrinkage: of the covariances, in [0, 1).
    vim_dim: dimensions of the principal space of ``vim``. None: half of the features.
    seed: of the draw of held-out training images that standardise combined scores.
    """

    k: int = 10
    temperature: float = 1.0
    shrinkage: float = 0.1
    vim_dim: int | None = None
    seed: int = 0


def _given(field: T | None) -> T:
    """A field that the detector needs, so its entry names it under ``needs``."""
    assert field is not None
    return field


# --- from the logits of the probe -----------------------------------------------------------------


def _below_top(query: Sample) -> Array:
    """Logits [N, C] less the largest logit of each image, in float64."""
    logits = _given(query.logits).astype(np.float64)
    below: Array = logits - logits.max(axis=1, keepdims=True)
    return below


def _logsumexp(logits: Array) -> Array:
    """[N] of [N, C], exact to the last digit also where one class has nearly all the weight."""
    place = logits.argmax(axis=1)[:, None]
    top = np.take_along_axis(logits, place, axis=1)
    rest = np.exp(logits - top)
    np.put_along_axis(rest, place, 0.0, axis=1)
    total: Array = top[:, 0] + np.log1p(rest.sum(axis=1))
    return total


def msp(train: Sample, query: Sample, settings: Settings) -> Array:
    """log(1 - p) of the maximum softmax probability p (Hendrycks and Gimpel 2017).

    The order is that of -p. Where the probe is sure, p rounds to 1, in float64 from a margin of 37
    logits on; 1 - p, the sum over the other classes, keeps its digits.
    """
    below = _below_top(query)
    others = np.sort(below, axis=1)[:, :-1]  # all but the top one, which is 0
    scores: Array = _logsumexp(others) - _logsumexp(below)
    return scores


def max_logit(train: Sample, query: Sample, settings: Settings) -> Array:
    """Negative largest logit (Hendrycks et al., ICML 2022, sec. 3)."""
    scores: Array = -_given(query.logits).max(axis=1).astype(np.float64)
    return scores


def entropy(train: Sample, query: Sample, settings: Settings) -> Array:
    """Shannon entropy of the softmax probabilities in nats, in [0, log C]."""
    below = _below_top(query)
    total = _logsumexp(below)
    # All terms have one sign, so none cancels another.
    scores: Array = total - (np.exp(below - total[:, None]) * below).sum(axis=1)
    return scores


def energy(train: Sample, query: Sample, settings: Settings) -> Array:
    """Free energy ``-T logsumexp(logits / T)`` (Liu et al. 2020, eq. 3)."""
    logits = _given(query.logits).astype(np.float64)
    scores: Array = -settings.temperature * _logsumexp(logits / settings.temperature)
    return scores


# --- from the features ----------------------------------------------------------------------------


def knn(train: Sample, query: Sample, settings: Settings) -> Array:
    """Euclidean distance to the k-th nearest L2-normalised training feature, in [0, 2].

    Sun et al. 2022.
    """
    distances, _ = Bank.fit(train.features).nearest(query.features, settings.k)
    return distances[:, -1]


def mahalanobis(train: Sample, query: Sample, settings: Settings) -> Array:
    """Squared Mahalanobis distance to the nearest class mean, one covariance for all classes.

    Lee et al. 2018, eq. 1-2. The maximum-likelihood covariance S around the class means is shrunk
    towards its mean variance v: ``(1 - shrinkage) S + shrinkage v I``.
    Raises ``ConfigError`` where the shrunk covariance cannot be inverted.
    """
    return _to_classes(train, query, settings.shrinkage, double)


def relative_mahalanobis(train: Sample, query: Sample, settings: Settings) -> Array:
    """``mahalanobis`` less the squared distance to the mean of all images under their covariance.

    Ren et al. 2021 (arXiv 2106.09022), eq. 2. Both covariances are shrunk as for ``mahalanobis``.
    """
    labelled = np.flatnonzero(_given(train.labels) >= 0)
    known = _as_one(train.features, labelled, double)
    to_all = _to_means(known, query.features, settings.shrinkage)
    scores: Array = _to_classes(train, query, settings.shrinkage, double) - to_all
    return scores


def mahalanobis_normalised(train: Sample, query: Sample, settings: Settings) -> Array:
    """``mahalanobis`` of L2-normalised features: Mahalanobis++ (Mueller and Hein, ICML 2025).

    The norms of features vary more than a Gaussian with one covariance for all classes allows.
    """
    return _to_classes(train, query, settings.shrinkage, _unit_length)


def gaussian(train: Sample, query: Sample, settings: Settings) -> Array:
    """Squared Mahalanobis distance to the mean of all training images under their covariance.

    ``mahalanobis`` with one class for all images, so it needs no labels.
    """
    known = _as_one(train.features, np.arange(len(train.features)), double)
    return _to_means(known, query.features, settings.shrinkage)


def ssd(train: Sample, query: Sample, settings: Settings) -> Array:
    """``gaussian`` of L2-normalised, then standardised features.

    SSD with one cluster (Sehwag et al., ICLR 2021, sec. 3), apart from the shrinkage.
    """
    everything = np.arange(len(train.features))
    directions = _as_one(train.features, everything, _unit_length)
    mean = directions.means()
    variance = directions.total(lambda rows, _: np.square(rows - mean).sum(axis=0))
    deviation = np.sqrt(variance / len(everything)) + 1e-10
    known = _as_one(
        train.features, everything, lambda rows: (_unit_length(rows) - mean) / deviation
    )
    return _to_means(known, query.features, settings.shrinkage)


def feature_norm(train: Sample, query: Sample, settings: Settings) -> Array:
    """Minus the Euclidean norm of the features, which is often small for OOD images.

    Park et al., ICCV 2023 (arXiv 2310.05316), who explain it.
    """
    return -lengths(query.features)


def _unit_length(features: Array) -> Array:
    return unit(features).astype(np.float64)


def _as_one(features: Array, chosen: Array, convert: Callable[[Array], Array]) -> Rows:
    """Rows of one group."""
    return Rows(features, chosen, np.zeros(len(chosen), np.int64), convert)


def _to_classes(
    train: Sample, query: Sample, shrinkage: float, convert: Callable[[Array], Array]
) -> Array:
    """Squared Mahalanobis distance [N] to the nearest class mean."""
    known = by_class(train.features, _given(train.labels), convert)
    return _to_means(known, query.features, shrinkage)


def _to_means(known: Rows, asked: Array, shrinkage: float) -> Array:
    """Squared Mahalanobis distance [N] of ``asked`` [N, F] to the nearest mean of a group."""
    return Means.fit(known, shrinkage).distances(asked, known.convert)


def vim(train: Sample, query: Sample, settings: Settings) -> Array:
    """Virtual-logit matching: the residual of the features against the logits.

    Wang et al., CVPR 2022, eq. 5-7. Features are centred where all logits are 0, at
    ``-pinv(weight) bias``. The principal space has the ``vim_dim`` leading directions of the
    training features; the residual is the norm outside of it, scaled so that its mean over training
    images is the mean of their largest logit. The log-sum-exp of the logits is subtracted.
    """
    size = train.features.shape[1]
    dim = size // 2 if settings.vim_dim is None else settings.vim_dim
    if not dim < size:
        raise ConfigError(
            "vim_dim", dim, f"there are {size} features; allowed: fewer than that, or null for half"
        )
    weight, bias = (part.astype(np.float64) for part in _given(train.head))
    origin = -np.linalg.pinv(weight) @ bias
    known = _as_one(train.features, np.arange(len(train.features)), double)
    _, vectors = np.linalg.eigh(known.covariance(origin[None]))
    outside = vectors[:, : size - dim]  # eigenvalues ascend
    residual, largest = known.total(
        lambda rows, _: np.array(
            [
                np.linalg.norm((rows - origin) @ outside, axis=1).sum(),
                (rows @ weight.T + bias).max(axis=1).sum(),
            ]
        )
    )
    scale = largest / residual if residual > 0 else 0.0
    virtual = scale * np.linalg.norm((query.features - origin) @ outside, axis=1)
    scores: Array = virtual - _logsumexp(_given(query.logits).astype(np.float64))
    return scores


# --- from the prediction --------------------------------------------------------------------------


def sigma(train: Sample, query: Sample, settings: Settings) -> Array:
    """Mean over dimensions of the predicted log standard deviation of the un-augmented image."""
    scores: Array = _given(query.log_sigma).astype(np.float64)
    return scores
