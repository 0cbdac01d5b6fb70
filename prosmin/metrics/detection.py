"""How well a score separates out-of-distribution (OOD) from in-distribution (ID) images, in NumPy.

A score is high where an image looks OOD. OOD is the positive class of ``auroc``, ``aupr_ood`` and
``fpr95_ood``. ID is the positive class of ``aupr_id`` and ``fpr95``. Letters in shapes: N ID
images, M OOD images, R resamples.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from prosmin.common.errors import UserError
from prosmin.common.seeds import generator
from prosmin.metrics import intervals

Array = np.ndarray
Pair = tuple[Array, Array]  # scores of the ID images [N] and of the OOD images [M]
AUROC = intervals.Scale(finest=2)


def evaluate(id_scores: Array, ood_scores: Array, *, resamples: int, seed: int) -> dict[str, float]:
    """All metrics of one detector by name; ``auroc`` with its 95 % interval.

    id_scores [N] and ood_scores [M]: high = OOD.
    Raises ``UserError`` as ``check``.
    """
    return evaluate_all({"": (id_scores, ood_scores)}, resamples=resamples, seed=seed)[""]


def evaluate_all(
    pairs: Mapping[str, Pair], *, resamples: int, seed: int
) -> dict[str, dict[str, float]]:
    """``evaluate`` of several detectors on the same images, which are resampled once for all."""
    for pair in pairs.values():
        check(*pair)
    drawn = auroc_resamples_all(pairs, resamples=resamples, seed=seed)
    return {name: _metrics(*pair, drawn[name]) for name, pair in pairs.items()}


def check(id_scores: Array, ood_scores: Array) -> None:
    """Raise ``UserError`` where there are no scores, or scores that are not finite."""
    for name, scores in (("in-distribution", id_scores), ("OOD", ood_scores)):
        if not len(scores):
            raise UserError(
                f"there are no {name} scores; a test split with at least one image is needed"
            )
        if bad := int((~np.isfinite(scores)).sum()):
            raise UserError(
                f"{bad} of {len(scores)} {name} scores are NaN or infinite; "
                "the encoder may have diverged"
            )


def _metrics(id_scores: Array, ood_scores: Array, drawn: Array) -> dict[str, float]:
    """The metrics of one detector. drawn: its AUROC on each resample, [R]."""
    low, high = _interval(id_scores, ood_scores, drawn)
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
    """Exact probability that an OOD score exceeds an ID score; ties count half (Mann-Whitney U)."""
    ordered = np.sort(id_scores)
    below = np.searchsorted(ordered, ood_scores, "left").sum(dtype=np.int64)
    up_to = np.searchsorted(ordered, ood_scores, "right").sum(dtype=np.int64)
    return float((below + up_to) / (2 * len(id_scores) * len(ood_scores)))


def auroc_interval(
    id_scores: Array, ood_scores: Array, *, resamples: int, seed: int
) -> tuple[float, float]:
    """95 % interval of ``auroc`` by the bootstrap, which resamples ID and OOD images separately."""
    drawn = auroc_resamples(id_scores, ood_scores, resamples=resamples, seed=seed)
    return _interval(id_scores, ood_scores, drawn)


def _interval(id_scores: Array, ood_scores: Array, drawn: Array) -> tuple[float, float]:
    value, images = auroc(id_scores, ood_scores), len(id_scores) + len(ood_scores)
    return intervals.from_resamples(value, drawn, images, AUROC)


def auroc_resamples(id_scores: Array, ood_scores: Array, *, resamples: int, seed: int) -> Array:
    """``auroc`` of each resample, [R].

    The same seed and numbers of images give the same resamples, so intervals of several detectors
    are paired.
    """
    pairs = {"": (id_scores, ood_scores)}
    return auroc_resamples_all(pairs, resamples=resamples, seed=seed)[""]


def auroc_resamples_all(
    pairs: Mapping[str, Pair], *, resamples: int, seed: int
) -> dict[str, Array]:
    """``auroc_resamples`` of several detectors on the same images.

    Drawing takes longer than the AUROCs, so it is done once for all detectors.
    """
    ranked = {name: _Ranked(*pair) for name, pair in pairs.items()}
    drawn: dict[str, list[Array]] = {name: [] for name in pairs}
    for weights in _weights(next(iter(pairs.values())), resamples, seed) if pairs else ():
        for name, scores in ranked.items():
            drawn[name].append(scores.aurocs(*weights))
    return {name: np.concatenate(values) for name, values in drawn.items()}


def _weights(pair: Pair, resamples: int, seed: int) -> Iterable[Pair]:
    """How often each image is drawn, [N, n] and [M, n], of n resamples at a time."""
    sizes = [len(scores) for scores in pair]
    rng = generator(seed, "resamples of two sets", *sizes)
    for start in range(0, resamples, 64):
        count = min(64, resamples - start)
        of_id, of_ood = (intervals.resample_columns(rng, size, count) for size in sizes)
        yield of_id, of_ood


class _Ranked:
    """The scores of a detector, sorted once; a resample then costs one cumulative sum."""

    def __init__(self, id_scores: Array, ood_scores: Array):
        self.order = np.argsort(id_scores)
        ordered = id_scores[self.order]
        self.below = np.searchsorted(ordered, ood_scores, "left")
        self.up_to = np.searchsorted(ordered, ood_scores, "right")
        self.tied = bool((self.below != self.up_to).any())

    def aurocs(self, id_weight: Array, ood_weight: Array) -> Array:
        """AUROC of each resample, [n]. id_weight, ood_weight: of ``_weights``."""
        # mass[i]: weight of the i lowest ID scores.
        mass = np.zeros((len(id_weight) + 1, id_weight.shape[1]))
        np.cumsum(id_weight[self.order], axis=0, out=mass[1:])
        beaten = mass[self.below]
        if self.tied:
            beaten = (beaten + mass[self.up_to]) / 2
        aurocs: Array = np.einsum("mr,mr->r", ood_weight, beaten)
        return aurocs / (len(id_weight) * len(ood_weight))


def _rates(positive: Array, negative: Array) -> tuple[Array, Array, Array]:
    """Numbers of positives and negatives at or above each distinct score, and these scores.

    The highest score comes first.
    """
    scores = np.concatenate([positive, negative])
    order = np.argsort(-scores, kind="stable")
    # The position of the last of equal scores.
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    hits = np.cumsum(order < len(positive))[last]
    return hits, last + 1 - hits, scores[order][last]


def average_precision(positive: Array, negative: Array) -> float:
    """Area under the precision-recall curve: ``sum_n (R_n - R_(n-1)) P_n`` over distinct scores."""
    hits, alarms, _ = _rates(positive, negative)
    return float(np.sum(np.diff(hits, prepend=0) / len(positive) * hits / (hits + alarms)))


def fpr95(id_scores: Array, ood_scores: Array) -> float:
    """Share of OOD images accepted at the lowest threshold that accepts 95 % of ID images.

    An image is accepted where score <= threshold. The threshold accepts at least 95 %. ID is the
    positive class, as in ODIN (Liang et al. 2018) and Energy (Liu et al. 2020).
    """
    rank = -(-95 * len(id_scores) // 100)  # ceil(0.95 n) without rounding error
    threshold = np.partition(id_scores, rank - 1)[rank - 1]
    return float(np.mean(ood_scores <= threshold))


def fpr95_ood(id_scores: Array, ood_scores: Array) -> float:
    """Share of ID images rejected at the highest threshold that rejects 95 % of OOD images.

    An image is rejected where score >= threshold. The threshold rejects at least 95 %. OOD is the
    positive class: OpenOOD calls this number FPR@95, pytorch-ood calls it FPR95TPR.
    """
    return fpr95(-ood_scores, -id_scores)


def roc_curve(id_scores: Array, ood_scores: Array, points: int = 100) -> tuple[Array, Array]:
    """``fpr`` and ``tpr`` from (0, 0) to (1, 1): at most ``points`` vertices of the exact curve.

    The vertices are spread evenly along the length of the curve (in fpr + tpr), so that both steep
    ends stay sharp.
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
    """Positions of at most ``count`` images at evenly spaced ranks, lowest score first."""
    order = np.argsort(scores, kind="stable")
    return order[np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(np.int64)]
