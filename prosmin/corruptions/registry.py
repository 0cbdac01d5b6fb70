"""How a corruption is written down: one function of float images, its constants, and the checks they share."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor

SMALL = 64  # pixels: up to here the constants of CIFAR-10-C
SEVERITIES = (1, 2, 3, 4, 5)

Corruption = Callable[..., Tensor]

TYPES: dict[str, Corruption] = {}


def is_small(images: Tensor) -> bool:
    return max(images.shape[-2:]) <= SMALL


def corruption(large: list[Any], small: list[Any]) -> Callable[[Callable[..., Tensor]], Corruption]:
    """Register a type under its function's name. large, small: the constants of severities 1 to 5 by image size.

    The function maps float images [N,C,H,W] in [0, 1], the constant of a severity and a generator to float images, which
    are cut to [0, 1]; what is registered maps uint8 images, a severity and a generator to uint8 images.
    """

    def register(function: Callable[..., Tensor]) -> Corruption:
        @functools.wraps(function)
        def corrupted(
            images: Tensor, severity: int, generator: Generator | None, **given: Any
        ) -> Tensor:
            if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
                raise ValueError(
                    f"images are {images.dtype} {list(images.shape)}; needed: uint8 [N, 1 or 3, H, W]"
                )
            if severity not in SEVERITIES:
                raise ValueError(f"severity is {severity!r}; allowed: 1 to 5")
            constants = small if is_small(images) else large
            result = function(images.float().div_(255), constants[severity - 1], generator, **given)
            return result.clamp(0, 1).mul_(255).round_().to(torch.uint8)

        TYPES[function.__name__] = corrupted
        return corrupted

    return register


def normal(
    shape: torch.Size | tuple[int, ...], generator: Generator | None, like: Tensor
) -> Tensor:
    return torch.randn(shape, generator=generator, device=like.device)


def uniform(
    shape: torch.Size | tuple[int, ...],
    low: float,
    high: float,
    generator: Generator | None,
    like: Tensor,
) -> Tensor:
    return torch.rand(shape, generator=generator, device=like.device).mul_(high - low).add_(low)


def grey(images: Tensor) -> Tensor:
    """The luma of ITU-R BT.601, [N,1,H,W]; images of one channel as they are."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.split(1, dim=1)
    return 0.299 * red + 0.587 * green + 0.114 * blue
