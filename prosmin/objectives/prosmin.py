"""ProSMIN: predict a distribution over the target network's output for the other view."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from prosmin import scoring
from prosmin.common.errors import ConfigError
from prosmin.models.networks import Encoder, GaussianHead, Projector
from prosmin.objectives import settings as s
from prosmin.objectives.base import (
    Description,
    Distilling,
    batches_by_size,
    full_precision,
    minus_length,
    pairs,
)
from prosmin.objectives.targets import UNIT_VARIANCE, normalise_targets


class ProSMIN(Distilling):
    """Predict a distribution over the target network's output for the other view.

    Training minimises a proper scoring rule. Vahidi et al., ICLR 2024, arXiv 2309.02048, with a
    closed-form score, normalised targets and linear heads; docs/method.md gives the reasons.
    """

    def __init__(self, encoder: Encoder, hidden_dim: int, dim: int, settings: s.ProSMIN):
        super().__init__(encoder, Projector(encoder.num_features, hidden_dim, dim))
        samples = settings.samples if settings.estimator == "monte_carlo" else None
        self.score = scoring.rule(settings.rule, settings.lambda_, samples, settings.bandwidth)
        low, high = settings.log_sigma
        self.head: nn.Module
        if settings.rule == "point":
            self.head, self.sigma_range = nn.Linear(dim, dim), None
        else:
            self.head, self.sigma_range = GaussianHead(dim, (low, high)), (low, high)
        self.follow(self.encoder, self.projector)
        self.dim, self.normalise, self.shrinkage = dim, settings.normalise, settings.shrinkage
        self.noise = settings.noise

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Predict by the online network.

        images: [B, C, S, S]. Returns features [B, F], mu [B, D] and log sigma [B, D]. A point
        prediction is a distribution without width: its log sigma is minus infinity.
        """
        features = self.encoder(images)
        return features, *self._distribution(self.projector(features))

    def _distribution(self, projection: Tensor) -> tuple[Tensor, Tensor]:
        """projection [B, D] -> mu [B, D], log sigma [B, D]."""
        if self.sigma_range is None:
            mu = self.head(projection)
            return mu, torch.full_like(mu, -math.inf)
        mu, log_sigma = self.head(projection)
        return mu, log_sigma

    def describe(self, images: Tensor) -> Description:
        features = self.encoder(images)
        projection = self.projector(features)
        mu, log_sigma = self._distribution(projection)
        doubts = {"projection_norm": minus_length(projection), "mean_norm": minus_length(mu)}
        if self.normalise in UNIT_VARIANCE:
            doubts["unexplained"] = 1.0 - mu.float().square().mean(1)
        return Description(features, None if self.sigma_range is None else log_sigma, doubts)

    @torch.no_grad()
    def targets(self, images: Tensor) -> Tensor:
        """images [B, C, S, S] -> normalised target projections [B, D]."""
        y = super().targets(images).float()
        with full_precision(y):
            return normalise_targets(y, self.normalise, self.shrinkage)

    def forward(self, views: Sequence[Tensor], generator: torch.Generator | None = None) -> Tensor:
        count = len(views[0])
        seen, *local = batches_by_size(views)
        predictions = [self.predict(batch)[1:] for batch in (seen, *local)]
        mu, log_sigma = (
            torch.split(torch.cat(parts).float(), count) for parts in zip(*predictions, strict=True)
        )
        targets = self.targets(seen)
        if self.noise:
            noise = torch.randn(targets.shape, generator=generator, device=targets.device)
            targets = targets + self.noise * noise
        y = torch.split(targets, count)
        with full_precision(seen):
            losses = [
                self.score(mu[online], log_sigma[online].exp(), y[target], generator).mean()
                for online, target in pairs(len(views))
            ]
            return torch.stack(losses).mean()

    def check_batch(self, batch_size: int) -> None:
        """Refuse a batch, over all processes, that is too small for a full-rank covariance."""
        if self.normalise == "whiten" and self.shrinkage == 0 and 2 * batch_size <= self.dim:
            needed = (
                f"whitening {self.dim} dimensions needs more than {math.ceil(self.dim / 2)} images"
            )
            raise ConfigError("batch_size", batch_size, f"{needed}, or objective.shrinkage above 0")
