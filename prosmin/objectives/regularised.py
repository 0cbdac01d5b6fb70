"""Baselines without target and negatives: VICReg, Barlow Twins, LeJEPA, VISReg.

The views of an image are alike, and the projections of the batch of all processes have a
distribution that a collapsed network cannot have.

Letters in shapes: V views, B images, N images over all processes, D dimensions of the projection,
K directions.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from prosmin.common import distributed
from prosmin.models.networks import Encoder, Projector
from prosmin.objectives import settings as s
from prosmin.objectives.base import Projecting, full_precision, outputs_per_view, unordered_pairs

# The trapezoidal rule of SIGReg: points on [0, T_MAX], which stand for [-T_MAX, T_MAX] as well.
POINTS, T_MAX = 17, 3.0


class VICReg(Projecting):
    """Bardes et al., ICLR 2022, arXiv 2105.04906, eq. 1-6.

    Three terms: the views of an image are alike, every dimension varies over the batch, dimensions
    are uncorrelated. Variance and covariance are over the batch of all processes; both terms count
    each view, the variance by half, as in the published code.
    """

    def __init__(self, encoder: Encoder, hidden_dim: int, dim: int, settings: s.VICReg):
        super().__init__(encoder, Projector(encoder.num_features, hidden_dim, dim))
        self.weights = settings.invariance, settings.variance, settings.covariance

    def forward(self, views: Sequence[Tensor], generator: torch.Generator | None = None) -> Tensor:
        z = outputs_per_view(self.project, views)
        alike = torch.stack(
            [F.mse_loss(z[first], z[second]) for first, second in unordered_pairs(len(z))]
        ).mean()
        with full_precision(alike):
            terms = [spread_terms(distributed.gather(view)) for view in z]
        narrow, correlated = (torch.stack(term).mean() for term in zip(*terms, strict=True))
        invariance, variance, covariance = self.weights
        return invariance * alike + variance * narrow + 2.0 * covariance * correlated


def spread_terms(z: Tensor) -> tuple[Tensor, Tensor]:
    """The variance and the covariance term, [] each, of z [N, D].

    The first is the mean over dimensions of the amount by which the deviation is below 1. The
    second is the sum of the squared covariances of different dimensions, divided by D.
    """
    centred = z - z.mean(0)
    covariance = centred.T @ centred / (len(z) - 1)
    deviation = (covariance.diagonal() + 1e-4).sqrt()
    return F.relu(1.0 - deviation).mean(), _off_diagonal(covariance) / z.shape[1]


def _off_diagonal(matrix: Tensor) -> Tensor:
    """The sum of the squared entries outside the diagonal, [], of a matrix [D, D]."""
    return matrix.square().sum() - matrix.diagonal().square().sum()


class BarlowTwins(Projecting):
    """Zbontar et al., ICML 2021, arXiv 2103.03230, eq. 1-2.

    The correlation matrix of the dimensions of two views, over the batch of all processes, is
    compared with the identity.
    """

    def __init__(self, encoder: Encoder, hidden_dim: int, dim: int, settings: s.BarlowTwins):
        super().__init__(encoder, Projector(encoder.num_features, hidden_dim, dim))
        self.redundancy = settings.redundancy

    def forward(self, views: Sequence[Tensor], generator: torch.Generator | None = None) -> Tensor:
        projections = outputs_per_view(self.project, views)
        with full_precision(projections[0]):
            z = [_standardised(distributed.gather(projection)) for projection in projections]
            losses = []
            for first, second in unordered_pairs(len(z)):
                correlation = z[first].T @ z[second] / len(z[first])
                alike = (1.0 - correlation.diagonal()).square().sum()
                losses.append(alike + self.redundancy * _off_diagonal(correlation))
            return torch.stack(losses).mean()


def _standardised(z: Tensor) -> Tensor:
    """[N, D] with mean 0 and variance 1 over the batch, per dimension."""
    return (z - z.mean(0)) / (z.var(0, correction=0) + 1e-5).sqrt()


# --- sketches: the distribution of the projections along random directions ------------------------


class LeJEPA(Projecting):
    """Balestriero & LeCun 2025, arXiv 2511.08544, with the quadrature of the published code.

    Every view is compared with the mean of the global views, and SIGReg holds the projections of
    each view to a standard Gaussian.
    """

    def __init__(self, encoder: Encoder, hidden_dim: int, dim: int, settings: s.LeJEPA | s.VISReg):
        super().__init__(encoder, Projector(encoder.num_features, hidden_dim, dim))
        self.weight, self.directions = settings.regularisation, settings.directions

    def forward(self, views: Sequence[Tensor], generator: torch.Generator | None = None) -> Tensor:
        z = torch.stack(outputs_per_view(self.project, views))
        with full_precision(z):
            alike = (z - z[:2].mean(0)).square().mean()
            directions = unit_directions(z, self.directions, generator)
            return (1.0 - self.weight) * alike + self.weight * self.irregularity(z, directions)

    def irregularity(self, z: Tensor, directions: Tensor) -> Tensor:
        """How far projections z [V, B, D] are from a standard Gaussian, [], mean over views."""
        return sigreg(z, directions)


class VISReg(LeJEPA):
    """Wu, Balestriero & Levine 2026, arXiv 2606.02572, as in its published code.

    LeJEPA with another regulariser, which separates mean, scale and shape.
    """

    def irregularity(self, z: Tensor, directions: Tensor) -> Tensor:
        return visreg(distributed.gather(z.transpose(0, 1)).transpose(0, 1), directions)


@torch.no_grad()
def unit_directions(z: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """Draw unit vectors [D, K] uniformly, the same on all processes, for z [..., D]."""
    drawn = torch.randn(z.shape[-1], count, generator=generator, device=z.device)
    return F.normalize(distributed.broadcast(drawn), dim=0)


def sigreg(z: Tensor, directions: Tensor) -> Tensor:
    """Sketched isotropic Gaussian regularisation, [], mean over views and directions.

    Along a direction it is the Epps-Pulley statistic, N times the integral of |f(t) - g(t)|^2 g(t)
    with the empirical characteristic function f of the N projected images and the function
    g(t) = exp(-t^2 / 2) of the standard Gaussian.

    z: [V, B, D], of this process. directions: [D, K].
    """
    t = torch.linspace(0.0, T_MAX, POINTS, device=z.device)
    gaussian = torch.exp(-t.square() / 2)
    weights = gaussian * (2 * T_MAX / (POINTS - 1))
    weights[[0, -1]] /= 2
    angles = (z @ directions)[..., None] * t  # [V, B, K, POINTS]
    parts = torch.stack([angles.cos().mean(1), angles.sin().mean(1)])
    real, imaginary = distributed.mean(parts)
    distance = (real - gaussian).square() + imaginary.square()
    statistic: Tensor = z.shape[1] * distributed.world() * (distance @ weights)
    return statistic.mean()


def visreg(z: Tensor, directions: Tensor) -> Tensor:
    """Centre, scale and shape term of VISReg, their sum, [], mean over views.

    The shape term is the squared distance between the sorted standardised projections along each
    direction and the quantiles i / (N + 1) of the standard Gaussian (sliced Wasserstein). No
    gradient passes through the deviations by which it divides.

    z: [V, N, D], of all processes. directions: [D, K].
    """
    count = z.shape[1]
    centre = z.mean(1, keepdim=True)
    centred = z - centre
    deviation = torch.linalg.vector_norm(centred, dim=1, keepdim=True) / count**0.5 + 1e-6
    ranks = torch.arange(1, count + 1, device=z.device, dtype=torch.float64)
    quantiles = torch.special.ndtri(ranks / (count + 1)).to(z.dtype)
    ordered = (centred / deviation.detach() @ directions).sort(dim=1).values
    terms = centre, deviation - 1.0, ordered - quantiles[:, None]
    return torch.stack([term.square().mean() for term in terms]).sum()
