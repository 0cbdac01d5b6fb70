"""Out-of-distribution detection on saved features: detectors and their metrics, in NumPy.

A detector is one function ``(train, query, settings) -> scores``, registered by ``@detector``; a score is high
where a query looks out of distribution (OOD). OOD is the positive class of every metric except ``aupr_id``.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from prosmin.errors import ConfigError, UserError

Array = np.ndarray
BLOCK = 2**24  # distances held at once by the k-NN search: 64 MB in float32


@dataclass(frozen=True)
class Sample:
    """What is known of N images: ``features`` [N,F] and, where there are any, predicted mean ``log_sigma`` [N],
    the linear probe's ``logits`` [N,C] and ``labels`` [N] (-1 = none).

    Raises ``UserError`` for features that are not finite.
    """

    features: Array
    log_sigma: Array | None = None
    logits: Array | None = None
    labels: Array | None = None

    def __post_init__(self) -> None:
        if broken := int((~np.isfinite(self.features)).any(axis=1).sum()):
            count = f"{broken} of {len(self.features)} images"
            raise UserError(f"the features of {count} are NaN or infinite; the encoder may have diverged")


@dataclass(frozen=True)
class Settings:
    """k: which neighbour's distance; temperature: of the energy; shrinkage: of the tied covariance, [0, 1)."""

    k: int = 10
    temperature: float = 1.0
    shrinkage: float = 0.1


Score = Callable[[Sample, Sample, Settings], Array]


@dataclass(frozen=True)
class Detector:
    score: Score
    needs_labels: bool  # of the training images, directly or through the probe


DETECTORS: dict[str, Detector] = {}


def detector(*, needs_labels: bool) -> Callable[[Score], Score]:
    """Register a detector under its function's name."""

    def register(score: Score) -> Score:
        DETECTORS[score.__name__] = Detector(score, needs_labels)
        return score

    return register


# --- detectors ------------------------------------------------------------------------------------


def _logsumexp(logits: Array) -> Array:
    top = logits.max(axis=1, keepdims=True)
    return (top + np.log(np.exp(logits - top).sum(axis=1, keepdims=True)))[:, 0]


@detector(needs_labels=True)
def msp(train: Sample, query: Sample, settings: Settings) -> Array:
    """Negative maximum softmax probability (Hendrycks and Gimpel 2017)."""
    logits = query.logits.astype(np.float64)
    return -np.exp(logits.max(axis=1) - _logsumexp(logits))


@detector(needs_labels=True)
def energy(train: Sample, query: Sample, settings: Settings) -> Array:
    """Free energy ``-T logsumexp(logits / T)`` (Liu et al. 2020, eq. 3)."""
    return -settings.temperature * _logsumexp(query.logits.astype(np.float64) / settings.temperature)


@detector(needs_labels=False)
def knn(train: Sample, query: Sample, settings: Settings) -> Array:
    """Euclidean distance to the k-th nearest L2-normalised training feature (Sun et al. 2022), in [0, 2].

    Neighbours are searched by squared distances between vectors centred on the training mean, and the distance is
    taken from the difference of the two vectors: ``sqrt(2 - 2 cos)`` has no digits left in float32 where features
    lie within 1e-3 of each other, as those of a self-supervised encoder with a large common mean do.
    """
    count = len(train.features)
    if settings.k > count:
        raise ConfigError("k", settings.k, f"there are {count} training features; allowed: at most that many")
    known, asked = _unit(train.features), _unit(query.features)
    centre = known.mean(axis=0)
    known, asked = known - centre, asked - centre
    half_square = np.square(known).sum(axis=1) / 2
    scores = np.empty(len(asked))
    rows = max(1, BLOCK // count)
    for start in range(0, len(asked), rows):
        block = asked[start : start + rows]
        order = half_square - block @ known.T  # half the squared distance, less a constant of the row
        nearest = np.argpartition(order, settings.k - 1, axis=1)[:, settings.k - 1]
        scores[start : start + rows] = np.linalg.norm((block - known[nearest]).astype(np.float64), axis=1)
    return scores


def _unit(features: Array) -> Array:
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


@detector(needs_labels=True)
def mahalanobis(train: Sample, query: Sample, settings: Settings) -> Array:
    """Least squared Mahalanobis distance to a class mean, one covariance for all classes (Lee et al. 2018, eq. 1-2).

    The covariance (maximum likelihood, around the class means) is shrunk towards its mean variance v:
    ``(1 - shrinkage) S + shrinkage v I``. Raises ``ConfigError`` where it cannot be inverted all the same.
    """
    labelled = train.labels >= 0
    labels, features = train.labels[labelled], train.features[labelled].astype(np.float64)
    classes, position = np.unique(labels, return_inverse=True)
    means = np.stack([features[labels == each].mean(axis=0) for each in classes])
    residual = features - means[position]
    covariance = residual.T @ residual / len(residual)
    size = len(covariance)
    covariance *= 1 - settings.shrinkage
    covariance[np.diag_indices(size)] += settings.shrinkage * np.mean(np.square(residual))
    values, vectors = np.linalg.eigh(covariance)
    if values[0] <= values[-1] * size * np.finfo(np.float64).eps:
        raise ConfigError(
            "shrinkage",
            settings.shrinkage,
            f"the covariance of the {size} features over {len(features)} training images cannot be inverted; "
            "raise it, or see whether the encoder has collapsed",
        )
    whiten = vectors / np.sqrt(values)
    centre = means.mean(axis=0)  # takes a common offset out before squares are subtracted from each other
    asked, known = (query.features - centre) @ whiten, (means - centre) @ whiten
    squares = np.square(asked).sum(1)[:, None] - 2 * asked @ known.T + np.square(known).sum(1)
    return np.maximum(squares.min(axis=1), 0)


@detector(needs_labels=False)
def sigma(train: Sample, query: Sample, settings: Settings) -> Array:
    """Mean over dimensions of the log standard deviation that ProSMIN's predictor gives the un-augmented image."""
    return query.log_sigma.astype(np.float64)


# --- metrics --------------------------------------------------------------------------------------


def evaluate(id_scores: Array, ood_scores: Array, *, resamples: int, seed: int) -> dict[str, float]:
    """All metrics of one detector: ``auroc`` (with its 95 % interval), ``aupr_ood``, ``aupr_id`` and ``fpr95``.

    id_scores [N] and ood_scores [M]: high = OOD. Raises ``UserError`` for scores that are not finite or absent.
    """
    for name, scores in (("in-distribution", id_scores), ("OOD", ood_scores)):
        if not len(scores):
            raise UserError(f"there are no {name} scores; a test split with at least one image is needed")
        if bad := int((~np.isfinite(scores)).sum()):
            raise UserError(f"{bad} of {len(scores)} {name} scores are NaN or infinite; the encoder may have diverged")
    low, high = auroc_interval(id_scores, ood_scores, resamples=resamples, seed=seed)
    return {
        "auroc": auroc(id_scores, ood_scores),
        "auroc_low": low,
        "auroc_high": high,
        "aupr_ood": average_precision(ood_scores, id_scores),
        "aupr_id": average_precision(-id_scores, -ood_scores),
        "fpr95": fpr95(id_scores, ood_scores),
    }


def auroc(id_scores: Array, ood_scores: Array) -> float:
    """Probability that an OOD score exceeds an ID score, ties counting half (Mann-Whitney U): exact."""
    ordered = np.sort(id_scores)
    below = np.searchsorted(ordered, ood_scores, "left").sum(dtype=np.int64)
    up_to = np.searchsorted(ordered, ood_scores, "right").sum(dtype=np.int64)
    return float((below + up_to) / (2 * len(id_scores) * len(ood_scores)))


def auroc_interval(id_scores: Array, ood_scores: Array, *, resamples: int, seed: int) -> tuple[float, float]:
    """95 % percentile bootstrap of ``auroc``, ID and OOD images resampled apart.

    A resample is a multinomial weight on each image, so that the scores are sorted once and a resample costs two
    cumulative sums. The same seed and counts give the same resamples: intervals of several detectors are paired.
    """
    rng = np.random.default_rng([seed, len(id_scores), len(ood_scores)])
    order = np.argsort(id_scores)
    ordered = id_scores[order]
    below = np.searchsorted(ordered, ood_scores, "left")
    up_to = np.searchsorted(ordered, ood_scores, "right")
    tied = bool((below != up_to).any())
    pairs = len(id_scores) * len(ood_scores)
    found = []
    for start in range(0, resamples, 64):
        count = min(64, resamples - start)
        id_weight = _resample(rng, len(id_scores), count)[order]
        ood_weight = _resample(rng, len(ood_scores), count)
        mass = np.concatenate([np.zeros((1, count)), np.cumsum(id_weight, axis=0)])  # weight of the i lowest ID scores
        beaten = (mass[below] + mass[up_to]) / 2 if tied else mass[below]
        found.append(np.einsum("mr,mr->r", ood_weight, beaten) / pairs)
    low, high = np.quantile(np.concatenate(found), [0.025, 0.975])
    return float(low), float(high)


def _resample(rng: np.random.Generator, images: int, count: int) -> Array:
    """How often each image is drawn in each of ``count`` resamples with replacement [images,count]."""
    drawn = rng.integers(images, size=(images, count)) * count + np.arange(count)
    return np.bincount(drawn.ravel(), minlength=images * count).reshape(images, count).astype(np.float64)


def _rates(positive: Array, negative: Array) -> tuple[Array, Array, Array]:
    """Counts of positives and negatives at or above each distinct score, and the scores, highest first."""
    scores = np.concatenate([positive, negative])
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # the last of each run of ties
    hits = np.cumsum(order < len(positive))[last]
    return hits, last + 1 - hits, scores[order][last]


def average_precision(positive: Array, negative: Array) -> float:
    """Area under the precision-recall curve as the step sum ``sum_n (R_n - R_(n-1)) P_n`` over distinct scores."""
    hits, alarms, _ = _rates(positive, negative)
    return float(np.sum(np.diff(hits, prepend=0) / len(positive) * hits / (hits + alarms)))


def fpr95(id_scores: Array, ood_scores: Array) -> float:
    """Share of OOD accepted as ID at the lowest threshold that accepts at least 95 % of ID (accepted: score <= it)."""
    rank = -(-95 * len(id_scores) // 100)  # ceil(0.95 n) without rounding error
    threshold = np.partition(id_scores, rank - 1)[rank - 1]
    return float(np.mean(ood_scores <= threshold))


def roc_curve(id_scores: Array, ood_scores: Array, points: int = 100) -> tuple[Array, Array]:
    """``fpr`` and ``tpr`` from (0, 0) to (1, 1): vertices of the exact curve, thinned to at most ``points``.

    The vertices kept are spread evenly along the curve's length (in fpr + tpr), so both steep ends stay sharp.
    """
    hits, alarms, _ = _rates(ood_scores, id_scores)
    fpr = np.append(0, alarms) / len(id_scores)
    tpr = np.append(0, hits) / len(ood_scores)
    if len(fpr) > points:
        keep = np.unique(np.searchsorted(fpr + tpr, np.linspace(0, 2, points)).clip(max=len(fpr) - 1))
        keep[-1] = len(fpr) - 1
        fpr, tpr = fpr[keep], tpr[keep]
    return fpr, tpr


def spread(scores: Array, count: int) -> Array:
    """Positions of at most ``count`` images at evenly spaced ranks of their scores, lowest score first."""
    order = np.argsort(scores, kind="stable")
    return order[np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(np.int64)]
