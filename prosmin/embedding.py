"""Frozen features of a dataset."""

import numpy as np
import torch
from torch import Tensor, nn

from prosmin.objectives import ProSMIN


@torch.inference_mode()
def embed(encoder: nn.Module, images: Tensor, batch_size: int = 512) -> np.ndarray:
    """uint8 images [N, C, S, S] -> float32 features [N, F], in order, of a module in evaluation mode."""
    device = next(encoder.parameters()).device
    parts = [encoder(batch.to(device).float() / 255.0).float().cpu() for batch in images.split(batch_size)]
    return torch.cat(parts).numpy()


@torch.inference_mode()
def embed_with_sigma(model: ProSMIN, images: Tensor, batch_size: int = 512) -> tuple[np.ndarray, np.ndarray]:
    """uint8 images [N, C, S, S] -> features [N, F] and, from the same pass, the mean predicted log sigma [N]."""
    device = next(model.parameters()).device
    features, log_sigmas = [], []
    for batch in images.split(batch_size):
        feature, _, log_sigma = model.predict(batch.to(device).float() / 255.0)
        features.append(feature.float().cpu())
        log_sigmas.append(log_sigma.float().mean(1).cpu())
    return torch.cat(features).numpy(), torch.cat(log_sigmas).numpy()
