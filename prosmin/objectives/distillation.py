"""Baselines that predict a target and contrast nothing: BYOL, SimSiam, DINO, SwAV."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prosmin.common import distributed
from prosmin.models.networks import Encoder, Projector
from prosmin.objectives import settings as s
from prosmin.objectives.base import (
    Distilling,
    Projecting,
    full_precision,
    outputs_per_view,
    pairs,
)


def _mean_cosine(predictions: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """Mean cosine, [], of predictions [B, D] and targets [B, D] over pairs of different views."""
    cosines = [
        F.cosine_similarity(predictions[online], targets[target], dim=1).mean()
        for online, target in pairs(len(predictions))
    ]
    return torch.stack(cosines).mean()


def _mean_cross_entropy(predicted: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """Mean cross-entropy, [], over pairs of different views.

    predicted: log probabilities [B, P]. targets: probabilities [B, P].
    """
    losses = [
        -(targets[target] * predicted[online]).sum(1).mean()
        for online, target in pairs(len(predicted))
    ]
    return torch.stack(losses).mean()


class BYOL(Distilling):
    """Grill et al., NeurIPS 2020, arXiv 2006.07733, eq. 2: 2 - 2 cos, a squared distance."""

    def __init__(self, encoder: Encoder, hidden_dim: int, dim: int, settings: s.BYOL):
        super().__init__(encoder, Projector(encoder.num_features, hidden_dim, dim))
        self.predictor = Projector(dim, hidden_dim, dim)
        self.follow(self.encoder, self.projector)

    def predicted_mean(self, projection: Tensor) -> Tensor:
        mean: Tensor = self.predictor(projection)
        return mean

    def forward(self, views: Sequence[Tensor], generator: torch.Generator | None = None) -> Tensor:
        predictions = outputs_per_view(
            lambda images: self.predicted_mean(self.project(images)), views
        )
        return 2.0 - 2.0 * _mean_cosine(predictions, outputs_per_view(self.targets, views[:2]))


class SimSiam(Projecting):
    """Chen & He, CVPR 2021, arXiv 2011.10566, eq. 1-2: minus the cosine, without a target network.

    The targets are the network's own projections, without gradient. The projection is
    batch-normalised and the predictor has a bottleneck, as in the paper.
    """

    def __init__(self, encoder: Encoder, hidden_dim: int, dim: int, settings: s.SimSiam):
        super().__init__(encoder, Projector(encoder.num_features, hidden_dim, dim))
        self.norm = nn.BatchNorm1d(dim, affine=False)
        self.predictor = Projector(dim, settings.predictor_dim, dim)

    def predicted_mean(self, projection: Tensor) -> Tensor:
        mean: Tensor = self.predictor(self.norm(projection))
        return mean

    def forward(self, views: Sequence[Tensor], generator: torch.Generator | None = None) -> Tensor:
        projections: list[Tensor] = []

        def predict(images: Tensor) -> Tensor:
            projections.append(self.norm(self.project(images)))
            prediction: Tensor = self.predictor(projections[-1])
            return prediction

        predictions = outputs_per_view(predict, views)
        targets = torch.split(projections[0].detach().float(), len(views[0]))  # of global views
        return -_mean_cosine(predictions, targets)


class Prototypes(nn.Module):
    """The last layer of DINO: [B, D] -> cosines [B, P] with P learned unit vectors."""

    def __init__(self, dim: int, count: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(count, dim))

    def forward(self, projection: Tensor) -> Tensor:
        return F.linear(F.normalize(projection, dim=1), F.normalize(self.weight, dim=1))


class DINO(Distilling):
    """Caron et al., ICCV 2021, arXiv 2104.14294, alg. 1: cross-entropy of soft assignments.

    The target's logits are centred by their moving average over the batches of all processes, so
    that no prototype wins every image.
    """

    centre: Tensor

    def __init__(self, encoder: Encoder, hidden_dim: int, dim: int, settings: s.DINO):
        super().__init__(encoder, Projector(encoder.num_features, hidden_dim, dim))
        self.prototypes = Prototypes(dim, settings.prototypes)
        self.follow(self.encoder, self.projector, self.prototypes)
        self.register_buffer("centre", torch.zeros(settings.prototypes))
        self.temperature = settings.temperature
        self.target_temperature = settings.target_temperature
        self.centre_momentum = settings.centre_momentum

    def forward(self, views: Sequence[Tensor], generator: torch.Generator | None = None) -> Tensor:
        logits = outputs_per_view(lambda images: self.prototypes(self.project(images)), views)
        targets = outputs_per_view(self.targets, views[:2])
        soft = [
            F.softmax((output - self.centre) / self.target_temperature, dim=1) for output in targets
        ]
        sharp = [F.log_softmax(output / self.temperature, dim=1) for output in logits]
        if self.training:
            with torch.no_grad():
                self.centre.lerp_(
                    distributed.mean(torch.cat(targets).mean(0)), 1.0 - self.centre_momentum
                )
        return _mean_cross_entropy(sharp, soft)


class SwAV(Projecting):
    """Caron et al., NeurIPS 2020, arXiv 2006.09882, eq. 1-5, without a queue.

    The target of a view is the assignment of another, global view to the prototypes. Assignments
    are balanced over the batch of all processes and take no gradient.
    """

    def __init__(self, encoder: Encoder, hidden_dim: int, dim: int, settings: s.SwAV):
        super().__init__(encoder, Projector(encoder.num_features, hidden_dim, dim))
        self.prototypes = nn.Parameter(F.normalize(torch.randn(settings.prototypes, dim), dim=1))
        self.temperature, self.epsilon = settings.temperature, settings.epsilon
        self.iterations = settings.iterations

    def forward(self, views: Sequence[Tensor], generator: torch.Generator | None = None) -> Tensor:
        z = [F.normalize(output, dim=1) for output in outputs_per_view(self.project, views)]
        with full_precision(z[0]):
            scores = [view @ self.prototypes.T for view in z]
            count, first = len(z[0]), distributed.rank() * len(z[0])
            assignments = [
                balanced_assignments(distributed.gather(view), self.epsilon, self.iterations)[
                    first : first + count
                ]
                for view in (score.detach() for score in scores[:2])
            ]
            predicted = [F.log_softmax(score / self.temperature, dim=1) for score in scores]
            return _mean_cross_entropy(predicted, assignments)

    @torch.no_grad()
    def momentum_update(self, momentum: float) -> None:
        """Give the prototypes unit length again after a step; there is no target network."""
        self.prototypes.copy_(F.normalize(self.prototypes, dim=1))


def balanced_assignments(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Assign images to prototypes so that all prototypes get about equally many (Sinkhorn-Knopp).

    scores: cosines [N, P]. epsilon: entropy of the assignments; near 0 they are hard. iterations:
    how often the shares of the prototypes and those of the images are made equal.

    Returns: [N, P], with sum 1 per image.
    """
    logarithms = scores / epsilon  # in which no large score overflows
    for _ in range(iterations):
        logarithms = F.log_softmax(F.log_softmax(logarithms, dim=0), dim=1)
    return logarithms.exp()
