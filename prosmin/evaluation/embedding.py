"""Frozen features of images."""

import numpy as np
import torch
from torch import Tensor, nn

from prosmin.objectives.base import Objective


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


@torch.inference_mode()
def embed_with_sigma(
    model: Objective, images: Tensor, batch_size: int = 512
) -> tuple[np.ndarray, np.ndarray | None]:
    """Compute features [N, F] and mean predicted log sigma [N] of uint8 images [N, C, S, S].

    Both come from one pass. log sigma is None where the objective predicts no distribution.
    """
    device = next(model.parameters()).device
    features, log_sigmas = [], []
    for batch in torch.split(images, batch_size):
        feature, log_sigma = model.describe(batch.to(device).float() / 255.0)
        features.append(feature.float().cpu())
        if log_sigma is not None:
            log_sigmas.append(log_sigma.float().mean(1).cpu())
    return torch.cat(features).numpy(), torch.cat(log_sigmas).numpy() if log_sigmas else None
