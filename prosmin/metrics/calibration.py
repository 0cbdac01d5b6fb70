"""Calibration errors, the difference of confidence and accuracy, and temperature scaling.

Libraries differ in what they call "adaptive" and "class-wise", so the functions here give their
formulas. Arguments and ``counts`` are those of ``prosmin.metrics.classification``.
"""

import logging

import numpy as np

from prosmin.metrics.classification import Counts, check_predictions, log_softmax
from prosmin.metrics.intervals import Scale, on

BINS = 15

# A temperature outside means that the held-out predictions are all right or at chance level.
TEMPERATURES = (0.05, 20.0)

log = logging.getLogger(__name__)


def _equal_width(confidence: np.ndarray, bins: int) -> np.ndarray:
    """Bin of each confidence: bin b holds (b/bins, (b+1)/bins]; bin 0 also holds 0."""
    return np.clip(
        np.searchsorted(np.linspace(0, 1, bins + 1), confidence, side="left") - 1, 0, bins - 1
    )


def _top_label(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Highest probability ``[N]``, and whether its class is the label ``[N]``.

    Ties go to the lower class.
    """
    check_predictions(probabilities, labels, probabilities=True)
    return probabilities.max(axis=1), (probabilities.argmax(axis=1) == labels).astype(np.float64)


def binned_error(confidence: np.ndarray, hit: np.ndarray, counts: Counts, bins: int) -> np.ndarray:
    """``[R]``: sum over equal-width bins of |sum of (confidence - hit)| / N."""
    cells = np.zeros((len(hit), bins))
    cells[np.arange(len(hit)), _equal_width(confidence, bins)] = confidence - hit
    errors: np.ndarray = np.abs(counts @ cells).sum(axis=1) / counts.sum(axis=1)
    return errors


def _as_asked(values: np.ndarray, counts: Counts | None) -> "float | np.ndarray":
    """A float where no resamples were given, else one value per resample."""
    return float(values[0]) if counts is None else values


def _rows(counts: Counts | None, n: int) -> Counts:
    """The resamples, or every sample once."""
    return np.ones((1, n)) if counts is None else counts


@on(Scale(finest=4))
def ece(
    probabilities: np.ndarray, labels: np.ndarray, counts: Counts | None = None, bins: int = BINS
) -> "float | np.ndarray":
    """Expected calibration error of the top label over equal-width bins, in [0, 1].

    sum_b (n_b / N) |mean confidence - accuracy| over bins (b/15, (b+1)/15] of the highest
    probability (Guo et al. 2017, eq. 3).
    """
    confidence, hit = _top_label(probabilities, labels)
    return _as_asked(binned_error(confidence, hit, _rows(counts, len(hit)), bins), counts)


@on(Scale(finest=4))
def ece_of_conditions(
    confidence: np.ndarray, hit: np.ndarray, counts: Counts | None = None, bins: int = BINS
) -> "float | np.ndarray":
    """Mean of ``ece`` over K conditions of the same images, such as corruptions.

    confidence: highest probability, [K, N]. hit: whether its class is the label, bool [K, N].
    """
    rows = _rows(counts, hit.shape[1])
    pairs = zip(confidence.astype(np.float64), hit.astype(np.float64), strict=True)
    errors = [binned_error(*pair, rows, bins) for pair in pairs]
    return _as_asked(np.mean(errors, axis=0), counts)


@on(Scale(finest=4))
def ece_adaptive(
    probabilities: np.ndarray, labels: np.ndarray, counts: Counts | None = None, bins: int = BINS
) -> "float | np.ndarray":
    """Expected calibration error of the top label over equal-mass bins, in [0, 1].

    Samples are sorted by confidence and divided into bins of N/bins samples (Nguyen & O'Connor
    2015; the adaptive error of Nixon et al. 2019 is over all classes). The result does not depend
    on the order of the samples, in contrast to other libraries. Where N/bins is not a whole number,
    two bins share the sample on their edge. Of samples with equal confidence, every bin takes its
    share of the mean. With fewer samples than bins the error is the mean of |confidence - hit|.
    """
    confidence, hit = _top_label(probabilities, labels)
    order = np.argsort(confidence, kind="stable")
    gap = (confidence - hit)[order]
    last_of_tie = np.append(np.flatnonzero(np.diff(confidence[order])), len(order) - 1)
    values = []
    for row in _rows(counts, len(hit)):
        # The cumulative sum of the gaps as a function of the cumulative weight, linear within ties:
        # its increase over a bin is the sum of the gaps in the bin.
        weight = row[order]
        mass = np.append(0, np.cumsum(weight)[last_of_tie])
        risen = np.append(0, np.cumsum(weight * gap)[last_of_tie])
        edges = np.interp(np.linspace(0, mass[-1], bins + 1), mass, risen)
        values.append(np.abs(np.diff(edges)).sum() / mass[-1])
    return _as_asked(np.array(values), counts)


class ClasswiseBins:
    """The bins of ``ece_classwise``, filled once for many resamples.

    Of C probabilities per sample fewer than ``bins`` lie above the first bin, so these are kept as
    a sparse matrix. The first bin is one product with all probabilities, less its excess.
    """

    def __init__(self, probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS):
        from scipy.sparse import csr_array

        check_predictions(probabilities, labels, probabilities=True)
        n, classes = probabilities.shape
        self.probabilities, self.classes, self.bins = probabilities, classes, bins
        above = probabilities > np.linspace(0, 1, bins + 1)[1]
        row, column = np.nonzero(above)
        confidence = probabilities[row, column]
        low = np.flatnonzero(~above[np.arange(n), labels])  # samples whose label is in bin 0
        cells = (  # row, cell and sum of (confidence - hit)
            (
                row,
                column * bins + _equal_width(confidence, bins),
                confidence - (labels[row] == column),
            ),
            (row, column * bins, -confidence),
            (low, labels[low] * bins, np.full(len(low), -1.0)),
        )
        rows, places, gaps = (np.concatenate(parts) for parts in zip(*cells, strict=True))
        self.gaps = csr_array((gaps, (rows, places)), shape=(n, classes * bins))

    def errors(self, counts: Counts) -> np.ndarray:
        """``ece_classwise`` of each resample, ``[R]`` of counts ``[R, N]``."""
        sums = np.ascontiguousarray(counts @ self.gaps).reshape(-1, self.classes, self.bins)
        sums[:, :, 0] += counts @ self.probabilities
        errors: np.ndarray = np.abs(sums).sum(axis=(1, 2)) / (self.classes * counts.sum(axis=1))
        return errors


def _classwise_scale(classes: int) -> Scale:
    """The probabilities of two classes can be wrong by 1 for one image: at most 2 / classes."""
    return Scale(0.0, 2 / classes, finest=4)


@on(lambda probabilities: _classwise_scale(probabilities.shape[1]))
def ece_classwise(
    probabilities: np.ndarray, labels: np.ndarray, counts: Counts | None = None, bins: int = BINS
) -> "float | np.ndarray":
    """Mean over classes c of the equal-width calibration error of p_c for "the label is c".

    In [0, 1]. The "classwise-ECE" of Kull et al. 2019, eq. 3, and the static calibration error of
    Nixon et al. 2019. For many resamples, ``binned_ece_classwise`` fills the bins once.
    """
    return binned_ece_classwise(ClasswiseBins(probabilities, labels, bins), counts)


@on(lambda binned: _classwise_scale(binned.classes))
def binned_ece_classwise(
    binned: ClasswiseBins, counts: Counts | None = None
) -> "float | np.ndarray":
    """``ece_classwise`` of bins that are filled."""
    return _as_asked(binned.errors(_rows(counts, len(binned.probabilities))), counts)


def reliability(
    probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS
) -> list[tuple[float, float, float, float, int]]:
    """The reliability diagram: (low, high, mean confidence, accuracy, count) per equal-width bin.

    It is of the top label, as in ``ece``. Empty bins are left out.
    """
    confidence, hit = _top_label(probabilities, labels)
    place, edges, rows = _equal_width(confidence, bins), np.linspace(0, 1, bins + 1).tolist(), []
    for b in np.unique(place):
        inside = place == b
        mean = (float(confidence[inside].mean()), float(hit[inside].mean()))
        rows.append((edges[b], edges[b + 1], *mean, int(inside.sum())))
    return rows


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The T that minimises the NLL of ``softmax(logits / T)`` (Guo et al. 2017, sec. 4.2).

    The NLL is convex in 1/T, so T is the root of its slope. There is no root in ``TEMPERATURES``
    where all predictions are right (T to 0) or at chance level (T to infinity). Then the nearer
    bound is returned and a warning is logged. Where the logits are constant over classes, T is 1.

    logits: ``[N, C]`` of samples to which the classifier was not fitted.
    labels: ``[N]``.
    """
    from scipy.optimize import brentq

    check_predictions(logits, labels)
    logits = logits.astype(np.float64)
    own = np.take_along_axis(logits, labels[:, None], axis=1)[:, 0]

    def slope(inverse: float) -> float:
        """Slope of the mean NLL in 1/T: mean expected logit minus mean logit of the label."""
        return float(((np.exp(log_softmax(logits * inverse)) * logits).sum(axis=1) - own).mean())

    if not np.ptp(logits, axis=1).any():
        return 1.0
    lowest, highest = TEMPERATURES
    for bound, beyond in ((highest, slope(1 / highest) >= 0), (lowest, slope(1 / lowest) <= 0)):
        if beyond:
            log.warning(
                "no temperature from %g to %g fits the held-out samples; %g is used",
                *TEMPERATURES,
                bound,
            )
            return bound
    return 1 / float(brentq(slope, 1 / highest, 1 / lowest, xtol=1e-12, rtol=1e-12))
