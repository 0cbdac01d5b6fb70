"""A baseline without target and negatives: VICReg."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from prosmin.common import distributed
from prosmin.models.networks import Encoder, Projector
from prosmin.objectives import settings as s
from prosmin.objectives.base import Projecting, full_precision, outputs_per_view, unordered_pairs


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
    off_diagonal = covariance.square().sum() - covariance.diagonal().square().sum()
    return F.relu(1.0 - deviation).mean(), off_diagonal / z.shape[1]
