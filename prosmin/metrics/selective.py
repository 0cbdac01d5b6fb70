"""Error detection: does the confidence of a classifier separate right from wrong answers?

The classifier answers for its most confident images only. The coverage is the share of images that
it answers for, the risk is the share of errors among these answers. Arguments and ``counts`` are
those of ``prosmin.metrics.classification``.
"""

import numpy as np

from prosmin.metrics.classification import Counts, check_predictions
from prosmin.metrics.intervals import Scale, on

# Within this distance of 1 a probability has too few digits; the sum of the others is more precise.
NEAR = 1e-6


@on(Scale())
def aurc(
    probabilities: np.ndarray, labels: np.ndarray, counts: Counts | None = None
) -> "float | np.ndarray":
    """Area under the risk-coverage curve of the highest probability, in [0, 1]; lower is better.

    The mean over n = 1..N of the share of errors among the n most confident answers (Geifman &
    El-Yaniv 2017; Geifman et al. 2019, sec. 3). For answers of equal confidence the value is the
    mean over all their orders. A confidence without information gives the error rate. Where the
    highest probability is rounded to 1, the sum of the other probabilities keeps the order.
    """
    check_predictions(probabilities, labels, probabilities=True)
    doubt, wrong = _doubt(probabilities), probabilities.argmax(axis=1) != labels
    order = np.argsort(doubt, kind="stable")
    wrong = wrong[order].astype(np.float64)
    last_of_tie = np.append(np.flatnonzero(np.diff(doubt[order])), len(order) - 1)
    values = []
    for row in np.ones((1, len(wrong))) if counts is None else counts:
        # Errors among the first n, mean over the orders of equal confidences: linear in ties.
        weight = row[order]
        given = np.append(0, np.cumsum(weight)[last_of_tie])
        errors = np.append(0, np.cumsum(weight * wrong)[last_of_tie])
        place = np.arange(1, given[-1] + 1)
        values.append(float((np.interp(place, given, errors) / place).mean()))
    return values[0] if counts is None else np.array(values)


def _doubt(probabilities: np.ndarray) -> np.ndarray:
    """1 minus the highest probability, [N] of [N, C]; the sum of the others where this is tiny."""
    place = probabilities.argmax(axis=1)[:, None]
    doubt = 1 - np.take_along_axis(probabilities, place, axis=1)[:, 0].astype(np.float64)
    others = probabilities.astype(np.float64)
    np.put_along_axis(others, place, 0.0, axis=1)
    return np.where(doubt < NEAR, others.sum(axis=1), doubt)
