"""The formulas of the out-of-distribution (OOD) detectors, in NumPy.

A detector is a function ``(known, query, settings) -> scores [N]``: ``known`` are the statistics of
training images (``prosmin.evaluation.ood_statistics`` fits them), ``query`` the images to score. A
high score says OOD. ``prosmin.evaluation.ood_scores`` has the registry of detectors: a new detector
is a function here and its entry there.

Letters in shapes: N images, F features, C classes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from prosmin.common.compute.backend import NUMPY, chunks, rows_at_once
from prosmin.common.compute.stacked import Stack
from prosmin.common.errors import UserError
from prosmin.evaluation.covariance import Means
from prosmin.evaluation.knn import Bank, lengths, unit

Array = np.ndarray
T = TypeVar("T")


@dataclass(frozen=True)
class Sample:
    """Images as detectors see them.

    features: [N, F]; those of training images may be a table of several arrays.
    log_sigma: [N], predicted log sigma, mean over dimensions. None: nothing is predicted.
    logits: [N, C] of the linear probe. None: there is no probe.
    labels: [N], whole numbers, -1 for an image without a label. None: there are no labels.
    head: the linear probe of training images, weight [C, F] and bias [C], from features to logits.

    Raises ``UserError`` for features that are not finite.
    """

    features: Array | Stack
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
        """Return the sample of the chosen images alone. chosen: their numbers, or a mask [N].

        Its features are a table, of which nothing is copied.
        """
        fields = "log_sigma", "logits", "labels"
        present: dict[str, Any] = {
            name: getattr(self, name)[chosen] for name in fields if getattr(self, name) is not None
        }
        table = self.features if isinstance(self.features, Stack) else Stack((self.features,))
        return replace(self, features=table.rows(chosen), **present)

    @property
    def dense(self) -> Array:
        """The features as one array [N, F]."""
        return self.features[:]


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


@dataclass(frozen=True)
class Known:
    """What detectors know of training images.

    features: [N, F], among which ``knn`` finds neighbours.
    statistics: of ``prosmin.evaluation.ood_statistics``, by name the arrays of each.
    """

    features: Array | Stack
    statistics: Mapping[str, Mapping[str, Array]]


def given(field: T | None) -> T:
    """A field that the detector needs, so its entry names it under ``needs``."""
    assert field is not None
    return field


def _by_rows(function: Callable[[Array], Array], array: Array) -> Array:
    """``function`` of some rows [n, *] of an array [N, *] at a time, [N]."""
    parts = chunks(len(array), rows_at_once(array.shape[1]))
    return np.concatenate(list(NUMPY.map(lambda rows: function(array[rows]), parts)))


# --- from the logits of the probe -----------------------------------------------------------------


def _of_logits(function: Callable[[Array], Array], query: Sample) -> Array:
    """``function`` of the logits [n, C] of some images at a time, in float64, [N]."""
    return _by_rows(lambda rows: function(rows.astype(np.float64)), given(query.logits))


def _below_top(logits: Array) -> Array:
    """Logits [N, C] less the largest logit of each image."""
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


def msp(known: Known, query: Sample, settings: Settings) -> Array:
    """log(1 - p) of the maximum softmax probability p (Hendrycks and Gimpel 2017).

    The order is that of -p. Where the probe is sure, p rounds to 1, in float64 from a margin of 37
    logits on; 1 - p, the sum over the other classes, keeps its digits.
    """

    def scores(logits: Array) -> Array:
        below = _below_top(logits)
        others = np.sort(below, axis=1)[:, :-1]  # all but the top one, which is 0
        values: Array = _logsumexp(others) - _logsumexp(below)
        return values

    return _of_logits(scores, query)


def max_logit(known: Known, query: Sample, settings: Settings) -> Array:
    """Negative largest logit (Hendrycks et al., ICML 2022, sec. 3)."""
    return _of_logits(lambda logits: -logits.max(axis=1), query)


def entropy(known: Known, query: Sample, settings: Settings) -> Array:
    """Shannon entropy of the softmax probabilities in nats, in [0, log C]."""

    def scores(logits: Array) -> Array:
        below = _below_top(logits)
        total = _logsumexp(below)
        # All terms have one sign, so none cancels another.
        values: Array = total - (np.exp(below - total[:, None]) * below).sum(axis=1)
        return values

    return _of_logits(scores, query)


def energy(known: Known, query: Sample, settings: Settings) -> Array:
    """Free energy ``-T logsumexp(logits / T)`` (Liu et al. 2020, eq. 3)."""
    temperature = settings.temperature
    return _of_logits(lambda logits: -temperature * _logsumexp(logits / temperature), query)


# --- from the features ----------------------------------------------------------------------------


def knn(known: Known, query: Sample, settings: Settings) -> Array:
    """Euclidean distance to the k-th nearest L2-normalised training feature, in [0, 2].

    Sun et al. 2022.
    """
    bank = Bank(known.features, known.statistics["neighbours"]["centre"])
    distances, _ = bank.nearest(query.dense, settings.k)
    return distances[:, -1]


def mahalanobis(known: Known, query: Sample, settings: Settings) -> Array:
    """Squared Mahalanobis distance to the nearest class mean, one covariance for all classes.

    Lee et al. 2018, eq. 1-2. The maximum-likelihood covariance S around the class means is shrunk
    towards its mean variance v: ``(1 - shrinkage) S + shrinkage v I``.
    """
    return Means(**known.statistics["classes"]).distances(query.dense)


def relative_mahalanobis(known: Known, query: Sample, settings: Settings) -> Array:
    """``mahalanobis`` less ``gaussian`` (Ren et al. 2021, arXiv 2106.09022, eq. 2)."""
    scores: Array = mahalanobis(known, query, settings) - gaussian(known, query, settings)
    return scores


def mahalanobis_normalised(known: Known, query: Sample, settings: Settings) -> Array:
    """``mahalanobis`` of L2-normalised features: Mahalanobis++ (Mueller and Hein, ICML 2025).

    The norms of features vary more than a Gaussian with one covariance for all classes allows.
    """
    return Means(**known.statistics["classes_normalised"]).distances(query.dense, unit_length)


def gaussian(known: Known, query: Sample, settings: Settings) -> Array:
    """Squared Mahalanobis distance to the mean of all training images under their covariance.

    ``mahalanobis`` with one class for all images, so it needs no labels.
    """
    return Means(**known.statistics["gaussian"]).distances(query.dense)


def ssd(known: Known, query: Sample, settings: Settings) -> Array:
    """``gaussian`` of L2-normalised, then standardised features.

    SSD with one cluster (Sehwag et al., ICLR 2021, sec. 3), apart from the shrinkage.
    """
    fitted = dict(known.statistics["directions"])
    convert = standardised_directions(fitted.pop("mean"), fitted.pop("deviation"))
    return Means(**fitted).distances(query.dense, convert)


def feature_norm(known: Known, query: Sample, settings: Settings) -> Array:
    """Minus the Euclidean norm of the features, which is often small for OOD images.

    Park et al., ICCV 2023 (arXiv 2310.05316), who explain it.
    """
    return -lengths(query.dense)


def unit_length(features: Array) -> Array:
    """Features [N, F] at length 1, in float64."""
    return unit(features).astype(np.float64)


def standardised_directions(mean: Array, deviation: Array) -> Callable[[Array], Array]:
    """Return the map of features to unit length, less ``mean`` [F], by ``deviation`` [F]."""
    return lambda features: (unit_length(features) - mean) / deviation


def vim(known: Known, query: Sample, settings: Settings) -> Array:
    """Virtual-logit matching: the residual of the features against the logits.

    Wang et al., CVPR 2022, eq. 5-7. The residual is the norm of centred features outside of the
    principal space, scaled as a logit. The log-sum-exp of the logits is subtracted.
    """
    origin, outside, scale = (
        known.statistics["residual"][name] for name in ("origin", "outside", "scale")
    )
    virtual = _by_rows(
        lambda rows: scale * np.linalg.norm((rows - origin) @ outside, axis=1), query.dense
    )
    scores: Array = virtual - _of_logits(_logsumexp, query)
    return scores


# --- from the prediction --------------------------------------------------------------------------


def sigma(known: Known, query: Sample, settings: Settings) -> Array:
    """Mean over dimensions of the predicted log standard deviation of the un-augmented image."""
    scores: Array = given(query.log_sigma).astype(np.float64)
    return scores
