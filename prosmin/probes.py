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

from prosmin import calibration, metrics, selective
from prosmin.errors import UserError
from prosmin.files import read_arrays, write_arrays
from prosmin.sampling import Labelled, count_classes

ReliabilityRow = tuple[str, float, float, float, float, int]

ITERATIONS = 1000  # of L-BFGS, at most

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
            raise UserError(f"features have shape {features.shape}; the probe was fitted to [N, {len(self.mean)}]")
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
        return cls(**(arrays | {"temperature": float(arrays["temperature"][0])}))


def standardisation(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation ``[F]`` in float32; 1 for a feature that is constant to float32 rounding."""
    mean, std = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    return mean.astype(np.float32), np.where(std <= 1e-6 * np.abs(mean), 1.0, std).astype(np.float32)


def fit(
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    l2: Sequence[float],
    standard: tuple[np.ndarray, np.ndarray] | None = None,
) -> dict[float, Probe]:
    """One probe for each value of ``l2``, by L-BFGS from the strongest to the weakest, each from the one before.

    features ``[N, F]``, labels ``[N]`` in 0..classes-1; standard: mean and std ``[F]`` to standardise by, those of
    ``features`` unless given. A probe that has not converged after ``ITERATIONS`` is used and a warning logged.
    Raises ``UserError`` for features that are not finite.
    """
    from scipy.optimize import minimize

    if not np.isfinite(features).all():
        raise UserError("the features hold values that are not finite; no probe can be fitted to them")
    mean, std = standard or standardisation(features)
    inputs = (features.astype(np.float64) - mean) / std
    truth = np.eye(classes)[labels]
    shape = (classes, inputs.shape[1] + 1)  # the bias is the last column

    def objective(flat: np.ndarray, strength: float) -> tuple[float, np.ndarray]:
        weight, bias = flat.reshape(shape)[:, :-1], flat.reshape(shape)[:, -1]
        logp = metrics.log_softmax(inputs @ weight.T + bias)  # [N, C]
        slope = (np.exp(logp) - truth) / len(inputs)  # [N, C], of the mean NLL in the logits
        gradient = np.column_stack([slope.T @ inputs + strength * weight, slope.sum(axis=0)])
        return -(logp * truth).sum() / len(inputs) + strength / 2 * (weight**2).sum(), gradient.ravel()

    probes, flat = {}, np.zeros(shape).ravel()
    options = {"maxiter": ITERATIONS, "maxfun": 2 * ITERATIONS, "maxcor": 20, "ftol": 1e-13, "gtol": 1e-6}
    for strength in sorted(l2, reverse=True):
        result = minimize(objective, flat, args=(strength,), jac=True, method="L-BFGS-B", options=options)
        if result.status == 1:
            log.warning("the probe with l2 %g has not converged after %d iterations", strength, result.nit)
        flat = result.x
        whole = flat.reshape(shape).astype(np.float32)
        probes[strength] = Probe(whole[:, :-1].copy(), whole[:, -1].copy(), mean, std)
    return probes


def choose(probes: dict[float, Probe], features: np.ndarray, labels: np.ndarray) -> float:
    """The l2 with the lowest NLL on held-out samples (a tie: the stronger); warns at the edge of the grid."""
    errors = {l2: metrics.nll(probe.logits(features), labels) for l2, probe in probes.items()}
    best = min(sorted(errors, reverse=True), key=errors.__getitem__)
    if len(errors) > 1 and best in (min(errors), max(errors)):
        log.warning("l2 %g, at the edge of its grid, has the lowest held-out NLL; widen the grid", best)
    return best


def classification_metrics(
    logits: np.ndarray, labels: np.ndarray, temperature: float, bootstrap: int, seed: int
) -> dict[str, float]:
    """All metrics of ``docs/evaluation.md`` for logits ``[N, C]``, with intervals, before and after temperature.

    ``accuracy_top5`` is there when there are more than five classes (with five or fewer it is always 1).
    """
    wanted = {"accuracy": partial(metrics.accuracy, logits, labels)}
    if logits.shape[1] > 5:
        wanted["accuracy_top5"] = partial(metrics.top_k_accuracy, logits, labels, 5)
    errors = ("ece", "ece_adaptive", "ece_classwise")
    for suffix, scaled in (("", logits), ("_calibrated", logits / temperature)):
        probabilities = metrics.softmax(scaled)
        wanted[f"nll{suffix}"] = partial(metrics.nll, scaled, labels)
        wanted[f"brier{suffix}"] = partial(metrics.brier, probabilities, labels)
        wanted[f"aurc{suffix}"] = partial(selective.aurc, probabilities, labels)
        for name in errors:
            wanted[f"{name}{suffix}"] = partial(getattr(calibration, name), probabilities, labels)
    centred = [f"{name}{suffix}" for name in errors for suffix in ("", "_calibrated")]
    return metrics.with_intervals(wanted, len(labels), bootstrap, seed, centred) | {"temperature": temperature}


@dataclass(frozen=True)
class Evaluation:
    """reliability: rows (raw | calibrated, bin low, bin high, mean confidence, accuracy, count)."""

    probe: Probe
    metrics: dict[str, float]
    reliability: list[ReliabilityRow]


def evaluate_probe(
    train: Labelled, val: Labelled, test: Labelled, l2: Sequence[float], bootstrap: int, seed: int
) -> Evaluation:
    """Select on ``val``, refit on train and val together, read ``test`` once.

    1. A probe for each l2 is fitted to train; the lowest NLL on val chooses.
    2. The temperature is fitted on val to the chosen probe, which has not seen val.
    3. The probe is refitted to train and val with that l2 and keeps that temperature: one fitted to
       samples that the probe has learned from would come out too low.

    bootstrap: resamples of the test set behind each interval. Raises ``UserError`` where the classes of the
    splits do not agree (``count_classes``).
    """
    classes = count_classes({"train": train[1], "val": val[1], "test": test[1]})
    selected = fit(*train, classes, l2)
    strength = choose(selected, *val)
    seen = selected[strength].logits(val[0])
    temperature = calibration.fit_temperature(seen, val[1])
    # The precision of the file, so that a probe that is read back gives these very numbers.
    temperature = float(np.float32(temperature))
    features, labels = (np.concatenate(parts) for parts in zip(train, val, strict=True))
    probe = replace(fit(features, labels, classes, [strength])[strength], temperature=temperature)

    logits = probe.logits(test[0])
    scored = classification_metrics(logits, test[1], temperature, bootstrap, seed)
    rows = [
        (name, *row)
        for name, scaled in (("raw", logits), ("calibrated", logits / temperature))
        for row in calibration.reliability(metrics.softmax(scaled), test[1])
    ]
    # What a choice between encoders may go by: of the first probe, which has not seen val.
    held_out = {"accuracy_val": metrics.accuracy(seen, val[1]), "n_val": len(val[1])}
    return Evaluation(probe, scored | {"l2": strength, "n": len(test[1])} | held_out, rows)
