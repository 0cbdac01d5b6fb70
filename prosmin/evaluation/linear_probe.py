"""The linear probe: multinomial logistic regression on frozen features.

``prosmin.common.compute.logistic`` has the objective and its minimisation. The objective has the
mean over the N samples, so ``l2`` has the same effect for any N; scikit-learn's C is
``1 / (N * l2)``.

Letters in shapes: N images, F features, C classes.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from prosmin.common.compute.backend import NUMPY, chunks, rows_at_once
from prosmin.common.compute.logistic import (
    Regression,
    Solution,
    Standard,
)
from prosmin.common.errors import UserError, shown
from prosmin.common.files import damaged, read_arrays, write_arrays
from prosmin.common.seeds import sample_rows
from prosmin.evaluation.label_subsets import Labelled, count_classes
from prosmin.metrics import calibration, classification, conformal, selective
from prosmin.metrics.intervals import Metric

ReliabilityRow = tuple[str, float, float, float, float, int]

HELD_OUT = 50_000  # images of val, at most, that temperature and conformal threshold are fitted to
RISE = 1.01  # the search of l2 ends at this multiple of the lowest NLL

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Probe:
    """A fitted linear classifier, in float32 as in its file.

    weight: ``[C, F]``. bias: ``[C]``.
    mean, std: ``[F]``, of the features that it was fitted to.
    temperature: divides the logits where calibrated probabilities are wanted; 1 until it is fitted.
    threshold: of the conformal sets (``prosmin.metrics.conformal``); infinity, which puts every
        class into every set, until it is fitted.
    """

    weight: np.ndarray
    bias: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    temperature: float = 1.0
    threshold: float = np.inf

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Compute uncalibrated logits ``[N, C]``, float64, of features ``[N, F]``."""
        if features.ndim != 2 or features.shape[1] != len(self.mean):
            raise UserError(
                f"features have shape {features.shape}; "
                f"the probe was fitted to [N, {len(self.mean)}]"
            )
        logits = np.empty((len(features), len(self.bias)))
        weight = self.weight.astype(np.float64).T

        def fill(rows: slice) -> None:
            standard = (features[rows].astype(np.float64) - self.mean) / self.std
            np.add(standard @ weight, self.bias, out=logits[rows])

        list(NUMPY.map(fill, self._chunks(features)))
        return logits

    def _chunks(self, features: np.ndarray) -> Iterator[slice]:
        return chunks(len(features), rows_at_once(*self.weight.shape))

    def average(self, metric: Callable[[np.ndarray, np.ndarray], Any], held: Labelled) -> float:
        """Compute a metric that is a mean over images, without the logits of all at once.

        metric: of logits and labels.
        """
        features, labels = held

        def total(rows: slice) -> float:
            return float(metric(self.logits(features[rows]), labels[rows])) * len(labels[rows])

        return sum(NUMPY.map(total, self._chunks(features))) / len(labels)

    @property
    def linear(self) -> tuple[np.ndarray, np.ndarray]:
        """Weight ``[C, F]`` and bias ``[C]``, float64, of the map from raw features to logits."""
        weight = self.weight.astype(np.float64) / self.std
        return weight, self.bias - weight @ self.mean

    def save(self, path: str | Path) -> None:
        """Write the probe as a safetensors file."""
        arrays = {name: getattr(self, name) for name in ("weight", "bias", "mean", "std")}
        arrays["temperature"] = np.array([self.temperature], np.float32)
        write_arrays(path, arrays | {"threshold": np.array([self.threshold])})

    @classmethod
    def load(cls, path: str | Path) -> "Probe":
        """Read a probe that ``save`` wrote. Raises ``UserError`` where the file is damaged."""
        arrays = read_arrays(path)
        vectors = {"bias": "C", "mean": "F", "std": "F", "temperature": "1"}
        arrays.check(
            {"weight": ("float32", "CF")}
            | {name: ("float32", shape) for name, shape in vectors.items()}
            | {"threshold": ("float64", "1")}
        )
        if unknown := arrays.keys() - {"weight", "threshold", *vectors}:
            raise damaged(path, f"it has {shown(sorted(unknown))} too")
        weights = {name: arrays[name] for name in ("weight", "bias", "mean", "std")}
        temperature, threshold = (float(arrays[name][0]) for name in ("temperature", "threshold"))
        return cls(**weights, temperature=temperature, threshold=threshold)


def fit(
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    l2: float,
    standard: Standard | None = None,
) -> Probe:
    """Fit a probe to features ``[N, F]`` and labels ``[N]`` in 0..classes-1.

    standard: mean and std ``[F]`` to standardise by. None: those of ``features``.
    A probe that has not converged is used all the same, and a warning logged.
    Raises ``UserError`` for features that are not finite.
    """
    regression = Regression([(features, labels)], classes, standard)
    return _probe(regression, regression.minimise(l2, None, regression.finest))


def refit(probe: Probe, parts: Sequence[Labelled], l2: float) -> Probe:
    """Fit a probe to the images of all parts, from the weights of ``probe``, of fewer images."""
    regression = Regression(parts, len(probe.bias))
    weights = probe.weight.astype(np.float64), probe.bias.astype(np.float64)
    start = Solution(*weights).moved((probe.mean, probe.std), regression.standard)
    return _probe(regression, regression.minimise(l2, start, regression.finest))


def _probe(regression: Regression, solution: Solution) -> Probe:
    weights = solution.weight.astype(np.float32), solution.bias.astype(np.float32)
    return Probe(*weights, *regression.standard)


def select(
    train: Labelled, val: Labelled, classes: int, l2: Sequence[float]
) -> tuple[float, Probe]:
    """Select the l2 with the lowest NLL on ``val``, and fit its probe to ``train``.

    One pass goes from the strongest l2 to the weakest. Every solution starts from the previous one
    (Friedman et al. 2010, Regularization paths for generalized linear models, sec. 2.5) and is as
    precise as the comparison needs. The pass ends where the NLL is ``RISE`` times the lowest: it
    only rises from there, and weak l2 would take most of the time. The chosen l2 is then fitted to
    full precision. Of equal NLL the stronger l2 wins. Warns of a choice at the edge of the grid.
    """
    regression = Regression([train], classes)
    solution: Solution | None = None
    best, lowest, chosen = np.nan, np.inf, solution
    for strength in sorted(l2, reverse=True):
        solution = regression.minimise(strength, solution, regression.coarsest)
        error = _probe(regression, solution).average(classification.nll, val)
        if error < lowest:
            best, lowest, chosen = strength, error, solution
        elif error > RISE * lowest:
            break
    if len(l2) > 1 and best in (min(l2), max(l2)):
        log.warning(
            "l2 %g, at the edge of its grid, has the lowest held-out NLL; widen the grid", best
        )
    return best, _probe(regression, regression.minimise(best, chosen, regression.finest))


def classification_metrics(
    logits: np.ndarray,
    labels: np.ndarray,
    temperature: float,
    threshold: float,
    bootstrap: int,
    seed: int,
) -> dict[str, float]:
    """Compute all classification metrics of logits ``[N, C]``, with their intervals.

    Metrics that depend on the scale of the logits come twice: as they are, and divided by the
    temperature, with the ending ``_calibrated``. ``accuracy_top5`` needs more than five classes;
    with five or fewer it is always 1. docs/evaluation.md defines the metrics.

    threshold: of the conformal sets, which are made of the calibrated probabilities.
    """
    wanted: dict[str, Metric] = {"accuracy": partial(classification.accuracy, logits, labels)}
    if logits.shape[1] > 5:
        wanted["accuracy_top5"] = partial(classification.top_k_accuracy, logits, labels, 5)
    errors = ("ece", "ece_adaptive")
    for suffix, scaled in (("", logits), ("_calibrated", logits / temperature)):
        probabilities = classification.softmax(scaled)
        binned = calibration.ClasswiseBins(probabilities, labels)
        wanted[f"nll{suffix}"] = partial(classification.nll, scaled, labels)
        wanted[f"brier{suffix}"] = partial(classification.brier, probabilities, labels)
        wanted[f"aurc{suffix}"] = partial(selective.aurc, probabilities, labels)
        for name in errors:
            wanted[f"{name}{suffix}"] = partial(getattr(calibration, name), probabilities, labels)
        wanted[f"ece_classwise{suffix}"] = partial(calibration.binned_ece_classwise, binned)
    sets = conformal.prediction_sets(classification.softmax(logits / temperature), threshold)
    wanted["conformal_coverage"] = partial(conformal.coverage, sets, labels)
    wanted["conformal_size"] = partial(conformal.size, sets.sum(axis=1))
    return classification.with_intervals(wanted, len(labels), bootstrap, seed) | {
        "temperature": temperature
    }


def reliability_rows(
    logits: np.ndarray, labels: np.ndarray, temperature: float
) -> list[ReliabilityRow]:
    """The reliability diagram of logits ``[N, C]``, as they are and divided by the temperature.

    Rows: (raw | calibrated, bin low, bin high, mean confidence, accuracy, count).
    """
    return [
        (name, *row)
        for name, scaled in (("raw", logits), ("calibrated", logits / temperature))
        for row in calibration.reliability(classification.softmax(scaled), labels)
    ]


@dataclass(frozen=True)
class Evaluation:
    """The outcome of ``evaluate_probe``.

    probe: fitted to train and val. selected: fitted to train alone, with the same temperature and
        threshold. reliability: as ``reliability_rows``.
    """

    probe: Probe
    selected: Probe
    metrics: dict[str, float]
    reliability: list[ReliabilityRow]


def evaluate_probe(
    train: Labelled, val: Labelled, test: Labelled, l2: Sequence[float], bootstrap: int, seed: int
) -> Evaluation:
    """Select on ``val``, refit to train and val together, read ``test`` once.

    1. The lowest NLL on val of probes fitted to train selects the l2 (``select``).
    2. The temperature is fitted on val to the selected probe, which has not seen val.
       The conformal threshold is fitted on val to its calibrated probabilities. Of a larger val,
       both take ``HELD_OUT`` images, drawn at random.
    3. The probe is refitted to train and val with this l2 and keeps temperature and threshold: a
       temperature fitted to images that the probe has learned from would be too low.

    Strictly, conformal sets promise their coverage where val has chosen nothing and the probe stays
    as it was. Here val has chosen one number, the l2, and fitted another, the temperature, and the
    refitted probe has learned from a few more images. docs/evaluation.md has the cost, measured.

    bootstrap: resamples of the test set behind each interval.
    Raises ``UserError`` where the classes of the splits do not agree (``count_classes``).
    """
    classes = count_classes({"train": train[1], "val": val[1], "test": test[1]})
    strength, selected = select(train, val, classes, l2)
    drawn = sample_rows(len(val[1]), HELD_OUT, seed, "held out to calibrate")
    seen, truth = selected.logits(val[0][drawn]), val[1][drawn]
    temperature = calibration.fit_temperature(seen, truth)
    # Rounded as in the file, so that a probe that is read back gives exactly these numbers.
    temperature = float(np.float32(temperature))
    probe = refit(selected, (train, val), strength)
    threshold = conformal.fit_threshold(classification.softmax(seen / temperature), truth)
    probe, selected = (
        replace(fitted, temperature=temperature, threshold=threshold)
        for fitted in (probe, selected)
    )

    logits = probe.logits(test[0])
    scored = classification_metrics(logits, test[1], temperature, threshold, bootstrap, seed)
    rows = reliability_rows(logits, test[1], temperature)
    # To choose between encoders by: the accuracy of the selected probe, which has not seen val.
    held_out = {
        "accuracy_val": selected.average(classification.accuracy, val),
        "n_val": len(val[1]),
    }
    metrics = scored | {"l2": strength, "n": len(test[1])} | held_out
    return Evaluation(probe, selected, metrics, rows)
