"""The register of corruptions, and functions that several of them share."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor

from prosmin.corruptions import SEVERITIES

SMALL = 64  # pixels; images up to this size take the constants of CIFAR-10-C

Corruption = Callable[..., Tensor]
"""Maps uint8 images [N, C, H, W], a severity and a generator to uint8 images."""

TYPES: dict[str, Corruption] = {}
"""The registered corruptions by name."""


def is_small(images: Tensor) -> bool:
    """Return whether images take the constants of CIFAR-10-C."""
    return max(images.shape[-2:]) <= SMALL


def corruption(large: list[Any], small: list[Any]) -> Callable[[Callable[..., Tensor]], Corruption]:
    """Register the decorated function as a corruption of its own name.

    The function maps float images [N, C, H, W] in [0, 1], the constant of a severity and a
    generator to float images, which are cut to [0, 1].

    large, small: constants of severities 1 to 5, for large and for small images.
    """

    def register(function: Callable[..., Tensor]) -> Corruption:
        @functools.wraps(function)
        def corrupted(
            images: Tensor, severity: int, generator: Generator | None, **options: Any
        ) -> Tensor:
            if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
                raise ValueError(
                    f"images are {images.dtype} {list(images.shape)}; "
                    "needed: uint8 [N, 1 or 3, H, W]"
                )
            if severity not in SEVERITIES:
                raise ValueError(f"severity is {severity!r}; allowed: 1 to 5")
            constant = (small if is_small(images) else large)[severity - 1]
            result = function(images.float().div_(255), constant, generator, **options)
            return result.clamp(0, 1).mul_(255).round_().to(torch.uint8)

        TYPES[function.__name__] = corrupted
        return corrupted

    return register


def normal(
    shape: torch.Size | tuple[int, ...], generator: Generator | None, like: Tensor
) -> Tensor:
    """Draw standard normal numbers on the device of ``like``."""
    return torch.randn(shape, generator=generator, device=like.device)


def uniform(
    shape: torch.Size | tuple[int, ...],
    low: float,
    high: float,
    generator: Generator | None,
    like: Tensor,
) -> Tensor:
    """Draw uniform numbers from [low, high) on the device of ``like``."""
    return torch.rand(shape, generator=generator, device=like.device).mul_(high - low).add_(low)


def grey(images: Tensor) -> Tensor:
    """Compute the luma of ITU-R BT.601, [N, 1, H, W]; images of one channel stay as they are."""
    if images.shape[1] == 1:
        return images
    red, green, blue = torch.split(images, 1, dim=1)
    luma: Tensor = 0.299 * red + 0.587 * green + 0.114 * blue
    return luma
