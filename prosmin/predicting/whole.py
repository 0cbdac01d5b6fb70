"""A whole model as one function of images, which can become a graph for other runtimes.

It gives what a prediction has that needs no training image, in float32, because few runtimes
compute in float64.

Letters in shapes: B images, C classes, F features, S pixels a side.
"""

import numpy as np
import torch
from torch import Tensor, nn

from prosmin.evaluation.covariance import Means
from prosmin.evaluation.linear_probe import Probe
from prosmin.metrics import conformal
from prosmin.predicting.model import Model


class Whole(nn.Module):
    """The networks, and all that follows them, as one function of images.

    Its outputs, by name, in this order:
    features: ``[B, F]``.
    logits, probabilities: ``[B, C]``, before and after the calibration.
    set: bool ``[B, C]``, the conformal sets.
    entropy: ``[B]``, of the probabilities.
    log_sigma, and the doubts of ``prosmin.objectives.doubts`` that the networks give: ``[B]``.
    ood_mahalanobis: ``[B]``. The other detectors need the features of all training images.

    Without labels, logits, probabilities, set, entropy and ood_mahalanobis are missing.
    """

    def __init__(self, model: Model):
        super().__init__()
        self.networks = model.networks
        self.probe, self.means = _probe(model.probe), _means(model.reference.detectors.means)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Compute the outputs of images uint8 ``[B, channels, S, S]``."""
        described = self.networks.describe(images.float() / 255.0)
        features = described.features.float()
        found = {"features": features}
        if self.probe is not None:
            found |= self.probe(features)
        if described.log_sigma is not None:
            found["log_sigma"] = described.log_sigma.float().mean(1)
        found |= {name: values.float() for name, values in described.doubts.items()}
        if self.means is not None:
            found["ood_mahalanobis"] = self.means(features)
        return found


class _Classifier(nn.Module):
    """A probe behind features, as ``Model.predict_prepared`` applies it."""

    weight: Tensor
    bias: Tensor
    mean: Tensor
    std: Tensor
    penalty: Tensor

    def __init__(self, probe: Probe):
        super().__init__()
        for name in ("weight", "bias", "mean", "std"):
            self.register_buffer(name, torch.from_numpy(getattr(probe, name)))
        self.temperature, self.threshold = probe.temperature, probe.threshold
        rank = np.arange(1, len(probe.bias) + 1)
        penalty = conformal.PENALTY * np.maximum(rank - conformal.FREE, 0)
        self.register_buffer("penalty", torch.from_numpy(penalty).float())

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        logits = ((features - self.mean) / self.std) @ self.weight.T + self.bias
        probabilities = (logits / self.temperature).softmax(1)
        # The scores of ``conformal.scores``. TopK of ONNX puts the lower of equal classes first.
        ranked, order = probabilities.topk(probabilities.shape[1], dim=1)
        before = ranked.cumsum(1) - ranked + self.penalty
        scores = torch.zeros_like(probabilities).scatter(1, order, before)
        logs = probabilities.clamp_min(torch.finfo(torch.float32).tiny).log()
        return {
            "logits": logits,
            "probabilities": probabilities,
            "set": scores <= self.threshold,
            "entropy": -(probabilities * logs).sum(1),
        }


class _Distances(nn.Module):
    """``Means.distances``."""

    centre: Tensor
    whiten: Tensor
    means: Tensor
    halves: Tensor

    def __init__(self, means: Means):
        super().__init__()
        halves = np.square(means.means).sum(axis=1) / 2
        arrays = {**vars(means), "halves": halves}
        for name, array in arrays.items():
            self.register_buffer(name, torch.from_numpy(array).float())

    def forward(self, features: Tensor) -> Tensor:
        away = (features - self.centre) @ self.whiten
        closest = (away @ self.means.T - self.halves).amax(1)
        return (away.square().sum(1) - 2 * closest).clamp_min(0)


def _probe(probe: Probe | None) -> _Classifier | None:
    return None if probe is None else _Classifier(probe)


def _means(means: Means | None) -> _Distances | None:
    return None if means is None else _Distances(means)
