"""Split conformal prediction: sets of classes that hold the label of 90 % of the images.

A threshold, fitted to images that the classifier has not learned from, decides how many classes an
image needs. The share of images whose set holds their label is then at least the level, for any
classifier and any data, on average over draws of these images and of the images to predict. Both
must come from the same distribution: under a shift nothing is promised.

The score of a class is the sum of the probabilities of more probable classes, with a penalty for
ranks after the fifth: adaptive prediction sets (APS; Romano et al., NeurIPS 2020), regularised
(RAPS; Angelopoulos et al., ICLR 2021, eq. 4). Nothing is drawn at random. Without the random part,
the most probable class has the score 0, so that no set is empty. Where more labels than the level
are the most probable class, the threshold is 0 too: every set is this class alone, and the coverage
is the accuracy. Otherwise the coverage expected of n images behind the threshold is between the
level and the level plus 1 / (n + 1), apart from ties.

``counts`` are those of ``prosmin.metrics.classification``.
"""

import math
from collections.abc import Iterator

import numpy as np

from prosmin.common.compute.backend import chunks, rows_at_once
from prosmin.common.errors import UserError
from prosmin.metrics.classification import Counts, check_predictions, mean
from prosmin.metrics.intervals import PROPORTION, Scale, on

LEVEL = 0.9
# Of RAPS: the penalty of a class per rank after FREE. It keeps sets small where many improbable
# classes share the rest of the probability.
PENALTY, FREE = 0.01, 5


def scores(probabilities: np.ndarray) -> np.ndarray:
    """Compute the score of each class, float64 [N, C], from probabilities [N, C].

    Of equally probable classes the lower class comes first, as in the accuracy.
    """
    order = np.argsort(-probabilities, axis=1, kind="stable")
    ranked = np.take_along_axis(probabilities, order, axis=1).astype(np.float64)
    before = np.zeros_like(ranked)
    np.cumsum(ranked[:, :-1], axis=1, out=before[:, 1:])
    before += PENALTY * np.maximum(np.arange(1, ranked.shape[1] + 1) - FREE, 0)
    result = np.empty_like(before)
    np.put_along_axis(result, order, before, axis=1)
    return result


def fit_threshold(probabilities: np.ndarray, labels: np.ndarray, level: float = LEVEL) -> float:
    """The score up to which classes belong to a set, so that sets cover the level.

    The ceil((n + 1) level)-th smallest score of the n labels (Angelopoulos & Bates 2023, sec. 1);
    infinity, so that sets hold all classes, where there are fewer labels than this number.

    probabilities: ``[N, C]`` of images that the classifier was not fitted to. labels: ``[N]``.
    """
    check_predictions(probabilities, labels, probabilities=True)
    own = np.sort(
        np.concatenate(
            [
                np.take_along_axis(scores(probabilities[rows]), labels[rows, None], axis=1)[:, 0]
                for rows in _parts(probabilities)
            ]
        )
    )
    # Rounded before the ceiling: (9 + 1) 0.9 is 9, but not in floating point for every n and level.
    place = math.ceil(round((len(own) + 1) * level, 9))
    return float(own[place - 1]) if place <= len(own) else math.inf


def prediction_sets(probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """The classes of the set of each image, bool [N, C], from probabilities [N, C]."""
    if math.isnan(threshold) or threshold < 0:
        raise UserError(f"the conformal threshold is {threshold}; it must be at least 0")
    sets = [scores(probabilities[rows]) <= threshold for rows in _parts(probabilities)]
    return np.concatenate(sets)


def _parts(probabilities: np.ndarray) -> Iterator[slice]:
    """Rows whose scores are computed at a time, because the scores of all need much memory."""
    return chunks(len(probabilities), rows_at_once(probabilities.shape[1]))


@on(PROPORTION)
def coverage(
    sets: np.ndarray, labels: np.ndarray, counts: Counts | None = None
) -> "float | np.ndarray":
    """Share of images whose set, bool [N, C], holds their label."""
    return mean(covered(sets, labels).astype(np.float64), counts)


def covered(sets: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Whether the set of each image, bool [N, C], holds its label, bool [N]."""
    check_predictions(sets, labels)
    return np.take_along_axis(sets, labels[:, None], axis=1)[:, 0]


@on(Scale(1.0, math.inf, finest=4))
def size(sizes: np.ndarray, counts: Counts | None = None) -> "float | np.ndarray":
    """Mean of the numbers of classes [N] in the sets of N images, at least 1."""
    return mean(sizes.astype(np.float64), counts)
