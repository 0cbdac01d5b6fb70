"""Multinomial logistic regression over standardised features, in memory that N does not enlarge.

The objective is ``mean NLL + l2 / 2 * ||weight||^2``; the bias has no penalty.

Features are standardised, and logits computed, for some rows at a time. L-BFGS searches in the
coordinates ``weight @ factor`` with ``factor @ factor.T = curvature * correlation + l2``. There all
directions are about equally curved (a fixed bound of the Hessian: Böhning 1992, Multinomial
logistic regression algorithm), which takes a fraction of the steps; the optimum is the same.

Letters in shapes: N samples, F features, C classes.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prosmin.common.compute.backend import Backend, backend, chunks, rows_at_once
from prosmin.common.compute.stacked import Stack
from prosmin.common.errors import UserError

Labelled = tuple[np.ndarray, np.ndarray]  # features [N, F], labels [N]
Standard = tuple[np.ndarray, np.ndarray]  # mean and standard deviation [F], float32

ITERATIONS = 1000  # of L-BFGS, at most
MEMORY = 20  # steps that L-BFGS remembers
CURVATURE = 0.5  # assumed, of the mean NLL in the logits of a class, times C

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Precision:
    """When L-BFGS stops, and the type of its numbers.

    It stops where a step reduces the objective by ``ftol`` or less, relative to the larger of the
    objective and 1, or where no slope is larger than ``gtol``. Sums over samples are in float64.
    """

    kind: str
    ftol: float
    gtol: float


# FINE is for a final fit, COARSE for a comparison by NLL. A coarser fit of a weak l2 stops near its
# start, the solution of a stronger one, and gets the NLL of neither.
FINE, COARSE = Precision("float64", 1e-13, 1e-6), Precision("float64", 1e-8, 1e-6)
# FINE of more than MUCH products takes hours. NLL and Brier score then differ by less than 1e-4 and
# the accuracy by 1e-3 at most: a quarter of its interval on 50 000 images.
LARGE, LARGE_COARSE = Precision("float32", 1e-7, 1e-6), Precision("float32", 1e-6, 1e-5)
MUCH = 2**34  # samples times features times classes: 25 000 of 1000 classes and 600 features


@dataclass(frozen=True)
class Solution:
    """weight: [C, F], of standardised features. bias: [C]. Both float64."""

    weight: np.ndarray
    bias: np.ndarray

    def moved(self, old: Standard, new: Standard) -> "Solution":
        """Return the same map from raw features, of features that are standardised otherwise."""
        weight = self.weight / old[1]
        shift = weight @ (new[0].astype(np.float64) - old[0])
        return Solution(weight * new[1], self.bias + shift)


def standardisation(*parts: np.ndarray | Stack) -> Standard:
    """Mean and standard deviation ``[F]`` of the features of all parts ``[N, F]``, float32.

    A feature that is constant to float32 rounding gets a standard deviation of 1.
    """
    count = sum(map(len, parts))

    def blocks() -> Iterator[np.ndarray]:
        for part in parts:
            for rows in chunks(len(part), rows_at_once(part.shape[1])):
                yield part[rows]

    mean = sum(block.sum(axis=0, dtype=np.float64) for block in blocks()) / count
    std = np.sqrt(sum(np.square(block - mean).sum(axis=0) for block in blocks()) / count)
    std = np.where(std <= 1e-6 * np.abs(mean), 1.0, std)
    return mean.astype(np.float32), std.astype(np.float32)


class Regression:
    """The objective over the samples of all parts.

    standard: mean and standard deviation by which it standardises.
    finest, coarsest: the precision of a final fit, and of one that is compared with others.

    Raises ``UserError`` for features that are not finite.
    """

    def __init__(self, parts: Sequence[Labelled], classes: int, standard: Standard | None = None):
        """standard: None takes that of the parts."""
        self.backend: Backend = backend()
        self.classes, self.count = classes, sum(len(labels) for _, labels in parts)
        rows = rows_at_once(classes, parts[0][0].shape[1])
        blocks = [(*part, chunk) for part in parts for chunk in chunks(len(part[1]), rows)]
        if not all(np.isfinite(features[chunk]).all() for features, _, chunk in blocks):
            raise UserError(
                "the features hold values that are not finite; no probe can be fitted to them"
            )
        self.standard = standard or standardisation(*(features for features, _ in parts))
        there = {id(array): self.backend.put(array) for part in parts for array in part}
        self.blocks = [
            (there[id(features)][chunk], there[id(labels)][chunk])
            for features, labels, chunk in blocks
        ]
        self.correlation = self._correlation()
        much = self.count * self.classes * len(self.correlation) > MUCH
        self.finest, self.coarsest = (LARGE, LARGE_COARSE) if much else (FINE, COARSE)

    def _correlation(self) -> np.ndarray:
        """[F, F], of the features over all samples."""
        mean, std = (self.backend.put(part, "float32") for part in self.standard)

        def product(block: tuple[Any, Any]) -> Any:
            inputs = self.backend.xp.asarray((block[0] - mean) / std, dtype=mean.dtype)
            return inputs.T @ inputs

        size = len(self.standard[0])
        total = self.backend.put(np.zeros((size, size)))
        for part in self.backend.map(product, self.blocks):
            total += part
        return self.backend.get(total) / self.count

    def evaluate(
        self, weight: np.ndarray, bias: np.ndarray, l2: float, kind: str = "float64"
    ) -> tuple[float, np.ndarray, np.ndarray]:
        """Return the objective and its gradients, [C, F] and [C].

        kind: type of the products.
        """
        xp, put = self.backend.xp, self.backend.put
        mean, std = self.standard
        # The deviations go into the weight, so that a row needs one subtraction alone.
        centre, scaled, offset = put(mean, kind), put((weight / std).T, kind), put(bias, kind)

        def part(block: tuple[Any, Any]) -> tuple[Any, ...]:
            features, labels = block
            inputs = xp.asarray(features - centre, dtype=centre.dtype)
            place = xp.arange(len(labels), device=self.backend.device)
            shares = inputs @ scaled + offset  # logits until the exponential
            shares -= xp.amax(shares, 1)[:, None]
            own = shares[place, labels]
            xp.exp(shares, out=shares)
            total = xp.sum(shares, 1)
            loss = xp.sum(xp.log(total) - own, dtype=xp.float64)
            shares /= total[:, None]
            shares[place, labels] -= 1  # now the slope of the loss in the logits
            return loss, shares.T @ inputs, xp.sum(shares, 0)

        value = 0.0
        slope, slope_of_bias = put(np.zeros(weight.shape)), put(np.zeros(bias.shape))
        for loss, of_weight, of_bias in self.backend.map(part, self.blocks):
            value += float(loss)
            slope += of_weight
            slope_of_bias += of_bias
        gradient = self.backend.get(slope) / std / self.count + l2 * weight
        penalty = l2 / 2 * float(np.square(weight).sum())
        return value / self.count + penalty, gradient, self.backend.get(slope_of_bias) / self.count

    def minimise(self, l2: float, start: Solution | None, precision: Precision) -> Solution:
        """Find the solution by L-BFGS from ``start`` (None: zero).

        A solution that has not converged after ``ITERATIONS`` is returned, and a warning logged.
        """
        from scipy.linalg import cholesky, solve_triangular
        from scipy.optimize import minimize

        size = len(self.correlation)
        start = start or Solution(np.zeros((self.classes, size)), np.zeros(self.classes))
        curvature = CURVATURE / self.classes
        # Rounding and a missing l2 must not make the factor singular.
        curved = curvature * self.correlation + max(l2, 1e-5 * curvature) * np.eye(size)
        factor, root = cholesky(curved, lower=True), np.sqrt(curvature)
        inverse = solve_triangular(factor, np.eye(size), lower=True)

        def solution(flat: np.ndarray) -> Solution:
            whole = flat.reshape(self.classes, size + 1)
            return Solution(whole[:, :-1] @ inverse, whole[:, -1] / root)

        def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
            at = solution(flat)
            value, weight, bias = self.evaluate(at.weight, at.bias, l2, precision.kind)
            return value, np.column_stack([weight @ inverse.T, bias / root]).ravel()

        first = np.column_stack([start.weight @ factor, start.bias * root]).ravel()
        options = {
            "maxiter": ITERATIONS,
            "maxfun": 2 * ITERATIONS,
            "maxcor": MEMORY,
            "ftol": precision.ftol,
            "gtol": precision.gtol,
        }
        result = minimize(objective, first, jac=True, method="L-BFGS-B", options=options)
        if result.status == 1:
            log.warning(
                "the probe with l2 %g has not converged after %d iterations", l2, result.nit
            )
        return solution(result.x)
