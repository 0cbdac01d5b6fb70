"""The linear probe: multinomial logistic regression on frozen features.

The objective is ``mean NLL + l2 / 2 * ||weight||^2`` over standardised features; the bias has no
penalty. With the mean, ``l2`` has the same effect for any number N of samples; scikit-learn's C is
``1 / (N * l2)``.

Letters in shapes: N images, F features, C classes.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from prosmin.common.errors import UserError, shown
from prosmin.common.files import damaged, read_arrays, write_arrays
from prosmin.evaluation.label_subsets import Labelled, count_classes
from prosmin.metrics import calibration, classification, conformal, selective
from prosmin.metrics.intervals import Metric

ReliabilityRow = tuple[str, float, float, float, float, int]

ITERATIONS = 1000  # of L-BFGS, at most
# L-BFGS stops where a step reduces the objective by ``ftol`` or less, relative to the larger of the
# objective and 1, or where no slope is larger than ``gtol``.
FINE = {"ftol": 1e-13, "gtol": 1e-6}
COARSE = {"ftol": 1e-5, "gtol": 1e-4}
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
        standard = (features.astype(np.float64) - self.mean) / self.std
        logits: np.ndarray = standard @ self.weight.astype(np.float64).T + self.bias
        return logits

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


def standardisation(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation ``[F]`` of features ``[N, F]``, float32.

    A feature that is constant to float32 rounding gets a standard deviation of 1.
    """
    mean, std = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    std = np.where(std <= 1e-6 * np.abs(mean), 1.0, std)
    return mean.astype(np.float32), std.astype(np.float32)


class _Regression:
    """The objective over features [N, F], which it standardises, and labels [N].

    The solution is a flat matrix [C, F + 1]; its last column is the bias.
    """

    def __init__(
        self,
        features: np.ndarray,
        labels: np.ndarray,
        classes: int,
        standard: tuple[np.ndarray, np.ndarray] | None = None,
    ):
        if not np.isfinite(features).all():
            raise UserError(
                "the features hold values that are not finite; no probe can be fitted to them"
            )
        self.mean, self.std = standard or standardisation(features)
        self.inputs = (features.astype(np.float64) - self.mean) / self.std
        self.truth = np.eye(classes)[labels]
        self.shape = (classes, self.inputs.shape[1] + 1)

    def __call__(self, flat: np.ndarray, l2: float) -> tuple[float, np.ndarray]:
        """Return the objective and its gradient at a solution."""
        weight, bias = flat.reshape(self.shape)[:, :-1], flat.reshape(self.shape)[:, -1]
        logp = classification.log_softmax(self.inputs @ weight.T + bias)  # [N, C]
        count = len(self.inputs)
        slope = (np.exp(logp) - self.truth) / count  # [N, C], of the mean NLL in the logits
        gradient = np.column_stack([slope.T @ self.inputs + l2 * weight, slope.sum(axis=0)])
        value = -(logp * self.truth).sum() / count + l2 / 2 * (weight**2).sum()
        return value, gradient.ravel()

    def minimise(
        self, l2: float, start: np.ndarray | None, precision: dict[str, float]
    ) -> np.ndarray:
        """Find the solution by L-BFGS from ``start`` (None: zero)."""
        from scipy.optimize import minimize

        options = {"maxiter": ITERATIONS, "maxfun": 2 * ITERATIONS, "maxcor": 20, **precision}
        start = np.zeros(self.shape).ravel() if start is None else start
        result = minimize(self, start, args=(l2,), jac=True, method="L-BFGS-B", options=options)
        if result.status == 1:
            log.warning(
                "the probe with l2 %g has not converged after %d iterations", l2, result.nit
            )
        solution: np.ndarray = result.x
        return solution

    def probe(self, flat: np.ndarray) -> Probe:
        """Make a probe of a solution."""
        whole = flat.reshape(self.shape).astype(np.float32)
        return Probe(whole[:, :-1].copy(), whole[:, -1].copy(), self.mean, self.std)


def fit(
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    l2: float,
    standard: tuple[np.ndarray, np.ndarray] | None = None,
) -> Probe:
    """Fit a probe to features ``[N, F]`` and labels ``[N]`` in 0..classes-1.

    standard: mean and std ``[F]`` to standardise by. None: those of ``features``.
    A probe that has not converged after ``ITERATIONS`` is used all the same, and a warning logged.
    Raises ``UserError`` for features that are not finite.
    """
    regression = _Regression(features, labels, classes, standard)
    return regression.probe(regression.minimise(l2, None, FINE))


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
    regression = _Regression(*train, classes)
    solution, lowest, chosen = None, np.inf, (np.nan, np.zeros(0))
    for strength in sorted(l2, reverse=True):
        solution = regression.minimise(strength, solution, COARSE)
        error = float(classification.nll(regression.probe(solution).logits(val[0]), val[1]))
        if error < lowest:
            lowest, chosen = error, (strength, solution)
        elif error > RISE * lowest:
            break
    best, solution = chosen
    if len(l2) > 1 and best in (min(l2), max(l2)):
        log.warning(
            "l2 %g, at the edge of its grid, has the lowest held-out NLL; widen the grid", best
        )
    return best, regression.probe(regression.minimise(best, solution, FINE))


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
    errors = ("ece", "ece_adaptive", "ece_classwise")
    for suffix, scaled in (("", logits), ("_calibrated", logits / temperature)):
        probabilities = classification.softmax(scaled)
        wanted[f"nll{suffix}"] = partial(classification.nll, scaled, labels)
        wanted[f"brier{suffix}"] = partial(classification.brier, probabilities, labels)
        wanted[f"aurc{suffix}"] = partial(selective.aurc, probabilities, labels)
        for name in errors:
            wanted[f"{name}{suffix}"] = partial(getattr(calibration, name), probabilities, labels)
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
    """The outcome of ``evaluate_probe``. reliability: as ``reliability_rows``."""

    probe: Probe
    metrics: dict[str, float]
    reliability: list[ReliabilityRow]


def evaluate_probe(
    train: Labelled, val: Labelled, test: Labelled, l2: Sequence[float], bootstrap: int, seed: int
) -> Evaluation:
    """Select on ``val``, refit to train and val together, read ``test`` once.

    1. The lowest NLL on val of probes fitted to train selects the l2 (``select``).
    2. The temperature is fitted on val to the selected probe, which has not seen val.
       The conformal threshold is fitted on val to its calibrated probabilities.
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
    seen = selected.logits(val[0])
    temperature = calibration.fit_temperature(seen, val[1])
    # Rounded as in the file, so that a probe that is read back gives exactly these numbers.
    temperature = float(np.float32(temperature))
    features, labels = (np.concatenate(parts) for parts in zip(train, val, strict=True))
    probe = fit(features, labels, classes, strength)
    threshold = conformal.fit_threshold(classification.softmax(seen / temperature), val[1])
    probe = replace(probe, temperature=temperature, threshold=threshold)

    logits = probe.logits(test[0])
    scored = classification_metrics(logits, test[1], temperature, threshold, bootstrap, seed)
    rows = reliability_rows(logits, test[1], temperature)
    # To choose between encoders by: the accuracy of the selected probe, which has not seen val.
    held_out = {"accuracy_val": float(classification.accuracy(seen, val[1])), "n_val": len(val[1])}
    return Evaluation(probe, scored | {"l2": strength, "n": len(test[1])} | held_out, rows)
