"""How well one score tells out-of-distribution (OOD) images from in-distribution (ID) ones, in NumPy.

A score is high where an image looks OOD. OOD is the positive class of ``auroc``, ``aupr_ood`` and ``fpr95_ood``, ID that of
``aupr_id`` and ``fpr95``.
"""

import numpy as np

from prosmin.common.errors import UserError
from prosmin.common.seeds import generator
from prosmin.metrics import intervals

Array = np.ndarray
AUROC = intervals.Scale(finest=2)


def evaluate(id_scores: Array, ood_scores: Array, *, resamples: int, seed: int) -> dict[str, float]:
    """All metrics of one detector: ``auroc`` (with its 95 % interval), ``aupr_ood``, ``aupr_id``, ``fpr95`` and
    ``fpr95_ood``.

    id_scores [N] and ood_scores [M]: high = OOD. Raises ``UserError`` for scores that are not finite or absent.
    """
    for name, scores in (("in-distribution", id_scores), ("OOD", ood_scores)):
        if not len(scores):
            raise UserError(
                f"there are no {name} scores; a test split with at least one image is needed"
            )
        if bad := int((~np.isfinite(scores)).sum()):
            raise UserError(
                f"{bad} of {len(scores)} {name} scores are NaN or infinite; the encoder may have diverged"
            )
    low, high = auroc_interval(id_scores, ood_scores, resamples=resamples, seed=seed)
    return {
        "auroc": auroc(id_scores, ood_scores),
        "auroc_low": low,
        "auroc_high": high,
        "aupr_ood": average_precision(ood_scores, id_scores),
        "aupr_id": average_precision(-id_scores, -ood_scores),
        "fpr95": fpr95(id_scores, ood_scores),
        "fpr95_ood": fpr95_ood(id_scores, ood_scores),
    }


def auroc(id_scores: Array, ood_scores: Array) -> float:
    """Probability that an OOD score exceeds an ID score, ties counting half (Mann-Whitney U): exact."""
    ordered = np.sort(id_scores)
    below = np.searchsorted(ordered, ood_scores, "left").sum(dtype=np.int64)
    up_to = np.searchsorted(ordered, ood_scores, "right").sum(dtype=np.int64)
    return float((below + up_to) / (2 * len(id_scores) * len(ood_scores)))


def auroc_interval(
    id_scores: Array, ood_scores: Array, *, resamples: int, seed: int
) -> tuple[float, float]:
    """95 % interval of ``auroc``: ``prosmin.metrics.intervals`` with the variance of the bootstrap, ID and OOD images resampled apart."""
    drawn = auroc_resamples(id_scores, ood_scores, resamples=resamples, seed=seed)
    value, images = auroc(id_scores, ood_scores), len(id_scores) + len(ood_scores)
    return intervals.from_resamples(value, drawn, images, AUROC)


def auroc_resamples(id_scores: Array, ood_scores: Array, *, resamples: int, seed: int) -> Array:
    """``auroc`` of each resample [R].

    A resample is a multinomial weight on each image, so that the scores are sorted once and a resample costs two
    cumulative sums. The same seed and counts give the same resamples: intervals of several detectors are paired.
    """
    rng = generator(seed, "resamples of two sets", len(id_scores), len(ood_scores))
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
        mass = np.concatenate(
            [np.zeros((1, count)), np.cumsum(id_weight, axis=0)]
        )  # weight of the i lowest ID scores
        beaten = (mass[below] + mass[up_to]) / 2 if tied else mass[below]
        found.append(np.einsum("mr,mr->r", ood_weight, beaten) / pairs)
    return np.concatenate(found)


def _resample(rng: np.random.Generator, images: int, count: int) -> Array:
    """How often each image is drawn in each of ``count`` resamples with replacement [images,count]."""
    drawn = rng.integers(images, size=(images, count)) * count + np.arange(count)
    return (
        np.bincount(drawn.ravel(), minlength=images * count)
        .reshape(images, count)
        .astype(np.float64)
    )


def _rates(positive: Array, negative: Array) -> tuple[Array, Array, Array]:
    """Counts of positives and negatives at or above each distinct score, and the scores, highest first."""
    scores = np.concatenate([positive, negative])
    order = np.argsort(-scores, kind="stable")
    last = np.append(
        np.flatnonzero(np.diff(scores[order])), len(scores) - 1
    )  # the last of each run of ties
    hits = np.cumsum(order < len(positive))[last]
    return hits, last + 1 - hits, scores[order][last]


def average_precision(positive: Array, negative: Array) -> float:
    """Area under the precision-recall curve as the step sum ``sum_n (R_n - R_(n-1)) P_n`` over distinct scores."""
    hits, alarms, _ = _rates(positive, negative)
    return float(np.sum(np.diff(hits, prepend=0) / len(positive) * hits / (hits + alarms)))


def fpr95(id_scores: Array, ood_scores: Array) -> float:
    """Share of OOD accepted as ID at the lowest threshold that accepts at least 95 % of ID (accepted: score <= it).

    ID is the positive class, as in ODIN (Liang et al. 2018) and Energy (Liu et al. 2020).
    """
    rank = -(-95 * len(id_scores) // 100)  # ceil(0.95 n) without rounding error
    threshold = np.partition(id_scores, rank - 1)[rank - 1]
    return float(np.mean(ood_scores <= threshold))


def fpr95_ood(id_scores: Array, ood_scores: Array) -> float:
    """Share of ID rejected as OOD at the highest threshold that rejects at least 95 % of OOD (rejected: score >= it).

    OOD is the positive class: the number that OpenOOD calls FPR@95 and pytorch-ood FPR95TPR.
    """
    return fpr95(-ood_scores, -id_scores)


def roc_curve(id_scores: Array, ood_scores: Array, points: int = 100) -> tuple[Array, Array]:
    """``fpr`` and ``tpr`` from (0, 0) to (1, 1): vertices of the exact curve, thinned to at most ``points``.

    The vertices kept are spread evenly along the curve's length (in fpr + tpr), so both steep ends stay sharp.
    """
    hits, alarms, _ = _rates(ood_scores, id_scores)
    fpr = np.append(0, alarms) / len(id_scores)
    tpr = np.append(0, hits) / len(ood_scores)
    if len(fpr) > points:
        keep = np.unique(
            np.searchsorted(fpr + tpr, np.linspace(0, 2, points)).clip(max=len(fpr) - 1)
        )
        keep[-1] = len(fpr) - 1
        fpr, tpr = fpr[keep], tpr[keep]
    return fpr, tpr


def spread(scores: Array, count: int) -> Array:
    """Positions of at most ``count`` images at evenly spaced ranks of their scores, lowest score first."""
    order = np.argsort(scores, kind="stable")
    return order[np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(np.int64)]
