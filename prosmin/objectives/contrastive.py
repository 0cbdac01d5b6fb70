"""Baselines that tell the other view of an image from other images: SimCLR, MoCo-v3.

Negatives come from all processes.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from prosmin.common import distributed
from prosmin.models.candidates import Candidates
from prosmin.models.networks import Encoder, Projector
from prosmin.objectives import settings as s
from prosmin.objectives.base import (
    Distilling,
    Projecting,
    full_precision,
    outputs_of,
    outputs_per_view,
    pairs,
    unordered_pairs,
)


def log_width(means: Tensor, temperature: float) -> Tensor:
    """Log width [B] of the densities whose answer is the softmax at a temperature: w^2."""
    return torch.full_like(means[:, 0], math.log(temperature) / 2, dtype=torch.float32)


class SimCLR(Projecting):
    """Chen et al., ICML 2020, arXiv 2002.05709, eq. 1 (NT-Xent)."""

    def __init__(self, encoder: Encoder, hidden_dim: int, dim: int, settings: s.SimCLR):
        super().__init__(encoder, Projector(encoder.num_features, hidden_dim, dim))
        self.temperature = settings.temperature
        self.candidates = Candidates(dim)

    def set_candidates(self, images: Tensor) -> None:
        self.candidates.set(outputs_of(self.project, images, self.candidates.targets.device))

    def doubts(self, projection: Tensor) -> dict[str, Tensor]:
        answer = self.candidates.doubts(projection, log_width(projection, self.temperature))
        return super().doubts(projection) | answer

    def forward(self, views: Sequence[Tensor], generator: torch.Generator | None = None) -> Tensor:
        z = [F.normalize(output, dim=1) for output in outputs_per_view(self.project, views)]
        with full_precision(z[0]):
            losses = [
                nt_xent(z[first], z[second], self.temperature)
                for first, second in unordered_pairs(len(z))
            ]
        return torch.stack(losses).mean()


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """NT-Xent of unit vectors [B, D] of two views, [].

    Each of the 2B vectors must find its other view among the 2N - 1 other vectors.
    """
    own = torch.cat([first, second])
    others = torch.cat([distributed.gather(first), distributed.gather(second)])  # [2N, D]
    count, total = len(first), len(others) // 2
    row = torch.arange(count, device=own.device) + distributed.rank() * count
    itself, positive = torch.cat([row, row + total]), torch.cat([row + total, row])
    similarity = (own @ others.T / temperature).scatter(1, itself[:, None], -torch.inf)
    return F.cross_entropy(similarity, positive)


class MoCoV3(Distilling):
    """Chen et al., ICCV 2021, arXiv 2104.02057, alg. 1.

    InfoNCE of predictions against the keys of the target network, times 2 tau.
    """

    def __init__(self, encoder: Encoder, hidden_dim: int, dim: int, settings: s.MoCoV3):
        super().__init__(encoder, Projector(encoder.num_features, hidden_dim, dim))
        self.predictor = Projector(dim, hidden_dim, dim)
        self.follow(self.encoder, self.projector)
        self.temperature = settings.temperature
        self.candidates = Candidates(dim)

    def set_candidates(self, images: Tensor) -> None:
        self.candidates.set(outputs_of(self.targets, images, self.candidates.targets.device))

    def doubts(self, projection: Tensor) -> dict[str, Tensor]:
        mean = self.predicted_mean(projection)
        answer = self.candidates.doubts(mean, log_width(mean, self.temperature))
        return super().doubts(projection) | answer

    def predicted_mean(self, projection: Tensor) -> Tensor:
        mean: Tensor = self.predictor(projection)
        return mean

    def forward(self, views: Sequence[Tensor], generator: torch.Generator | None = None) -> Tensor:
        queries = [
            F.normalize(output, dim=1)
            for output in outputs_per_view(
                lambda images: self.predicted_mean(self.project(images)), views
            )
        ]
        keys = [
            distributed.gather(F.normalize(output, dim=1))
            for output in outputs_per_view(self.targets, views[:2])
        ]
        count = len(views[0])
        right = torch.arange(count, device=keys[0].device) + distributed.rank() * count
        with full_precision(right):
            losses = [
                F.cross_entropy(queries[online] @ keys[target].T / self.temperature, right)
                for online, target in pairs(len(views))
            ]
        return 2.0 * self.temperature * torch.stack(losses).mean()
