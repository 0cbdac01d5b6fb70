"""Randomness and order as pure functions of (seed, epoch, step, rank): a resumed run needs no generator's state."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from prosmin.views.augment import Draw, draw_boxes, finish_view, random_view
from prosmin.views.settings import ViewSettings

# What a random stream is for: part of its seed, so that no two purposes share one.
_ORDER, _VIEWS, _SCORE, _NETWORK, _BOXES = 0, 1, 2, 3, 4


def _state(*key: int) -> int:
    words = np.random.SeedSequence((len(key), *key)).generate_state(
        2, np.uint32
    )  # (0,) and (0, 0) seed alike
    return int(words[0]) << 31 ^ int(words[1])


def stream(device: torch.device, *key: int) -> torch.Generator:
    """A generator whose state is a pure function of ``key`` (non-negative integers)."""
    return torch.Generator(device).manual_seed(_state(*key))


def epoch_order(count: int, batch_size: int, seed: int, epoch: int) -> Tensor:
    """Image indices [steps, batch_size] of one epoch over all processes; the last, partial batch is dropped."""
    order = torch.randperm(count, generator=stream(torch.device("cpu"), seed, _ORDER, epoch))
    steps = count // batch_size
    return order[: steps * batch_size].view(steps, batch_size)


def make_views(
    images: Tensor, views: Sequence[ViewSettings], seed: int, epoch: int, step: int, rank: int = 0
) -> list[Tensor]:
    """The views of one batch, as the network sees them: uint8 [B, C, H, W] -> float [B, C, size, size] each."""
    generator = stream(images.device, seed, _VIEWS, epoch, step, rank)
    return [random_view(images, settings, generator) for settings in views]


def crop_boxes(
    heights: Tensor,
    widths: Tensor,
    views: Sequence[ViewSettings],
    seed: int,
    epoch: int,
    step: int,
    rank: int = 0,
) -> tuple[Tensor, Tensor]:
    """Where to cut the views of one batch out of images of these heights and widths [B], in pixels: [views, B, 4], each top, left,
    height, width; and which to flip, bool [views, B]. On the CPU, where images are decoded."""
    generator = stream(torch.device("cpu"), seed, _BOXES, epoch, step, rank)
    draw = Draw(len(heights), generator)
    drawn = [
        (draw_boxes(draw, heights, widths, each.scale, each.ratio), draw.coin(each.flip))
        for each in views
    ]
    return torch.stack([torch.stack(box, 1) for box, _ in drawn]), torch.stack(
        [flip for _, flip in drawn]
    )


def finish_views(
    crops: Sequence[Tensor],
    views: Sequence[ViewSettings],
    seed: int,
    epoch: int,
    step: int,
    rank: int = 0,
) -> list[Tensor]:
    """The views of one batch from crops uint8 [B, C, size, size] each, as the network sees them: float [B, C, size, size] each."""
    generator = stream(crops[0].device, seed, _VIEWS, epoch, step, rank)
    return [
        finish_view(crop, settings, generator) for crop, settings in zip(crops, views, strict=True)
    ]


def score_stream(
    device: torch.device, seed: int, epoch: int, step: int, rank: int
) -> torch.Generator:
    """For the draws of a loss."""
    return stream(device, seed, _SCORE, epoch, step, rank)


def seed_networks(seed: int, epoch: int, step: int, rank: int) -> None:
    """Seed torch's global generators, which dropout and stochastic depth draw from."""
    torch.manual_seed(_state(seed, _NETWORK, epoch, step, rank))
