"""What a training step minimises.

An objective owns the online and the target network. ``forward(views)`` returns the loss, ready for ``backward``, and
``momentum_update`` is called after the optimiser's step.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from prosmin import processes, scoring
from prosmin.errors import ConfigError
from prosmin.networks import Encoder, GaussianHead, Projector, momentum_copy, update_momentum

NORMALISATIONS = ("none", "centre", "standardise", "whiten")


@torch.no_grad()
def normalise_targets(y: Tensor, how: str, shrinkage: float = 0.0) -> Tensor:
    """Targets [N, D] with the statistics of the batch, over all processes, removed.

    centre: mean 0. standardise: and variance 1 in each dimension. whiten: and covariance 1, by the symmetric
    inverse root (ZCA) of the covariance shrunk towards its mean variance, (1 - s) C + s (tr C / D) I. Without it a
    constant output is the easiest to predict; removing scale and correlation removes that reward.
    """
    if how == "none":
        return y
    y = y.float()
    y = y - processes.mean(y.mean(0))
    if how == "centre":
        return y
    if how == "standardise":
        return y * processes.mean(y.square().mean(0)).clamp_min(1e-12).rsqrt()
    covariance = processes.mean(y.T @ y / len(y))
    scale = covariance.diagonal().mean()
    covariance = (1.0 - shrinkage) * covariance + shrinkage * scale * torch.eye(
        y.shape[1], device=y.device, dtype=y.dtype
    )
    # The float64 decomposition of a D x D matrix costs little and keeps small eigenvalues above 0. It raises on NaN,
    # which is for the training loop to report; y carries the NaN on to the loss.
    values, vectors = torch.linalg.eigh(covariance.double().nan_to_num())
    floor = (1e-9 * scale.double()).clamp_min(1e-12)
    root = vectors * torch.maximum(values, floor).rsqrt() @ vectors.T
    return y @ root.to(y.dtype)


class ProSMIN(nn.Module):
    """Predict a distribution over the momentum target's output for the other view; minimise a proper scoring rule.

    Vahidi et al., ICLR 2024, arXiv 2309.02048, with a closed-form score, normalised targets and linear heads
    (docs/method.md says what differs and why).

    encoder: [B, C, S, S] -> [B, F]. The first two views are global: both networks see them. Further (local) views
    go through the online network alone. Every online view predicts every global view but itself.
    """

    def __init__(
        self,
        encoder: Encoder,
        hidden_dim: int,
        dim: int,
        *,
        log_sigma: tuple[float, float] = (-4.0, 2.0),
        lambda_: float = 1.0,
        samples: int | None = None,
        normalise: str = "whiten",
        shrinkage: float = 0.1,
    ):
        """samples: of the Monte Carlo score; None minimises the closed form."""
        super().__init__()
        scoring.check_lambda(lambda_)
        if normalise not in NORMALISATIONS:
            raise ConfigError("target.normalise", normalise, f"it must be one of {', '.join(NORMALISATIONS)}")
        self.encoder = encoder
        self.projector = Projector(encoder.num_features, hidden_dim, dim)
        self.head = GaussianHead(dim, log_sigma)
        self.target = momentum_copy(self.encoder, self.projector)
        self.dim, self.lambda_, self.samples = dim, lambda_, samples
        self.normalise, self.shrinkage = normalise, shrinkage

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """images [B, C, S, S] -> features [B, F], mu [B, D], log sigma [B, D] of the online network."""
        features = self.encoder(images)
        return features, *self.head(self.projector(features))

    @torch.no_grad()
    def targets(self, images: Tensor) -> Tensor:
        """images [B, C, S, S] -> normalised target projections [B, D]."""
        encoder, projector = self.target
        return normalise_targets(projector(encoder(images)), self.normalise, self.shrinkage)

    def forward(self, views: Sequence[Tensor], generator: torch.Generator | None = None) -> Tensor:
        """views: two global [B, C, S, S], then any local [B, C, s, s] of one size -> scalar loss."""
        count = len(views[0])
        seen = torch.cat(list(views[:2]))
        predictions = [self.predict(seen)[1:]]
        if len(views) > 2:
            predictions.append(self.predict(torch.cat(list(views[2:])))[1:])
        mu, log_sigma = (torch.cat(parts).float().split(count) for parts in zip(*predictions, strict=True))
        y = self.targets(seen).split(count)
        score = self._score(generator)
        with torch.autocast(seen.device.type, enabled=False):  # a score is a difference of near-equal terms
            losses = [
                score(mu[online], log_sigma[online].exp(), y[target].float()).mean()
                for online in range(len(views))
                for target in range(2)
                if online != target
            ]
            return torch.stack(losses).mean()

    def _score(self, generator: torch.Generator | None) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        if self.samples is None:
            return lambda mu, sigma, y: scoring.crps(mu, sigma, y, self.lambda_)
        samples = self.samples
        return lambda mu, sigma, y: scoring.crps_monte_carlo(mu, sigma, y, self.lambda_, samples, generator)

    def momentum_update(self, momentum: float) -> None:
        update_momentum(self.target, (self.encoder, self.projector), momentum)

    def check_batch(self, batch_size: int) -> None:
        """Refuse a batch, over all processes, from which no full-rank covariance can be estimated."""
        if self.normalise == "whiten" and self.shrinkage == 0 and 2 * batch_size <= self.dim:
            raise ConfigError(
                "batch_size",
                batch_size,
                f"whitening {self.dim} dimensions needs more than {math.ceil(self.dim / 2)} images, "
                "or target.shrinkage above 0",
            )
