"""Weather: snow, frost, fog, and light."""

import math

import torch
from torch import Generator, Tensor

from prosmin.corruptions.filters import centre, enlarge, motion
from prosmin.corruptions.registry import corruption, grey, normal, uniform
from prosmin.corruptions.textures import Frost, plasma, procedural_frost


@corruption(
    [
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ],
    [
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ],
)
def snow(images: Tensor, fall: tuple[float, ...], generator: Generator | None) -> Tensor:
    """Lay flakes over the image, and whiten it.

    Flakes are enlarged normal noise above a threshold, smeared downwards. They are added twice, the
    second time turned by 180 degrees.

    fall: mean, standard deviation and enlargement of the noise; threshold; radius and standard
        deviation of the smear in pixels; share of the image that is not whitened.
    """
    mean, deviation, factor, threshold, radius, smear, kept = fall
    count, _, height, width = images.shape
    flakes = normal((count, 1, centre(height, factor), centre(width, factor)), generator, images)
    angles = uniform((count,), -0.75 * math.pi, -0.25 * math.pi, generator, images)
    flakes = enlarge(flakes.mul_(deviation).add_(mean), factor)
    layer = _layer(flakes, threshold, int(radius), smear, angles)[:, :, :height, :width]
    white = torch.maximum(images, grey(images) * 1.5 + 0.5)
    return images * kept + white * (1 - kept) + layer + layer.flip(2, 3)


def _layer(flakes: Tensor, threshold: float, radius: int, smear: float, angles: Tensor) -> Tensor:
    flakes = flakes.masked_fill(flakes < threshold, 0).clamp_(0, 1)
    return motion(flakes, radius, smear, angles).mul_(255).round_().div_(255)


@corruption(
    [(1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)],
    [(1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)],
)
def frost(
    images: Tensor,
    shares: tuple[float, float],
    generator: Generator | None,
    panes: Frost | None = None,
) -> Tensor:
    """Add a random part of a random pane to the image.

    shares: of the image and of the pane in the sum.
    panes: None for procedural panes.
    """
    count, channels, height, width = images.shape
    fitted = (panes or procedural_frost()).fitted(height, width, images.device)
    draws = uniform((3, count), 0, 1, generator, images).double().tolist()
    parts = []
    for which, down, across in zip(*draws):
        pane = fitted[int(which * len(fitted))]
        top, left = int(down * (pane.shape[1] - height)), int(across * (pane.shape[2] - width))
        parts.append(pane[:, top : top + height, left : left + width])
    ice = torch.stack(parts)
    return images.mul_(shares[0]).add_(ice if channels == 3 else grey(ice), alpha=shares[1])


@corruption(
    [(1.5, 2), (2.0, 2), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4)],
    [(0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)],
)
def fog(images: Tensor, thickness: tuple[float, float], generator: Generator | None) -> Tensor:
    """Add a fractal map; the brightest value of the image stays.

    The side of the map is the next power of two, as for ImageNet-C (256) and CIFAR-10-C (32).

    thickness: factor of the map, and decay of its roughness as for ``plasma``.
    """
    amount, decay = thickness
    count, _, height, width = images.shape
    size = max(2, 1 << (max(height, width) - 1).bit_length())
    cloud = plasma(count, size, decay, generator, images.device)[:, None, :height, :width]
    brightest = images.amax((1, 2, 3), keepdim=True)
    return images.add_(cloud, alpha=amount).mul_(brightest / (brightest + amount))


@corruption([0.1, 0.2, 0.3, 0.4, 0.5], [0.05, 0.1, 0.15, 0.2, 0.3])
def brightness(images: Tensor, amount: float, generator: Generator | None) -> Tensor:
    """Raise the V of HSV, the largest channel, to 1 at most; hue and saturation stay."""
    value = images.amax(1, keepdim=True)
    raised = (value + amount).clamp_(max=1)
    black = value == 0  # black has no hue to keep, and becomes grey
    return torch.where(black, raised, images.mul_(raised / value))
