"""Out-of-distribution detectors on saved features, in NumPy.

A detector is one function ``(train, query, settings) -> scores``, registered by ``@detector``; a score is high
where a query looks out of distribution (OOD). ``score_all`` applies all that the samples allow. How well scores tell
OOD from ID is for ``prosmin.metrics.detection``.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from prosmin.common.errors import ConfigError, UserError
from prosmin.common.seeds import drawn

Array = np.ndarray
BLOCK = 2**24  # distances held at once by the k-NN search: 64 MB in float32
HELD_OUT = 2000  # training images, a fifth of them at most, that scores are standardised on


@dataclass(frozen=True)
class Sample:
    """What is known of N images: ``features`` [N,F] and, where there are any, predicted mean ``log_sigma`` [N], the
    linear probe's ``logits`` [N,C] and ``labels`` [N] (-1 = none).

    head: of training images, the probe as weight [C,F] and bias [C] of the map from features to logits.
    Raises ``UserError`` for features that are not finite.
    """

    features: Array
    log_sigma: Array | None = None
    logits: Array | None = None
    labels: Array | None = None
    head: tuple[Array, Array] | None = None

    def __post_init__(self) -> None:
        if broken := int((~np.isfinite(self.features)).any(axis=1).sum()):
            count = f"{broken} of {len(self.features)} images"
            raise UserError(
                f"the features of {count} are NaN or infinite; the encoder may have diverged"
            )

    def rows(self, chosen: Array) -> "Sample":
        """The sample of these images alone."""
        names = ("features", "log_sigma", "logits", "labels")
        return replace(
            self,
            **{
                name: None if getattr(self, name) is None else getattr(self, name)[chosen]
                for name in names
            },
        )


@dataclass(frozen=True)
class Settings:
    """k: which neighbour's distance; temperature: of the energy; shrinkage: of the covariances, [0, 1); vim_dim: of
    ViM's principal space, None for half of the features; seed: of the training images that ``combined`` holds out."""

    k: int = 10
    temperature: float = 1.0
    shrinkage: float = 0.1
    vim_dim: int | None = None
    seed: int = 0


Score = Callable[[Sample, Sample, Settings], Array]


@dataclass(frozen=True)
class Detector:
    """of_train, of_query: fields of the two samples that it reads beside the features."""

    score: Score
    of_train: tuple[str, ...]
    of_query: tuple[str, ...]

    def allowed(self, train: Sample, query: Sample) -> bool:
        pairs = [(train, name) for name in self.of_train] + [
            (query, name) for name in self.of_query
        ]
        return all(getattr(sample, name) is not None for sample, name in pairs)


DETECTORS: dict[str, Detector] = {}

# The largest of several standardised scores; their logarithms are standardised, which log sigma is already.
COMBINED = {"combined": ("knn", "mahalanobis"), "combined_sigma": ("knn", "mahalanobis", "sigma")}


def detector(
    *, of_train: tuple[str, ...] = (), of_query: tuple[str, ...] = ()
) -> Callable[[Score], Score]:
    """Register a detector under its function's name."""

    def register(score: Score) -> Score:
        DETECTORS[score.__name__] = Detector(score, of_train, of_query)
        return score

    return register


def score_all(train: Sample, query: Sample, settings: Settings) -> dict[str, Array]:
    """Scores [N] of the query by every detector whose fields the samples have, the combined ones last."""
    scores = {
        name: each.score(train, query, settings)
        for name, each in DETECTORS.items()
        if each.allowed(train, query)
    }
    return scores | combined(scores, train, settings)


def combined(scores: dict[str, Array], train: Sample, settings: Settings) -> dict[str, Array]:
    """The scores of ``COMBINED`` whose parts are among ``scores``: the largest z-score of the parts' logarithms.

    Mean and spread of each part are those of held-out training images, a fifth or fewer (``HELD_OUT``) drawn at random,
    scored by the detector that is fitted to the others: of its own training images a detector thinks too well. No OOD
    image has a say, and none of the test images.
    """
    parts = {part for names in COMBINED.values() for part in names if part in scores}
    count = len(train.features)
    held = np.zeros(count, bool)
    held[drawn(count, max(1, min(count // 5, HELD_OUT)), settings.seed, "held out of combined")] = (
        True
    )
    rest, reference = train.rows(~held), train.rows(held)
    settings = replace(settings, k=min(settings.k, len(rest.features)))
    standard = {}
    for part in parts:
        if DETECTORS[part].allowed(rest, reference):
            known = _logarithm(part, DETECTORS[part].score(rest, reference, settings))
            spread = known.std() or 1.0
            standard[part] = (_logarithm(part, scores[part]) - known.mean()) / spread
    return {
        name: np.maximum.reduce([standard[part] for part in names])
        for name, names in COMBINED.items()
        if all(part in standard for part in names)
    }


def _logarithm(part: str, scores: Array) -> Array:
    return scores if part == "sigma" else np.log(np.maximum(scores, 1e-12))


# --- from the probe's logits ----------------------------------------------------------------------


def _below_top(logits: Array) -> Array:
    """Logits [N,C] less the largest of each image, in float64."""
    logits = logits.astype(np.float64)
    return logits - logits.max(axis=1, keepdims=True)


def _logsumexp(logits: Array) -> Array:
    """[N] of [N,C], to the last digit also where one class has nearly all."""
    place = logits.argmax(axis=1)[:, None]
    top = np.take_along_axis(logits, place, axis=1)
    rest = np.exp(logits - top)
    np.put_along_axis(rest, place, 0.0, axis=1)
    return top[:, 0] + np.log1p(rest.sum(axis=1))


@detector(of_query=("logits",))
def msp(train: Sample, query: Sample, settings: Settings) -> Array:
    """log(1 - p) of the maximum softmax probability p, in the order of -p (Hendrycks and Gimpel 2017).

    p itself rounds to 1 where the probe is sure, from a margin of 37 on even in float64; what the other classes have does not.
    """
    below = _below_top(query.logits)
    others = np.sort(below, axis=1)[:, :-1]  # all but the top one, which is 0
    return _logsumexp(others) - _logsumexp(below)


@detector(of_query=("logits",))
def max_logit(train: Sample, query: Sample, settings: Settings) -> Array:
    """Negative largest logit (Hendrycks et al., ICML 2022, sec. 3)."""
    return -query.logits.max(axis=1).astype(np.float64)


@detector(of_query=("logits",))
def entropy(train: Sample, query: Sample, settings: Settings) -> Array:
    """Shannon entropy of the softmax probabilities, nats, in [0, log C]."""
    below = _below_top(query.logits)
    total = _logsumexp(below)
    return total - (np.exp(below - total[:, None]) * below).sum(
        axis=1
    )  # terms of one sign: nothing cancels


@detector(of_query=("logits",))
def energy(train: Sample, query: Sample, settings: Settings) -> Array:
    """Free energy ``-T logsumexp(logits / T)`` (Liu et al. 2020, eq. 3)."""
    return -settings.temperature * _logsumexp(
        query.logits.astype(np.float64) / settings.temperature
    )


# --- from the features ----------------------------------------------------------------------------


@detector()
def knn(train: Sample, query: Sample, settings: Settings) -> Array:
    """Euclidean distance to the k-th nearest L2-normalised training feature (Sun et al. 2022), in [0, 2].

    Neighbours are searched by squared distances between vectors centred on the training mean, and the distance is
    taken from the difference of the two vectors: ``sqrt(2 - 2 cos)`` has no digits left in float32 where features
    lie within 1e-3 of each other, as those of a self-supervised encoder with a large common mean do.
    """
    count = len(train.features)
    if settings.k > count:
        raise ConfigError(
            "k", settings.k, f"there are {count} training features; allowed: at most that many"
        )
    known, asked = _unit(train.features), _unit(query.features)
    centre = known.mean(axis=0)
    known, asked = known - centre, asked - centre
    half_square = np.square(known).sum(axis=1) / 2
    scores = np.empty(len(asked))
    rows = max(1, BLOCK // count)
    for start in range(0, len(asked), rows):
        block = asked[start : start + rows]
        order = (
            half_square - block @ known.T
        )  # half the squared distance, less a constant of the row
        nearest = np.argpartition(order, settings.k - 1, axis=1)[:, settings.k - 1]
        scores[start : start + rows] = np.linalg.norm(
            (block - known[nearest]).astype(np.float64), axis=1
        )
    return scores


def _unit(features: Array) -> Array:
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


@detector(of_train=("labels",))
def mahalanobis(train: Sample, query: Sample, settings: Settings) -> Array:
    """Least squared Mahalanobis distance to a class mean, one covariance for all classes (Lee et al. 2018, eq. 1-2).

    The covariance (maximum likelihood, around the class means) is shrunk towards its mean variance v:
    ``(1 - shrinkage) S + shrinkage v I``. Raises ``ConfigError`` where it cannot be inverted all the same.
    """
    return _to_classes(train, query, settings.shrinkage)


@detector(of_train=("labels",))
def relative_mahalanobis(train: Sample, query: Sample, settings: Settings) -> Array:
    """``mahalanobis`` less the squared distance to the mean of all classes under their whole covariance.

    Ren et al. 2021 (arXiv 2106.09022), eq. 2. Both covariances are shrunk as for ``mahalanobis``.
    """
    known = train.features[train.labels >= 0].astype(np.float64)
    centre = known.mean(axis=0)
    asked = (query.features - centre) @ _whitening(known - centre, settings.shrinkage)
    return _to_classes(train, query, settings.shrinkage) - np.square(asked).sum(axis=1)


def _to_classes(train: Sample, query: Sample, shrinkage: float) -> Array:
    """Squared Mahalanobis distance [N] to the nearest class mean."""
    labelled = train.labels >= 0
    labels, features = train.labels[labelled], train.features[labelled].astype(np.float64)
    classes, position = np.unique(labels, return_inverse=True)
    means = np.stack([features[labels == each].mean(axis=0) for each in classes])
    whiten = _whitening(features - means[position], shrinkage)
    centre = means.mean(
        axis=0
    )  # takes a common offset out before squares are subtracted from each other
    asked, known = (query.features - centre) @ whiten, (means - centre) @ whiten
    squares = np.square(asked).sum(1)[:, None] - 2 * asked @ known.T + np.square(known).sum(1)
    return np.maximum(squares.min(axis=1), 0)


def _whitening(residual: Array, shrinkage: float) -> Array:
    """[F,F]: what takes the shrunk covariance of centred ``residual`` [N,F] to the identity, from the right."""
    covariance = residual.T @ residual / len(residual)
    size = len(covariance)
    covariance *= 1 - shrinkage
    covariance[np.diag_indices(size)] += shrinkage * np.mean(np.square(residual))
    values, vectors = np.linalg.eigh(covariance)
    if values[0] <= values[-1] * size * np.finfo(np.float64).eps:
        raise ConfigError(
            "shrinkage",
            shrinkage,
            f"the covariance of the {size} features over {len(residual)} training images cannot be inverted; "
            "raise it, or see whether the encoder has collapsed",
        )
    return vectors / np.sqrt(values)


@detector(of_train=("head",), of_query=("logits",))
def vim(train: Sample, query: Sample, settings: Settings) -> Array:
    """Virtual-logit matching (Wang et al., CVPR 2022, eq. 5-7): a residual against the logits.

    Features are centred where all logits would be 0, ``-pinv(weight) bias``. The residual is what lies outside the
    principal space, the ``vim_dim`` leading directions of the training features there; it is scaled so that its mean
    over the training images is that of their largest logit, and the log-sum-exp of the logits is subtracted.
    """
    size = train.features.shape[1]
    dim = size // 2 if settings.vim_dim is None else settings.vim_dim
    if not dim < size:
        raise ConfigError(
            "vim_dim", dim, f"there are {size} features; allowed: fewer than that, or null for half"
        )
    weight, bias = (each.astype(np.float64) for each in train.head)
    known = train.features.astype(np.float64)
    origin = -np.linalg.pinv(weight) @ bias
    logits, known = known @ weight.T + bias, known - origin
    _, vectors = np.linalg.eigh(known.T @ known / len(known))
    outside = vectors[:, : size - dim]  # eigenvalues ascend
    residual = np.linalg.norm(known @ outside, axis=1).mean()
    scale = logits.max(axis=1).mean() / residual if residual > 0 else 0.0
    virtual = scale * np.linalg.norm((query.features - origin) @ outside, axis=1)
    return virtual - _logsumexp(query.logits.astype(np.float64))


# --- from the prediction --------------------------------------------------------------------------


@detector(of_query=("log_sigma",))
def sigma(train: Sample, query: Sample, settings: Settings) -> Array:
    """Mean over dimensions of the log standard deviation that ProSMIN's predictor gives the un-augmented image."""
    return query.log_sigma.astype(np.float64)
