"""ProSMIN as its published code has it, apart from the bug that kept its encoder from training.

A reference for comparisons, not a recommendation.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prosmin import scoring
from prosmin.common import distributed
from prosmin.models.networks import Encoder
from prosmin.objectives import settings as s
from prosmin.objectives.base import (
    Description,
    Distilling,
    full_precision,
    minus_length,
    outputs_per_view,
)


class UnitProjector(nn.Module):
    """The head of DINO (Caron et al. 2021, appendix C) with a learned gain: [B, F] -> [B, D].

    Three dense layers with GELU to a bottleneck, unit length, a linear map with normalised rows.
    """

    def __init__(self, features: int, hidden_dim: int, bottleneck_dim: int, dim: int):
        super().__init__()
        sizes = pairwise([features, hidden_dim, hidden_dim, bottleneck_dim])
        dense = [nn.Linear(inputs, outputs) for inputs, outputs in sizes]
        self.layers = nn.Sequential(dense[0], nn.GELU(), dense[1], nn.GELU(), dense[2])
        for layer in dense:
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        self.weight = nn.Parameter(nn.Linear(bottleneck_dim, dim, bias=False).weight.detach())
        self.gain = nn.Parameter(torch.ones(dim))

    def forward(self, features: Tensor) -> Tensor:
        hidden = F.normalize(self.layers(features), dim=1)
        return self.gain * F.linear(hidden, F.normalize(self.weight, dim=1))


class Published(Distilling):
    """Vahidi et al., ICLR 2024, by their code.

    A Monte Carlo score with lambda 1.2, a dense predictor, a running centre, all pairs of views.
    Differences from ``ProSMIN``:

    - The predictor is D-D-D with GELU, unit length, ReLU and one D-D layer each for mu and log
      variance, without a clamp.
    - A view also predicts its own target.
    - The centre follows targets from which it has been subtracted already, so half of their mean
      stays.
    - The loss is multiplied by ten.
    - Samples are drawn anew for every pair of views.

    Their target network wraps the online encoder itself, which then never trains; here the target
    network has a copy.
    """

    centre: Tensor
    sigma_range = (-math.inf, math.inf)
    scale = 10.0

    def __init__(self, encoder: Encoder, hidden_dim: int, dim: int, settings: s.Published):
        projector = UnitProjector(encoder.num_features, hidden_dim, settings.bottleneck_dim, dim)
        super().__init__(encoder, projector)
        self.predictor = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))
        self.mu, self.log_variance = (nn.Linear(dim, dim, bias=False) for _ in range(2))
        self.follow(self.encoder, self.projector)
        self.register_buffer("centre", torch.zeros(dim))
        self.lambda_, self.samples = settings.lambda_, settings.samples
        self.centre_momentum = settings.centre_momentum

    def head(self, projection: Tensor) -> tuple[Tensor, Tensor]:
        """[B, D] -> mu [B, D], log sigma [B, D]."""
        hidden = F.relu(F.normalize(self.predictor(projection), dim=1))
        return self.mu(hidden), 0.5 * self.log_variance(hidden)

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Predict by the online network.

        images: [B, C, S, S]. Returns features [B, F], mu [B, D] and log sigma [B, D].
        """
        features = self.encoder(images)
        return features, *self.head(self.projector(features))

    def describe(self, images: Tensor) -> Description:
        features = self.encoder(images)
        projection = self.projector(features)
        mu, log_sigma = self.head(projection)
        doubts = {"projection_norm": minus_length(projection), "mean_norm": minus_length(mu)}
        return Description(features, log_sigma, doubts)

    def forward(self, views: Sequence[Tensor], generator: torch.Generator | None = None) -> Tensor:
        predictions = outputs_per_view(
            lambda images: torch.cat(self.head(self.project(images)), 1), views
        )
        targets = [output - self.centre for output in outputs_per_view(self.targets, views[:2])]
        if self.training:
            with torch.no_grad():
                mean = distributed.mean(torch.cat(targets).mean(0))
                self.centre.lerp_(mean, 1.0 - self.centre_momentum)
        with full_precision(self.centre):
            losses = []
            for prediction in predictions:
                mu, log_sigma = prediction.chunk(2, dim=1)
                for y in targets:
                    score = scoring.crps_monte_carlo(
                        mu, log_sigma.exp(), y, self.lambda_, self.samples, generator
                    )
                    losses.append(score.mean())
            return self.scale * torch.stack(losses).mean()
