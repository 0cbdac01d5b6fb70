"""The metrics of this package as modules of the library ``evaluate``, for use outside the pipeline.

    from prosmin import hf
    hf.ECE().compute(predictions=probabilities, references=labels)             # {"ece": 0.031}
    hf.Accuracy().compute(predictions=logits, references=labels, bootstrap=1000, seed=0)
    # {"accuracy": 0.91, "accuracy_low": 0.89, "accuracy_high": 0.93}

Each takes predictions and references, all at once or by ``add_batch``, and gives what docs/evaluation.md defines under that
name. Nothing is fetched, and samples are kept in memory. Letters in shapes: N samples, C classes, D dimensions.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import evaluate
import numpy as np
from datasets import Features, Sequence, Value

from prosmin.common.errors import UserError
from prosmin.metrics import calibration, classification, detection, selective
from prosmin.metrics.intervals import PROPORTION, Scale, on

CLASSES = {"predictions": Sequence(Value("float64")), "references": Value("int64")}
SCORES = {"predictions": Value("float64"), "references": Value("int64")}
INTERVALS = {"predictions": Sequence(Value("float64")), "references": Sequence(Value("float64"))}


class Module(evaluate.Metric):
    """What the modules share. A subclass has a ``name``, the ``columns`` of its input and a ``measure``.

    compute: predictions, references, and where the module takes them, bootstrap, the number of resamples behind a 95 %
    interval (0: none), and seed. Raises ``UserError`` for values from which the metric cannot be computed.
    """

    name: str
    columns: dict[str, Any] = CLASSES
    citation: str = ""

    def __init__(self, **settings: Any):
        super().__init__(**{"keep_in_memory": True} | settings)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=type(self).__doc__ or "",
            citation=self.citation,
            inputs_description=Module.__doc__ or "",
            features=Features(self.columns),
        )

    def measure(
        self, predictions: np.ndarray, references: np.ndarray, counts: classification.Counts | None
    ) -> Any:
        raise NotImplementedError

    def _compute(
        self, predictions: Any, references: Any, bootstrap: int = 0, seed: int = 0, **settings: Any
    ) -> dict[str, float]:
        given = [np.asarray(each) for each in (predictions, references)]
        metric = partial(self.measure, *given, **settings)
        if not bootstrap:
            return {self.name: float(metric(None))}
        return classification.with_intervals({self.name: metric}, len(given[1]), bootstrap, seed)


class Accuracy(Module):
    """Share of samples whose highest-scored class is the label, in [0, 1]; logits or probabilities [N, C]."""

    name = "accuracy"
    measure = staticmethod(classification.accuracy)


class TopKAccuracy(Module):
    """Share of samples whose label is among the ``k`` (default 5) highest-scored classes, in [0, 1]; scores [N, C]."""

    name = "accuracy_top_k"

    @on(PROPORTION)
    def measure(
        self,
        predictions: np.ndarray,
        references: np.ndarray,
        counts: classification.Counts | None,
        k: int = 5,
    ) -> Any:
        return classification.top_k_accuracy(predictions, references, k, counts)


class NLL(Module):
    """Mean negative log-likelihood of the labels in nats; logits or log-probabilities [N, C]."""

    name = "nll"
    measure = staticmethod(classification.nll)


class Brier(Module):
    """Mean squared error of the probabilities [N, C] summed over classes, in [0, 2]."""

    name, citation = (
        "brier",
        "Brier 1950, Verification of forecasts expressed in terms of probability",
    )
    measure = staticmethod(classification.brier)


class ECE(Module):
    """Expected calibration error of the top label over 15 bins of equal width, in [0, 1]; probabilities [N, C]."""

    name, citation = "ece", "Guo et al. 2017, On calibration of modern neural networks, eq. 3"
    measure = staticmethod(calibration.ece)


class AdaptiveECE(Module):
    """Expected calibration error of the top label over 15 bins of equal mass, in [0, 1]; probabilities [N, C]."""

    name, citation = (
        "ece_adaptive",
        "Nguyen & O'Connor 2015; Nixon et al. 2019, Measuring calibration in deep learning",
    )
    measure = staticmethod(calibration.ece_adaptive)


class ClasswiseECE(Module):
    """Mean over classes of the equal-width calibration error of each class's probability, in [0, 1]; [N, C]."""

    name, citation = "ece_classwise", "Kull et al. 2019, Beyond temperature scaling, eq. 3"
    measure = staticmethod(calibration.ece_classwise)


class AURC(Module):
    """Area under the curve of risk against coverage of the top label's confidence, in [0, 1]; probabilities [N, C]."""

    name, citation = "aurc", "Geifman et al. 2019, Bias-reduced uncertainty estimation, sec. 3"
    measure = staticmethod(selective.aurc)


class OODDetection(Module):
    """``auroc``, ``aupr_ood``, ``aupr_id``, ``fpr95`` (ID is positive) and ``fpr95_ood`` (OOD is positive, as in OpenOOD and
    pytorch-ood) of OOD scores [N], high where a sample looks out of distribution; references [N]: 1 = OOD, 0 = in distribution. ``bootstrap`` gives the interval of ``auroc``."""

    name, columns = "auroc", SCORES
    citation = "Hendrycks & Gimpel 2017, A baseline for detecting misclassified and out-of-distribution examples"

    def _compute(
        self, predictions: Any, references: Any, bootstrap: int = 0, seed: int = 0
    ) -> dict[str, float]:
        scores, positive = np.asarray(predictions, np.float64), np.asarray(references)
        if other := set(np.unique(positive).tolist()) - {0, 1}:
            raise UserError(
                f"references hold {min(other)}; they must be 0 (in distribution) or 1 (OOD)"
            )
        found = detection.evaluate(
            scores[positive == 0], scores[positive == 1], resamples=max(bootstrap, 1), seed=seed
        )
        return {
            key: value for key, value in found.items() if bootstrap or not key.startswith("auroc_")
        }


class Coverage(Module):
    """Share of values [N, D] inside the central ``level`` (default 0.9) interval of the Gaussians predicted for them;
    predictions [N, 2 D]: D means and then D standard deviations. Resamples take whole rows."""

    name, columns = "coverage", INTERVALS

    @on(Scale())
    def measure(
        self,
        predictions: np.ndarray,
        references: np.ndarray,
        counts: classification.Counts | None,
        level: float = 0.9,
    ) -> Any:
        from scipy.special import ndtri

        if not 0 < level < 1:
            raise UserError(f"level is {level}; it must be between 0 and 1")
        mu, sigma = _gaussians(predictions, references)
        inside = np.abs(references - mu) <= ndtri((1 + level) / 2) * sigma
        return classification.mean(inside.mean(axis=1), counts)


class CRPS(Module):
    """Mean continuous ranked probability score of values [N, D] under the Gaussians predicted for them, in the unit of the
    values; predictions [N, 2 D]: D means and then D standard deviations. Resamples take whole rows."""

    name, columns = "crps", INTERVALS
    citation = (
        "Gneiting & Raftery 2007, Strictly proper scoring rules, prediction, and estimation, eq. 21"
    )

    @on(Scale(0.0, math.inf))
    def measure(
        self, predictions: np.ndarray, references: np.ndarray, counts: classification.Counts | None
    ) -> Any:
        import torch

        from prosmin import scoring

        mu, sigma = _gaussians(predictions, references)
        score = (
            scoring.crps(*map(torch.from_numpy, (mu, sigma, references))) / 2
        )  # which is twice the CRPS
        return classification.mean(score.numpy().mean(axis=1), counts)


def _gaussians(predictions: np.ndarray, references: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The means and standard deviations [N, D] in predictions [N, 2 D] of references [N, D]."""
    if (
        predictions.ndim != 2
        or references.ndim != 2
        or predictions.shape[1] != 2 * references.shape[1]
    ):
        raise UserError(
            f"predictions of shape {predictions.shape} for values of shape {references.shape}; needed: [N, 2 D]"
        )
    if not (np.isfinite(predictions).all() and np.isfinite(references).all()):
        raise UserError("predictions or values are not finite numbers")
    mu, sigma = np.split(predictions, 2, axis=1)
    if sigma.min() <= 0:
        raise UserError(f"a standard deviation is {sigma.min():g}; each must be above 0")
    return mu, sigma


MODULES: tuple[Callable[..., Module], ...] = (
    Accuracy, TopKAccuracy, NLL, Brier, ECE, AdaptiveECE, ClasswiseECE, AURC, OODDetection, Coverage, CRPS,
)  # fmt: skip
