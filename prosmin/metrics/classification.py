"""Classification metrics and their intervals.

Every metric is a function ``metric(predictions, labels, counts=None)``:

- predictions ``[N, C]``: logits or probabilities, as the metric says; labels ``[N]`` in ``0..C-1``;
- counts ``[R, N]`` or None: how often each sample stands in each of R resamples. The answer is then ``[R]``,
  one value a resample; without counts it is a float, the value on the samples as they are.

A resample as a row of counts turns a thousand re-evaluations into one matrix product, for the binned
calibration errors of ``prosmin.metrics.calibration`` as well. Conventions: docs/evaluation.md. Each metric says on which scale it is
(``prosmin.metrics.intervals.on``), from which its interval follows.
"""

import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from prosmin.common.errors import UserError
from prosmin.common.seeds import generator
from prosmin.metrics import intervals
from prosmin.metrics.intervals import PROPORTION, Scale, on

Counts = np.ndarray
Metric = Callable[[Counts | None], "float | np.ndarray"]

# Entries of a block of resampling counts: 32 MB of float64, which bounds the memory for any N.
_BLOCK = 2**22


def check_predictions(
    predictions: np.ndarray, labels: np.ndarray, probabilities: bool = False
) -> None:
    """Refuse what no metric can be computed from: wrong shapes, no samples, NaN, labels outside the classes.

    probabilities: also ask for entries in [0, 1] and rows that sum to 1 (to 1e-4).
    Raises ``UserError``.
    """
    if predictions.ndim != 2 or labels.shape != predictions.shape[:1] or not predictions.size:
        raise UserError(
            f"predictions of shape {predictions.shape} do not go with labels of shape {labels.shape}; "
            "a metric needs predictions [N, C] and labels [N] with N and C at least 1"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise UserError(
            f"labels are {labels.dtype}; they must be integers from 0 to {predictions.shape[1] - 1}"
        )
    broken = int((~np.isfinite(predictions)).any(axis=1).sum())
    if broken:
        raise UserError(
            f"the predictions of {broken} of {len(labels)} samples are not finite numbers"
        )
    if labels.min() < 0 or labels.max() >= predictions.shape[1]:
        outside = labels.min() if labels.min() < 0 else labels.max()
        raise UserError(
            f"label {outside} is not one of the {predictions.shape[1]} classes predicted"
        )
    if probabilities and (
        predictions.min() < 0 or np.abs(predictions.sum(axis=1) - 1).max() > 1e-4
    ):
        raise UserError(
            "the predictions are not probabilities: each row must be at least 0 and sum to 1"
        )


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities ``[N, C]`` of logits ``[N, C]``, in float64; finite for any finite logits."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities ``[N, C]`` of logits ``[N, C]``, in float64."""
    return np.exp(log_softmax(logits))


def mean(values: np.ndarray, counts: Counts | None = None) -> "float | np.ndarray":
    """Mean of ``values [N]`` over the samples, or over each resample."""
    return float(values.mean()) if counts is None else counts @ values / counts.sum(axis=1)


@on(Scale())
def mean_share(values: np.ndarray, counts: Counts | None = None) -> "float | np.ndarray":
    """``mean`` of values in [0, 1], such as the share of an image's targets for which something holds."""
    return mean(values, counts)


@on(PROPORTION)
def accuracy(
    predictions: np.ndarray, labels: np.ndarray, counts: Counts | None = None
) -> "float | np.ndarray":
    """Share of samples whose highest-scored class is the label, in [0, 1]. A tie goes to the lower class."""
    check_predictions(predictions, labels)
    return mean((predictions.argmax(axis=1) == labels).astype(np.float64), counts)


@on(PROPORTION)
def top_k_accuracy(
    predictions: np.ndarray, labels: np.ndarray, k: int, counts: Counts | None = None
) -> "float | np.ndarray":
    """Share of samples whose label is among the k highest-scored classes, in [0, 1]. Ties go to lower classes.

    Raises ``UserError`` unless k is at least 1 and below the number of classes (above, it is always 1).
    """
    check_predictions(predictions, labels)
    if not 1 <= k < predictions.shape[1]:
        raise UserError(
            f"top-{k} accuracy with {predictions.shape[1]} classes; k must be at least 1 and below that"
        )
    own = np.take_along_axis(predictions, labels[:, None], axis=1)
    before = np.arange(predictions.shape[1]) < labels[:, None]
    rank = (predictions > own).sum(axis=1) + ((predictions == own) & before).sum(axis=1)
    return mean((rank < k).astype(np.float64), counts)


# 2.5 nats: the loss of a wrong answer given at a confidence of 92 %.
@on(Scale(0.0, math.inf, finest=4, unit=2.5))
def nll(
    logits: np.ndarray, labels: np.ndarray, counts: Counts | None = None
) -> "float | np.ndarray":
    """Mean negative log-likelihood of the labels in nats, from logits (log-probabilities are logits too).

    It takes no probabilities, because one that underflows to 0 makes the mean infinite.
    """
    check_predictions(logits, labels)
    return mean(-np.take_along_axis(log_softmax(logits), labels[:, None], axis=1)[:, 0], counts)


@on(Scale(0.0, 2.0, finest=4))
def brier(
    probabilities: np.ndarray, labels: np.ndarray, counts: Counts | None = None
) -> "float | np.ndarray":
    """Mean over samples of the squared error summed over classes, in [0, 2] (Brier 1950, in its original form)."""
    check_predictions(probabilities, labels, probabilities=True)
    return mean(((probabilities - np.eye(probabilities.shape[1])[labels]) ** 2).sum(axis=1), counts)


def resamples(n: int, count: int, seed: int) -> Iterator[Counts]:
    """``count`` bootstrap resamples of n samples, as blocks of counts ``[R, n]`` (float64) whose rows sum to n."""
    rng = generator(seed, "resamples", n)
    rows = max(1, _BLOCK // n)
    for start in range(0, count, rows):
        size = min(rows, count - start)
        drawn = rng.integers(0, n, size=(size, n)) + n * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)


def with_intervals(
    metrics: Mapping[str, Metric], n: int, bootstrap: int, seed: int, level: float = 0.95
) -> dict[str, float]:
    """``name``, ``name_low`` and ``name_high`` for each metric: its value and an interval.

    It covers the sampling of n test samples, and neither training nor seeds: for a share of the samples Wilson's, for other
    metrics that of ``prosmin.metrics.intervals.score`` with the variance of the bootstrap (Efron & Tibshirani 1993, ch. 6). All
    metrics see the same resamples, and so do two calls with the same n and seed: the encoders of one report are compared on
    the same resamples.

    Of a calibration error it covers what n samples are expected to show, which is more than the limit of many: the terms are
    absolute values, so a classifier that is perfectly calibrated shows an error too.

    metrics: functions of the counts alone; the data are bound by ``functools.partial``.
    bootstrap: number of resamples. level: share that the interval covers.
    """
    scales = {name: intervals.scale_of(metric) for name, metric in metrics.items()}
    resampled = {name: metric for name, metric in metrics.items() if not scales[name].proportion}
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in metrics}
    for counts in resamples(n, bootstrap, seed) if resampled else ():
        for name, metric in resampled.items():
            drawn[name].append(np.asarray(metric(counts)))
    result = {}
    for name, metric in metrics.items():
        value, scale = float(metric(None)), scales[name]
        if scale.proportion:
            low, high = intervals.wilson(value, n, level)
        else:
            low, high = intervals.from_resamples(
                value, np.concatenate(drawn[name]), n, scale, level
            )
        result |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return result
