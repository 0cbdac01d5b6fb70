"""Several ways to calibrated probabilities of one linear probe, fitted on held-out images.

A temperature that is fitted on clean images is too low for images from elsewhere (Ovadia et al.,
NeurIPS 2019). Two answers: fit it on held-out images that are also shifted (Tomani et al., CVPR
2021), and let it rise with the distance of an image from the training images (Tomani et al., ICML
2023). Another answer is a posterior over the weights (``prosmin.evaluation.laplace``).

Every way is a map of the logits of an image, and ``softmax`` of it are the probabilities. None but
the Laplace approximation changes the most probable class.

Letters in shapes: N images, F features, C classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import numpy as np

from prosmin.common.files import read_arrays, write_arrays
from prosmin.evaluation import laplace
from prosmin.evaluation.label_subsets import Labelled
from prosmin.evaluation.laplace import Posterior
from prosmin.evaluation.linear_probe import Probe
from prosmin.evaluation.ways import WAYS
from prosmin.metrics import calibration, classification
from prosmin.metrics.intervals import Metric

PRECISIONS: tuple[float, ...] = tuple(10 ** (power / 2) for power in range(-4, 13))  # of priors
SHRINKAGE = 0.1  # of the second moment of the inputs, towards its mean, in the distance
STEEPEST = 3.0  # of the log temperature, in a standard deviation of the log distance


@dataclass(frozen=True)
class Held:
    """Held-out images as a probe sees them.

    logits: [n, C]. labels: [n]. squares: of ``Posterior.squares``, [n, F + 1].
    """

    logits: np.ndarray
    labels: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, probe: Probe, posterior: Posterior, images: Labelled) -> "Held":
        """The images with these features and labels."""
        features, labels = images
        return cls(probe.logits(features), labels, posterior.squares(probe, features))


@dataclass(frozen=True)
class Recalibration:
    """All ways of ``prosmin.evaluation.ways`` for one probe.

    posterior: of the weights of the probe.
    temperature, shifted: fitted on val, and on val and corrupted val.
    level, slope: log temperature at the mean log distance of held-out images, and its rise per
        standard deviation; mean and spread are those of the log distance.
    precision, precision_shifted: of the priors.
    """

    posterior: Posterior
    temperature: float
    shifted: float
    level: float
    slope: float
    mean: float
    spread: float
    precision: float
    precision_shifted: float

    def logits(self, probe: Probe, features: np.ndarray) -> dict[str, np.ndarray]:
        """Logits whose softmax are the probabilities of each way, [N, C] each."""
        return dict(self.each(probe, features))

    def each(self, probe: Probe, features: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """The same, one way after the other, so that memory need not hold all."""
        raw, squares = probe.logits(features), self.posterior.squares(probe, features)
        away = (log_distance(self.posterior, squares) - self.mean) / self.spread
        temperatures = {
            "raw": 1.0,
            "temperature": self.temperature,
            "temperature_shifted": self.shifted,
            "temperature_distance": np.exp(self.level + self.slope * away)[:, None],
        }
        precisions = {"laplace": self.precision, "laplace_shifted": self.precision_shifted}
        for way in WAYS:
            if way in temperatures:
                yield way, raw / temperatures[way]
            else:
                variances = self.posterior.variances(squares, precisions[way])
                yield way, laplace.moderate(raw, variances)

    def save(self, path: str | Path) -> None:
        """Write it as a safetensors file."""
        numbers = {
            field.name: np.array([getattr(self, field.name)], np.float64)
            for field in fields(self)
            if field.name != "posterior"
        }
        of_posterior = {name: np.asarray(values) for name, values in vars(self.posterior).items()}
        write_arrays(path, numbers | of_posterior | {"count": np.array([self.posterior.count])})

    @classmethod
    def load(cls, path: str | Path) -> "Recalibration":
        """Read what ``save`` wrote. Raises ``UserError`` where the file is damaged."""
        arrays = read_arrays(path)
        numbers = [field.name for field in fields(cls) if field.name != "posterior"]
        arrays.check(
            {"inputs": ("float64", "FF"), "energy": ("float64", "F")}
            | {"outputs": ("float64", "CD"), "curvature": ("float64", "D"), "count": ("int64", "1")}
            | {name: ("float64", "1") for name in numbers}
        )
        posterior = Posterior(
            arrays["inputs"],
            arrays["energy"],
            arrays["outputs"],
            arrays["curvature"],
            int(arrays["count"][0]),
        )
        return cls(posterior, **{name: float(arrays[name][0]) for name in numbers})


def log_distance(posterior: Posterior, squares: np.ndarray) -> np.ndarray:
    """Log of the squared Mahalanobis distance from the mean of the training images, [n].

    squares: of ``Posterior.squares``, [n, F + 1]. The second moment of the inputs is shrunk towards
    its mean. The input of the bias adds a constant.
    """
    energy = posterior.energy
    distances = squares @ (1 / ((1 - SHRINKAGE) * energy + SHRINKAGE * energy.mean()))
    logs: np.ndarray = np.log(distances)
    return logs


def fit(probe: Probe, posterior: Posterior, clean: Labelled, mixed: Labelled) -> Recalibration:
    """Fit all ways to held-out images that probe and posterior have not been fitted to.

    probe: its own temperature, fitted on held-out images, is that of the way ``temperature``.
    clean: features and labels of held-out images.
    mixed: of the same images with and without shifts.
    """
    held, shifted = (Held.of(probe, posterior, images) for images in (clean, mixed))
    logs = log_distance(posterior, held.squares)
    mean, spread = float(logs.mean()), float(logs.std()) or 1.0
    away = (log_distance(posterior, shifted.squares) - mean) / spread
    one = calibration.fit_temperature(shifted.logits, shifted.labels)
    level, slope = _temperature_of(shifted.logits, shifted.labels, away, np.log(one))
    return Recalibration(
        posterior,
        probe.temperature,
        one,
        level,
        slope,
        mean,
        spread,
        *(_precision(posterior, images) for images in (held, shifted)),
    )


def _temperature_of(
    logits: np.ndarray, labels: np.ndarray, away: np.ndarray, start: float
) -> tuple[float, float]:
    """Level and slope of the log temperature with the lowest NLL.

    away: [n], standardised log distance. start: the level at which the search begins.
    """
    from scipy.optimize import minimize

    own = np.take_along_axis(logits, labels[:, None], axis=1)[:, 0]

    def nll(at: np.ndarray) -> tuple[float, np.ndarray]:
        inverse = np.exp(-(at[0] + at[1] * away))
        logs = classification.log_softmax(logits * inverse[:, None])
        loss = -np.take_along_axis(logs, labels[:, None], axis=1)[:, 0]
        slopes = -inverse * ((np.exp(logs) * logits).sum(axis=1) - own)
        return float(loss.mean()), np.array([slopes.mean(), (slopes * away).mean()])

    bounds = [tuple(np.log(calibration.TEMPERATURES)), (-STEEPEST, STEEPEST)]
    result = minimize(nll, [start, 0.0], jac=True, method="L-BFGS-B", bounds=bounds)
    return float(result.x[0]), float(result.x[1])


def _precision(posterior: Posterior, held: Held) -> float:
    """The precision of the prior with the lowest NLL; of equal ones the highest."""

    def nll(precision: float) -> float:
        variances = posterior.variances(held.squares, precision)
        return float(classification.nll(laplace.moderate(held.logits, variances), held.labels))

    return min(sorted(PRECISIONS, reverse=True), key=nll)


def calibration_metrics(
    logits: np.ndarray, labels: np.ndarray, bootstrap: int, seed: int
) -> dict[str, float]:
    """NLL and ECE of one way, with their intervals. logits: [N, C]. labels: [N]."""
    wanted: dict[str, Metric] = {
        "nll": partial(classification.nll, logits, labels),
        "ece": partial(calibration.ece, classification.softmax(logits), labels),
    }
    return classification.with_intervals(wanted, len(labels), bootstrap, seed)
