"""The linear probe: multinomial logistic regression on frozen features.

The objective is ``mean NLL + l2 / 2 * ||weight||^2`` over standardised features, the bias unpenalised. The mean
makes ``l2`` mean the same for any number of samples; scikit-learn's C is ``1 / (N * l2)``.
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
from prosmin.metrics import calibration, classification, selective

ReliabilityRow = tuple[str, float, float, float, float, int]

ITERATIONS = 1000  # of L-BFGS, at most
# Where L-BFGS stops: the fall of the objective in a step, relative to the larger of it and 1, and the largest slope.
FINE = {"ftol": 1e-13, "gtol": 1e-6}
COARSE = {"ftol": 1e-5, "gtol": 1e-4}
RISE = 1.01

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Probe:
    """A fitted linear classifier, in the float32 in which it is stored.

    weight ``[C, F]``, bias ``[C]``; mean and std ``[F]`` of the features it was fitted to; temperature divides
    the logits where calibrated probabilities are wanted (1 until it is fitted).
    """

    weight: np.ndarray
    bias: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    temperature: float = 1.0

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Uncalibrated logits ``[N, C]`` in float64, of features ``[N, F]``."""
        if features.ndim != 2 or features.shape[1] != len(self.mean):
            raise UserError(
                f"features have shape {features.shape}; the probe was fitted to [N, {len(self.mean)}]"
            )
        standard = (features.astype(np.float64) - self.mean) / self.std
        return standard @ self.weight.astype(np.float64).T + self.bias

    @property
    def linear(self) -> tuple[np.ndarray, np.ndarray]:
        """weight ``[C, F]`` and bias ``[C]``, float64, of the same logits as one linear map of the features."""
        weight = self.weight.astype(np.float64) / self.std
        return weight, self.bias - weight @ self.mean

    def save(self, path: str | Path) -> None:
        arrays = {name: getattr(self, name) for name in ("weight", "bias", "mean", "std")}
        write_arrays(path, arrays | {"temperature": np.array([self.temperature], np.float32)})

    @classmethod
    def load(cls, path: str | Path) -> "Probe":
        arrays = read_arrays(path)
        vectors = {"bias": "C", "mean": "F", "std": "F", "temperature": "1"}
        arrays.check(
            {"weight": ("float32", "CF")}
            | {name: ("float32", shape) for name, shape in vectors.items()}
        )
        if unknown := arrays.keys() - {"weight", *vectors}:
            raise damaged(path, f"it has {shown(sorted(unknown))} too")
        return cls(**(arrays | {"temperature": float(arrays["temperature"][0])}))


def standardisation(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation ``[F]`` in float32; 1 for a feature that is constant to float32 rounding."""
    mean, std = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    return mean.astype(np.float32), np.where(std <= 1e-6 * np.abs(mean), 1.0, std).astype(
        np.float32
    )


class _Regression:
    """The objective over ``features`` [N, F], which are standardised, and ``labels`` [N]; what is solved for is a matrix [C, F + 1]
    whose last column is the bias, kept flat."""

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
        """The objective and its gradient."""
        weight, bias = flat.reshape(self.shape)[:, :-1], flat.reshape(self.shape)[:, -1]
        logp = classification.log_softmax(self.inputs @ weight.T + bias)  # [N, C]
        slope = (np.exp(logp) - self.truth) / len(
            self.inputs
        )  # [N, C], of the mean NLL in the logits
        gradient = np.column_stack([slope.T @ self.inputs + l2 * weight, slope.sum(axis=0)])
        return -(logp * self.truth).sum() / len(self.inputs) + l2 / 2 * (
            weight**2
        ).sum(), gradient.ravel()

    def minimise(
        self, l2: float, start: np.ndarray | None, precision: dict[str, float]
    ) -> np.ndarray:
        """The solution, by L-BFGS from ``start`` (None: zero)."""
        from scipy.optimize import minimize

        options = {"maxiter": ITERATIONS, "maxfun": 2 * ITERATIONS, "maxcor": 20, **precision}
        start = np.zeros(self.shape).ravel() if start is None else start
        result = minimize(self, start, args=(l2,), jac=True, method="L-BFGS-B", options=options)
        if result.status == 1:
            log.warning(
                "the probe with l2 %g has not converged after %d iterations", l2, result.nit
            )
        return result.x

    def probe(self, flat: np.ndarray) -> Probe:
        whole = flat.reshape(self.shape).astype(np.float32)
        return Probe(whole[:, :-1].copy(), whole[:, -1].copy(), self.mean, self.std)


def fit(
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    l2: float,
    standard: tuple[np.ndarray, np.ndarray] | None = None,
) -> Probe:
    """The probe of features ``[N, F]`` and labels ``[N]`` in 0..classes-1.

    standard: mean and std ``[F]`` to standardise by, those of ``features`` unless given. A probe that has not converged
    after ``ITERATIONS`` is used and a warning logged. Raises ``UserError`` for features that are not finite.
    """
    regression = _Regression(features, labels, classes, standard)
    return regression.probe(regression.minimise(l2, None, FINE))


def select(
    train: Labelled, val: Labelled, classes: int, l2: Sequence[float]
) -> tuple[float, Probe]:
    """The l2 with the lowest NLL on ``val`` (a tie: the stronger), and its probe of ``train``.

    In one pass from the strongest l2 to the weakest, each solution from the one before, to a precision that is enough to compare
    them; the pass ends where the NLL is ``RISE`` times the lowest, as it only rises from there, and at weak l2 most of the time would
    go. The chosen one is then fitted to the end. (Friedman et al. 2010, Regularization paths for generalized linear models,
    sec. 2.5, has the warm starts.) Warns of a choice at the edge of the grid.
    """
    regression = _Regression(*train, classes)
    solution, lowest, chosen = None, np.inf, (np.nan, np.zeros(0))
    for strength in sorted(l2, reverse=True):
        solution = regression.minimise(strength, solution, COARSE)
        error = classification.nll(regression.probe(solution).logits(val[0]), val[1])
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
    logits: np.ndarray, labels: np.ndarray, temperature: float, bootstrap: int, seed: int
) -> dict[str, float]:
    """All metrics of ``docs/evaluation.md`` for logits ``[N, C]``, with intervals, before and after temperature.

    ``accuracy_top5`` is there when there are more than five classes (with five or fewer it is always 1).
    """
    wanted = {"accuracy": partial(classification.accuracy, logits, labels)}
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
    return classification.with_intervals(wanted, len(labels), bootstrap, seed) | {
        "temperature": temperature
    }


def reliability_rows(
    logits: np.ndarray, labels: np.ndarray, temperature: float
) -> list[ReliabilityRow]:
    """The reliability diagram of logits ``[N, C]`` as they are and divided by their temperature: rows (raw | calibrated, bin low, bin
    high, mean confidence, accuracy, count)."""
    return [
        (name, *row)
        for name, scaled in (("raw", logits), ("calibrated", logits / temperature))
        for row in calibration.reliability(classification.softmax(scaled), labels)
    ]


@dataclass(frozen=True)
class Evaluation:
    """reliability: as ``reliability_rows``."""

    probe: Probe
    metrics: dict[str, float]
    reliability: list[ReliabilityRow]


def evaluate_probe(
    train: Labelled, val: Labelled, test: Labelled, l2: Sequence[float], bootstrap: int, seed: int
) -> Evaluation:
    """Select on ``val``, refit on train and val together, read ``test`` once.

    1. Of probes fitted to train the lowest NLL on val chooses the l2 (``select``).
    2. The temperature is fitted on val to the chosen probe, which has not seen val.
    3. The probe is refitted to train and val with that l2 and keeps that temperature: one fitted to
       samples that the probe has learned from would come out too low.

    bootstrap: resamples of the test set behind each interval. Raises ``UserError`` where the classes of the
    splits do not agree (``count_classes``).
    """
    classes = count_classes({"train": train[1], "val": val[1], "test": test[1]})
    strength, selected = select(train, val, classes, l2)
    seen = selected.logits(val[0])
    temperature = calibration.fit_temperature(seen, val[1])
    # The precision of the file, so that a probe that is read back gives these very numbers.
    temperature = float(np.float32(temperature))
    features, labels = (np.concatenate(parts) for parts in zip(train, val, strict=True))
    probe = replace(fit(features, labels, classes, strength), temperature=temperature)

    logits = probe.logits(test[0])
    scored = classification_metrics(logits, test[1], temperature, bootstrap, seed)
    rows = reliability_rows(logits, test[1], temperature)
    # What a choice between encoders may go by: of the first probe, which has not seen val.
    held_out = {"accuracy_val": classification.accuracy(seen, val[1]), "n_val": len(val[1])}
    return Evaluation(probe, scored | {"l2": strength, "n": len(test[1])} | held_out, rows)
