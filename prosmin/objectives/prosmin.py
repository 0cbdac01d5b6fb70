"""ProSMIN: predict a distribution over the target network's output for the other view."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prosmin import scoring
from prosmin.common import distributed
from prosmin.common.errors import ConfigError
from prosmin.models.candidates import Candidates
from prosmin.models.networks import Encoder, GaussianHead, Projector, WidthHead
from prosmin.objectives import settings as s
from prosmin.objectives.base import (
    Description,
    Distilling,
    batches_by_size,
    full_precision,
    minus_length,
    outputs_of,
    pairs,
)
from prosmin.objectives.targets import UNIT_VARIANCE, normalise_targets


class Prediction(NamedTuple):
    """What the heads compute from projections [B, D].

    mu, log_sigma: [B, D], the distribution that the regression scores. A point prediction is a
        distribution without width: its log sigma is minus infinity.
    mean: [B, D], the direction of the target in the identification. Its length has no effect.
    log_width: [B], of the density around this direction.

    Without a regression mu is the mean; without an identification the mean is mu.
    """

    mu: Tensor
    log_sigma: Tensor
    mean: Tensor
    log_width: Tensor


class ProSMIN(Distilling):
    """Predict a distribution over the target network's output for the other view.

    Training minimises proper scores of two questions, by their weights: what is the target (the
    regression), and which target of the batch is the own one (the identification)? Vahidi et al.,
    ICLR 2024, arXiv 2309.02048, with a closed-form score, normalised targets and linear heads;
    docs/method.md gives the reasons.
    """

    def __init__(self, encoder: Encoder, hidden_dim: int, dim: int, settings: s.ProSMIN):
        super().__init__(encoder, Projector(encoder.num_features, hidden_dim, dim))
        samples = settings.samples if settings.estimator == "monte_carlo" else None
        self.score = scoring.rule(settings.rule, settings.lambda_, samples, settings.bandwidth)
        self.regression, self.identification = settings.regression, settings.identification
        self.heads, self.width_kind = settings.heads, settings.width
        low, high = settings.log_sigma
        self.head: nn.Module | None = None
        if settings.regression and settings.rule == "point":
            self.head = nn.Linear(dim, dim)
        elif settings.regression:
            self.head, self.sigma_range = GaussianHead(dim, (low, high)), (low, high)
        self.mean: nn.Module | None = None
        self.width: nn.Module | None = None
        if settings.identification:
            if self.head is None or settings.heads != "shared":
                self.mean = nn.Linear(dim, dim)
            self.width = WidthHead(dim, settings.width, settings.initial_width)
            self.candidates = Candidates(dim)
        self.follow(self.encoder, self.projector)
        self.dim, self.normalise, self.shrinkage = dim, settings.normalise, settings.shrinkage
        self.noise = settings.noise

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Predict the distribution of the target by the online network.

        images: [B, C, S, S]. Returns features [B, F], mu [B, D] and log sigma [B, D].
        """
        features = self.encoder(images)
        prediction = self.predict_from(self.projector(features))
        return features, prediction.mu, prediction.log_sigma

    def predict_from(self, projection: Tensor) -> Prediction:
        """Apply the heads to projections [B, D]."""
        if self.width is None:
            log_width = torch.full_like(projection[:, 0], -math.inf)
        else:
            log_width = self.width(projection)
        mean: Tensor | None = None if self.mean is None else self.mean(projection)
        if self.head is None:
            assert mean is not None
            return Prediction(mean, torch.full_like(mean, -math.inf), mean, log_width)
        given = projection.detach() if self.heads == "stopped" else projection
        if self.sigma_range is None:
            mu = self.head(given)
            log_sigma = torch.full_like(mu, -math.inf)
        else:
            mu, log_sigma = self.head(given)
        return Prediction(mu, log_sigma, mu if mean is None else mean, log_width)

    def set_candidates(self, images: Tensor) -> None:
        if self.width is not None:
            y = outputs_of(super().targets, images, self.candidates.targets.device)
            with full_precision(y), distributed.alone():
                self.candidates.set(normalise_targets(y, self.normalise, self.shrinkage))

    def describe(self, images: Tensor) -> Description:
        features = self.encoder(images)
        projection = self.projector(features)
        mu, log_sigma, mean, log_width = self.predict_from(projection)
        doubts = {"projection_norm": minus_length(projection), "mean_norm": minus_length(mu)}
        if self.head is not None and self.normalise in UNIT_VARIANCE:
            doubts["unexplained"] = 1.0 - mu.float().square().mean(1)
        if self.width is not None:
            if self.width_kind == "predicted":
                doubts["width"] = log_width
            doubts |= self.candidates.doubts(mean, log_width)
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
        predictions = [self.predict_from(self.project(batch)) for batch in (seen, *local)]
        mu, log_sigma, mean, log_width = (
            torch.split(torch.cat(parts).float(), count) for parts in zip(*predictions, strict=True)
        )
        targets = self.targets(seen)
        if self.noise:
            noise = torch.randn(targets.shape, generator=generator, device=targets.device)
            targets = targets + self.noise * noise
        y = torch.split(targets, count)
        terms = []
        with full_precision(seen):
            if self.regression:
                losses = [
                    self.score(mu[online], log_sigma[online].exp(), y[target], generator).mean()
                    for online, target in pairs(len(views))
                ]
                terms.append(self.regression * torch.stack(losses).mean())
            if self.identification:
                scores = identification_scores(mean, log_width, y)
                terms.append(self.identification * torch.stack(scores).mean())
            return torch.stack(terms).sum()

    def check_batch(self, batch_size: int) -> None:
        """Refuse a batch, over all processes, that is too small for a full-rank covariance."""
        if self.normalise == "whiten" and self.shrinkage == 0 and 2 * batch_size <= self.dim:
            needed = (
                f"whitening {self.dim} dimensions needs more than {math.ceil(self.dim / 2)} images"
            )
            raise ConfigError("batch_size", batch_size, f"{needed}, or objective.shrinkage above 0")


def identification_scores(
    means: Sequence[Tensor], log_widths: Sequence[Tensor], targets: Sequence[Tensor]
) -> list[Tensor]:
    """The mean score of the identification, [], of every pair of a view and a global target.

    Candidates are the targets of both global views and of all processes, as unit vectors. Of the
    two targets of the image itself, the one that is not asked about is no candidate: it was made
    from the very view that predicts, or it is right, too.

    means: of every view, of any length, [B, D].
    log_widths: of every view, [B].
    targets: of the two global views, [B, D].
    """
    gathered = [distributed.gather(F.normalize(y, dim=1)) for y in targets]
    candidates, total = torch.cat(gathered), len(gathered[0])  # [2N, D], N
    count = len(targets[0])
    row = torch.arange(count, device=candidates.device) + distributed.rank() * count
    rows = (row, row + total)
    directions = [F.normalize(mean, dim=1) for mean in means]
    return [
        scoring.identification(
            directions[online], log_widths[online], candidates, rows[target], rows[1 - target]
        ).mean()
        for online, target in pairs(len(means))
    ]
