"""Frozen features of images, and the label-free scores of the networks."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from prosmin.objectives.base import Description, Objective


@torch.inference_mode()
def embed(encoder: nn.Module, images: Tensor, batch_size: int = 512) -> np.ndarray:
    """Compute float32 features [N, F] of uint8 images [N, C, S, S], in their order.

    encoder: in evaluation mode.
    """
    device = next(encoder.parameters()).device
    parts = [
        encoder(batch.to(device).float() / 255.0).float().cpu()
        for batch in torch.split(images, batch_size)
    ]
    return torch.cat(parts).numpy()


@dataclass(frozen=True)
class Embedding:
    """Features and label-free scores of N images.

    features: float32 [N, F].
    log_sigma: predicted log sigma, mean over dimensions, float32 [N]; ``None`` where the objective
        predicts no distribution.
    doubts: by name in ``prosmin.objectives.doubts``, float32 [N], high where unsure.
    """

    features: np.ndarray
    log_sigma: np.ndarray | None
    doubts: dict[str, np.ndarray]


@torch.inference_mode()
def describe(model: Objective, images: Tensor, batch_size: int = 512) -> Embedding:
    """Compute the embedding of uint8 images [N, C, S, S], in their order and in one pass.

    model: in evaluation mode.
    """
    device = next(model.parameters()).device
    parts = [
        _on_cpu(model.describe(batch.to(device).float() / 255.0))
        for batch in torch.split(images, batch_size)
    ]
    whole = {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}
    return Embedding(whole.pop("features"), whole.pop("log_sigma", None), whole)


def _on_cpu(description: Description) -> dict[str, Tensor]:
    """The fields of ``Embedding`` and the doubts by their names, of one batch."""
    rows = {"features": description.features, **description.doubts}
    if description.log_sigma is not None:
        rows["log_sigma"] = description.log_sigma.float().mean(1)
    return {name: values.float().cpu() for name, values in rows.items()}
