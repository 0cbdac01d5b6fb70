"""Normalisation of the targets: statistics of a batch are removed before anything predicts them.

Without it a constant output is the easiest to predict; removing scale and correlation removes that
reward.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from prosmin.common import distributed

UNIT_VARIANCE = ("standardise", "whiten")  # targets have variance 1 in every dimension


@dataclass(frozen=True)
class Normalisation:
    """A linear map of targets.

    shift: [D], subtracted first; ``None``: nothing is.
    map: [D, D], the factor of a matrix product, or [D], of an elementwise one; ``None``: neither.
    """

    shift: Tensor | None = None
    map: Tensor | None = None

    def __call__(self, y: Tensor) -> Tensor:
        """y: [..., D]."""
        if self.shift is not None:
            y = y - self.shift
        if self.map is None:
            return y
        return y @ self.map if self.map.ndim == 2 else y * self.map


@torch.no_grad()
def fit_normalisation(
    y: Tensor, how: str, shrinkage: float = 0.0, precision: torch.dtype = torch.float32
) -> Normalisation:
    """The normalisation of a batch of targets y [N, D], over all processes.

    how: ``none``; ``centre``: mean 0; ``standardise``: also variance 1 in each dimension;
        ``whiten``: also covariance 1, by the symmetric inverse root (ZCA) of the covariance C,
        shrunk towards its mean variance: (1 - s) C + s (tr C / D) I.
    shrinkage: s.
    precision: of variances and covariances.
    """
    if how == "none":
        return Normalisation()
    y = y.float()
    shift = distributed.mean(y.mean(0))
    if how == "centre":
        return Normalisation(shift)
    centred = (y - shift).to(precision)
    if how == "standardise":
        variance = distributed.mean(centred.square().mean(0))
        return Normalisation(shift, variance.clamp_min(1e-12).rsqrt().float())
    covariance = distributed.mean(centred.T @ centred / len(centred))
    return Normalisation(shift, _inverse_root(covariance, shrinkage).float())


@torch.no_grad()
def normalise_targets(y: Tensor, how: str, shrinkage: float = 0.0) -> Tensor:
    """Targets [N, D] normalised by their own statistics; the arguments of ``fit_normalisation``."""
    normalise = fit_normalisation(y, how, shrinkage)
    return y if how == "none" else normalise(y.float())


def _inverse_root(covariance: Tensor, shrinkage: float) -> Tensor:
    """The symmetric inverse root, float64 [D, D], of a shrunk covariance [D, D]."""
    scale = covariance.diagonal().mean()
    identity = torch.eye(len(covariance), device=covariance.device, dtype=covariance.dtype)
    covariance = (1.0 - shrinkage) * covariance + shrinkage * scale * identity
    # In float64 small eigenvalues stay above 0, at little cost. ``eigh`` raises on NaN, which the
    # training loop must report: the targets carry the NaN to the loss.
    values, vectors = torch.linalg.eigh(covariance.double().nan_to_num())
    floor = (1e-9 * scale.double()).clamp_min(1e-12)
    root: Tensor = vectors * torch.maximum(values, floor).rsqrt() @ vectors.T
    return root
