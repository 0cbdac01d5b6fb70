"""The metrics of this package as modules of the library ``evaluate``, for use outside the pipeline.

    from prosmin.metrics import huggingface
    huggingface.ECE().compute(predictions=probabilities, references=labels)  # {"ece": 0.031}
    huggingface.Accuracy().compute(predictions=logits, references=labels, bootstrap=1000, seed=0)
    # {"accuracy": 0.91, "accuracy_low": 0.89, "accuracy_high": 0.93}

Each module takes predictions and references, all at once or by ``add_batch``. Its definition is
that of ``prosmin.metrics.catalogue``. Nothing is downloaded, and samples are kept in memory.
Letters in shapes: N samples, C classes, D dimensions.
"""

import math
from functools import partial
from typing import Any, ClassVar

import evaluate
import numpy as np
from datasets import Features, Sequence, Value

from prosmin.common.errors import UserError
from prosmin.metrics import calibration, classification, detection, selective
from prosmin.metrics.catalogue import entry_of
from prosmin.metrics.intervals import PROPORTION, Counts, Scale, on

CLASSES = {"predictions": Sequence(Value("float64")), "references": Value("int64")}
SCORES = {"predictions": Value("float64"), "references": Value("int64")}
INTERVALS = {"predictions": Sequence(Value("float64")), "references": Sequence(Value("float64"))}


class Module(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """Base class of the modules. The docstring of a module describes its input.

    compute: takes predictions and references. bootstrap: number of resamples behind a 95 %
        interval, 0 for none. seed: of the resamples.
        Raises ``UserError`` for values from which the metric cannot be computed.

    name: key of the value in the result.
    metric: name in ``prosmin.metrics.catalogue``, where it is not ``name``.
    columns: types of the input.
    """

    name: ClassVar[str]
    metric: ClassVar[str] = ""
    columns: ClassVar[dict[str, Any]] = CLASSES
    citation: ClassVar[str] = ""
    measure: ClassVar[Any]

    def __init__(self, **settings: Any):
        super().__init__(**{"keep_in_memory": True} | settings)

    def _info(self) -> evaluate.MetricInfo:
        entry = entry_of(self.metric or self.name)
        return evaluate.MetricInfo(
            description=f"{entry.definition} Range {entry.range}. {type(self).__doc__}",
            citation=self.citation,
            inputs_description=Module.__doc__ or "",
            features=Features(self.columns),
        )

    def _compute(
        self, predictions: Any, references: Any, bootstrap: int = 0, seed: int = 0, **settings: Any
    ) -> dict[str, float]:
        given = np.asarray(predictions), np.asarray(references)
        metric = partial(self.measure, *given, **settings)
        if not bootstrap:
            return {self.name: float(metric(None))}
        return classification.with_intervals({self.name: metric}, len(given[1]), bootstrap, seed)


class Accuracy(Module):
    """Predictions: logits or probabilities [N, C]."""

    name = "accuracy"
    measure = staticmethod(classification.accuracy)


class TopKAccuracy(Module):
    """Predictions: scores [N, C]. ``k`` (default 5) replaces the five."""

    name, metric = "accuracy_top_k", "accuracy_top5"

    @staticmethod
    @on(PROPORTION)
    def measure(
        predictions: np.ndarray, references: np.ndarray, counts: Counts | None, k: int = 5
    ) -> Any:
        """Top-k accuracy on the samples, or on each resample."""
        return classification.top_k_accuracy(predictions, references, k, counts)


class NLL(Module):
    """Predictions: logits or log-probabilities [N, C]. The value is in nats."""

    name = "nll"
    measure = staticmethod(classification.nll)


class Brier(Module):
    """Predictions: probabilities [N, C]."""

    name = "brier"
    citation = "Brier 1950, Verification of forecasts expressed in terms of probability"
    measure = staticmethod(classification.brier)


class ECE(Module):
    """Predictions: probabilities [N, C]."""

    name, citation = "ece", "Guo et al. 2017, On calibration of modern neural networks, eq. 3"
    measure = staticmethod(calibration.ece)


class AdaptiveECE(Module):
    """Predictions: probabilities [N, C]."""

    name = "ece_adaptive"
    citation = "Nguyen & O'Connor 2015; Nixon et al. 2019, Measuring calibration in deep learning"
    measure = staticmethod(calibration.ece_adaptive)


class ClasswiseECE(Module):
    """Predictions: probabilities [N, C]."""

    name, citation = "ece_classwise", "Kull et al. 2019, Beyond temperature scaling, eq. 3"
    measure = staticmethod(calibration.ece_classwise)


class AURC(Module):
    """Predictions: probabilities [N, C]."""

    name, citation = "aurc", "Geifman et al. 2019, Bias-reduced uncertainty estimation, sec. 3"
    measure = staticmethod(selective.aurc)


class OODDetection(Module):
    """Predictions: OOD scores [N], high where a sample looks OOD. References [N]: 1 = OOD, 0 = ID.

    The result also has ``aupr_ood``, ``aupr_id``, ``fpr95`` (ID is the positive class) and
    ``fpr95_ood`` (OOD is the positive class). ``bootstrap`` gives the interval of ``auroc``.
    """

    name, columns = "auroc", SCORES
    citation = (
        "Hendrycks & Gimpel 2017, A baseline for detecting misclassified and out-of-distribution "
        "examples"
    )

    def _compute(
        self, predictions: Any, references: Any, bootstrap: int = 0, seed: int = 0, **settings: Any
    ) -> dict[str, float]:
        scores, positive = np.asarray(predictions, np.float64), np.asarray(references)
        if other := set(np.unique(positive).tolist()) - {0, 1}:
            raise UserError(
                f"references hold {min(other)}; they must be 0 (in distribution) or 1 (OOD)"
            )
        id_scores, ood_scores = scores[positive == 0], scores[positive == 1]
        measured = detection.evaluate(
            id_scores, ood_scores, resamples=max(bootstrap, 1), seed=seed, **settings
        )
        return {
            key: value
            for key, value in measured.items()
            if bootstrap or not key.startswith("auroc_")
        }


class Coverage(Module):
    """Predictions: Gaussians [N, 2 D], D means and then D standard deviations; references [N, D].

    ``level`` (default 0.9): of the central interval. Resamples draw whole rows.
    """

    name, columns = "coverage", INTERVALS

    @staticmethod
    @on(Scale())
    def measure(
        predictions: np.ndarray, references: np.ndarray, counts: Counts | None, level: float = 0.9
    ) -> Any:
        """Coverage of the samples, or of each resample."""
        from scipy.special import ndtri

        if not 0 < level < 1:
            raise UserError(f"level is {level}; it must be between 0 and 1")
        mu, sigma = _gaussians(predictions, references)
        inside = np.abs(references - mu) <= ndtri((1 + level) / 2) * sigma
        return classification.mean(inside.mean(axis=1), counts)


class CRPS(Module):
    """Predictions: Gaussians [N, 2 D], D means and then D standard deviations; references [N, D].

    The value is in the unit of the references. Resamples draw whole rows.
    """

    name, columns = "crps", INTERVALS
    citation = (
        "Gneiting & Raftery 2007, Strictly proper scoring rules, prediction, and estimation, eq. 21"
    )

    @staticmethod
    @on(Scale(0.0, math.inf))
    def measure(predictions: np.ndarray, references: np.ndarray, counts: Counts | None) -> Any:
        """CRPS of the samples, or of each resample."""
        import torch

        from prosmin import scoring

        mu, sigma = _gaussians(predictions, references)
        tensors = [torch.from_numpy(values) for values in (mu, sigma, references)]
        score = scoring.crps(tensors[0], tensors[1], tensors[2]) / 2  # it is twice the CRPS
        return classification.mean(score.numpy().mean(axis=1), counts)


def _gaussians(predictions: np.ndarray, references: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The means and standard deviations [N, D] in predictions [N, 2 D] of references [N, D].

    Raises ``UserError`` for other shapes, numbers that are not finite, and deviations of 0 or less.
    """
    flat = predictions.ndim != 2 or references.ndim != 2
    if flat or predictions.shape[1] != 2 * references.shape[1]:
        raise UserError(
            f"predictions of shape {predictions.shape} for values of shape {references.shape}; "
            "needed: [N, 2 D]"
        )
    if not (np.isfinite(predictions).all() and np.isfinite(references).all()):
        raise UserError("predictions or values are not finite numbers")
    mu, sigma = np.split(predictions, 2, axis=1)
    if sigma.min() <= 0:
        raise UserError(f"a standard deviation is {sigma.min():g}; each must be above 0")
    return mu, sigma


MODULES: tuple[type[Module], ...] = (
    Accuracy,
    TopKAccuracy,
    NLL,
    Brier,
    ECE,
    AdaptiveECE,
    ClasswiseECE,
    AURC,
    OODDetection,
    Coverage,
    CRPS,
)
