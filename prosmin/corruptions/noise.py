"""Noise, independent for every pixel and channel."""

import torch
from torch import Generator, Tensor

from prosmin.corruptions.registry import corruption, normal


@corruption([0.08, 0.12, 0.18, 0.26, 0.38], [0.04, 0.06, 0.08, 0.09, 0.10])
def gaussian_noise(images: Tensor, deviation: float, generator: Generator | None) -> Tensor:
    """Normal noise of this standard deviation."""
    return images.add_(normal(images.shape, generator, images), alpha=deviation)


@corruption([60, 25, 12, 5, 3], [500, 250, 100, 75, 50])
def shot_noise(images: Tensor, photons: float, generator: Generator | None) -> Tensor:
    """Poisson noise: a white pixel collects this many photons on average."""
    return torch.poisson(images.mul_(photons), generator).div_(photons)


@corruption([0.03, 0.06, 0.09, 0.17, 0.27], [0.01, 0.02, 0.03, 0.05, 0.07])
def impulse_noise(images: Tensor, share: float, generator: Generator | None) -> Tensor:
    """Salt and pepper: this share of all values becomes 0 or 1 in equal parts.

    Every channel is drawn by itself.
    """
    draw = torch.rand(images.shape, generator=generator, device=images.device)
    return images.masked_fill_(draw < share, 1.0).masked_fill_(draw < share / 2, 0.0)


@corruption([0.15, 0.2, 0.35, 0.45, 0.6], [0.06, 0.1, 0.12, 0.16, 0.2])
def speckle_noise(images: Tensor, deviation: float, generator: Generator | None) -> Tensor:
    """Normal noise whose standard deviation is proportional to the value."""
    return images.addcmul_(images, normal(images.shape, generator, images), value=deviation)
