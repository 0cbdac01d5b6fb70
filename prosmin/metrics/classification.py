"""Classification metrics and their intervals.

Every metric is a function ``metric(predictions, labels, counts=None)``:

- predictions ``[N, C]``: logits or probabilities, as the metric says.
- labels ``[N]`` in ``0..C-1``.
- counts ``[R, N]``: how often each sample is drawn in each of R resamples. The result is then
  ``[R]``, one value per resample. Without counts it is a float, the value on the samples.

With resamples as rows of counts, a thousand evaluations are one matrix product. This holds for the
binned calibration errors of ``prosmin.metrics.calibration`` too. The interval of a metric follows
from its scale, which a decorator declares (``prosmin.metrics.intervals.on``).
"""

import math
from collections.abc import Mapping

import numpy as np

from prosmin.common.compute.backend import chunks, rows_at_once
from prosmin.common.errors import UserError
from prosmin.metrics import intervals
from prosmin.metrics.intervals import PROPORTION, Scale, on
from prosmin.metrics.intervals import Counts as Counts
from prosmin.metrics.intervals import Metric as Metric


def check_predictions(
    predictions: np.ndarray, labels: np.ndarray, probabilities: bool = False
) -> None:
    """Check shapes, finite numbers and the range of labels; there must be a sample.

    probabilities: also check for entries in [0, 1] and rows that sum to 1 (to 1e-4).
    Raises ``UserError``.
    """
    if predictions.ndim != 2 or labels.shape != predictions.shape[:1] or not predictions.size:
        raise UserError(
            f"predictions of shape {predictions.shape} do not go with labels of shape "
            f"{labels.shape}; "
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
    """Log-probabilities ``[N, C]`` of logits ``[N, C]``, float64; finite for finite logits."""
    logs = np.empty(logits.shape)
    for rows in chunks(len(logits), rows_at_once(logits.shape[1])):
        part = logits[rows].astype(np.float64)
        part -= part.max(axis=1, keepdims=True)
        part -= np.log(np.exp(part).sum(axis=1, keepdims=True))
        logs[rows] = part
    return logs


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities ``[N, C]`` of logits ``[N, C]``, in float64."""
    logs = log_softmax(logits)
    probabilities: np.ndarray = np.exp(logs, out=logs)
    return probabilities


def mean(values: np.ndarray, counts: Counts | None = None) -> "float | np.ndarray":
    """Mean of ``values [N]`` over the samples, or over each resample."""
    return float(values.mean()) if counts is None else counts @ values / counts.sum(axis=1)


@on(Scale())
def mean_share(values: np.ndarray, counts: Counts | None = None) -> "float | np.ndarray":
    """``mean`` of values in [0, 1], such as the share of covered targets per image."""
    return mean(values, counts)


@on(PROPORTION)
def accuracy(
    predictions: np.ndarray, labels: np.ndarray, counts: Counts | None = None
) -> "float | np.ndarray":
    """Share of samples whose highest-scored class is the label; ties go to the lower class."""
    check_predictions(predictions, labels)
    return mean((predictions.argmax(axis=1) == labels).astype(np.float64), counts)


@on(PROPORTION)
def top_k_accuracy(
    predictions: np.ndarray, labels: np.ndarray, k: int, counts: Counts | None = None
) -> "float | np.ndarray":
    """Share of samples whose label is among the k highest-scored classes; ties go to lower classes.

    Raises ``UserError`` unless 1 <= k < number of classes. For larger k the share is always 1.
    """
    check_predictions(predictions, labels)
    classes = predictions.shape[1]
    if not 1 <= k < classes:
        raise UserError(
            f"top-{k} accuracy with {classes} classes; k must be at least 1 and below that"
        )
    own = np.take_along_axis(predictions, labels[:, None], axis=1)
    before = np.arange(classes) < labels[:, None]
    rank = (predictions > own).sum(axis=1) + ((predictions == own) & before).sum(axis=1)
    return mean((rank < k).astype(np.float64), counts)


# 2.5 nats: the loss of a wrong answer with a confidence of 92 %.
@on(Scale(0.0, math.inf, finest=4, unit=2.5))
def nll(
    logits: np.ndarray, labels: np.ndarray, counts: Counts | None = None
) -> "float | np.ndarray":
    """Mean negative log-likelihood of the labels in nats, from logits or log-probabilities.

    It takes no probabilities, because a probability that underflows to 0 makes the mean infinite.
    """
    check_predictions(logits, labels)
    return mean(-np.take_along_axis(log_softmax(logits), labels[:, None], axis=1)[:, 0], counts)


@on(Scale(0.0, math.inf, finest=4, unit=2.5))
def mean_loss(losses: np.ndarray, counts: Counts | None = None) -> "float | np.ndarray":
    """``mean`` of negative log-likelihoods ``[N]`` that are known per sample."""
    return mean(losses, counts)


@on(Scale(0.0, 2.0, finest=4))
def brier(
    probabilities: np.ndarray, labels: np.ndarray, counts: Counts | None = None
) -> "float | np.ndarray":
    """Mean over samples of the squared error summed over classes, in [0, 2] (Brier 1950)."""
    check_predictions(probabilities, labels, probabilities=True)
    own = np.take_along_axis(probabilities, labels[:, None], axis=1)[:, 0]
    others = np.einsum("nc,nc->n", probabilities, probabilities) - own**2
    return mean(np.maximum(others, 0) + (1 - own) ** 2, counts)


def with_intervals(
    metrics: Mapping[str, Metric], n: int, bootstrap: int, seed: int, level: float = 0.95
) -> dict[str, float]:
    """``name``, ``name_low`` and ``name_high`` of each metric: its value and its interval.

    The interval covers the draw of n test samples, but neither training nor seeds. It is Wilson's
    for a share of the samples. For other metrics it is that of ``prosmin.metrics.intervals.score``
    with the variance of the bootstrap (Efron & Tibshirani 1993, ch. 6). All metrics see the same
    resamples, and so do two calls with the same n and seed. Thus the encoders of one report are
    compared on the same resamples.

    The interval of a calibration error is around the value expected for n samples, which is larger
    than the limit for many samples: its terms are absolute values, so that a perfectly calibrated
    classifier has an error too.

    metrics: functions of the counts alone, with their data bound by ``functools.partial``.
    bootstrap: number of resamples.
    level: share of test sets for which the interval is to hold.
    """
    scales = {name: intervals.scale_of(metric) for name, metric in metrics.items()}
    resampled = {name: metric for name, metric in metrics.items() if not scales[name].proportion}
    drawn = intervals.on_resamples(resampled, n, bootstrap, seed)
    result: dict[str, float] = {}
    for name, metric in metrics.items():
        value, scale = float(metric(None)), scales[name]
        if scale.proportion:
            low, high = intervals.wilson(value, n, level)
        else:
            low, high = intervals.from_resamples(value, drawn[name], n, scale, level)
        result |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return result
