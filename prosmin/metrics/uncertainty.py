"""Does the uncertainty of an encoder mean something? R-AUROC, crop test and agreement with people.

A doubt is a score per image that is high where the encoder is unsure. R-AUROC and the crop test are
those of the URL benchmark (Kirchhof et al., NeurIPS 2023 Datasets and Benchmarks, arXiv
2307.03810). Letters in shapes: N images, C classes, R resamples. ``counts`` [R, N] are resamples as
in ``prosmin.metrics.classification``.
"""

import math

import numpy as np

from prosmin.common.errors import UserError
from prosmin.metrics import calibration, classification, detection
from prosmin.metrics.intervals import PROPORTION, Counts, Scale, on

Array = np.ndarray


def r_auroc(doubt: Array, right: Array) -> float | None:
    """Probability that a wrong nearest neighbour comes with more doubt than a right one.

    Ties count half; 0.5 is chance. None where all neighbours are right or all are wrong.

    doubt: float [N].
    right: bool [N], whether the nearest neighbour of the image is of its class.
    """
    if not 0 < right.sum() < len(right):
        return None
    return detection.auroc(doubt[right], doubt[~right])


def r_auroc_interval(
    doubt: Array, right: Array, bootstrap: int, seed: int
) -> tuple[float | None, float | None]:
    """95 % interval of ``r_auroc``; None where the value is None.

    Images with right and with wrong neighbours are resampled separately. The neighbours stay those
    of the whole set.
    """
    if not 0 < right.sum() < len(right):
        return None, None
    return detection.auroc_interval(doubt[right], doubt[~right], resamples=bootstrap, seed=seed)


@on(PROPORTION)
def share(hits: Array, counts: Counts | None = None) -> "float | np.ndarray":
    """Share of images for which something holds, such as a right nearest neighbour.

    hits: bool [N].
    """
    return classification.mean(hits.astype(np.float64), counts)


def rejection_curve(doubt: Array, right: Array, points: int = 50) -> tuple[Array, Array]:
    """Recall@1 among the images with the least doubt.

    Images of equal doubt count in all their orders, as in ``prosmin.metrics.selective.aurc``.

    doubt: float [N]. right: bool [N].

    Returns:
        kept: share of the images that are kept, float [P], ascending, the last is 1.
        recall: share of right neighbours among the kept images, float [P].
    """
    order = np.argsort(doubt, kind="stable")
    last_of_tie = np.append(np.flatnonzero(np.diff(doubt[order])), len(order) - 1)
    given = np.append(0, last_of_tie + 1)
    hits = np.append(0, np.cumsum(right[order])[last_of_tie])
    count = np.unique(np.ceil(np.linspace(0, len(order), points + 1)[1:]))
    recall: Array = np.interp(count, given, hits) / count
    return count / len(order), recall


# --- agreement with people ------------------------------------------------------------------------


def entropy(distributions: Array) -> Array:
    """Entropy in nats of each row: distributions [N, C] -> [N]."""
    logs = np.log(np.where(distributions > 0, distributions, 1.0))
    values: Array = -(distributions * logs).sum(axis=1)
    return values


# As the NLL of labels (``prosmin.metrics.classification.nll``).
@on(Scale(0.0, math.inf, finest=4, unit=2.5))
def nll_human(
    logits: Array, distributions: Array, counts: Counts | None = None
) -> "float | np.ndarray":
    """Mean cross-entropy in nats of the predicted to the human distribution, [N, C] each.

    It is the NLL of the label of one person drawn at random (Peterson et al., ICCV 2019).
    """
    _check_alike(logits, distributions)
    losses = -(distributions * classification.log_softmax(logits)).sum(axis=1)
    return classification.mean(losses, counts)


@on(Scale(finest=4))
def ece_human(
    probabilities: Array,
    distributions: Array,
    counts: Counts | None = None,
    bins: int = calibration.BINS,
) -> "float | np.ndarray":
    """``prosmin.metrics.calibration.ece`` with the expected accuracy under the human distribution.

    The accuracy of an image is the share of people that chose its top label, in [0, 1], in place of
    0 or 1.
    """
    _check_alike(probabilities, distributions)
    place = probabilities.argmax(axis=1)[:, None]
    confidence, hit = (
        np.take_along_axis(values, place, axis=1)[:, 0] for values in (probabilities, distributions)
    )
    rows = np.ones((1, len(hit))) if counts is None else counts
    errors = calibration.binned_error(confidence, hit, rows, bins)
    return float(errors[0]) if counts is None else errors


def _check_alike(predictions: Array, distributions: Array) -> None:
    """Raise ``UserError`` where predictions and human distributions differ in shape."""
    if predictions.shape != distributions.shape:
        raise UserError(
            f"predictions of shape {predictions.shape} do not go with human distributions of shape "
            f"{distributions.shape}"
        )
