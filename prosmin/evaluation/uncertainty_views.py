"""Images for the evaluation of uncertainty: crops for the crop test, and two views per image.

Letters in shapes: N images, C channels, S pixels a side, F features.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from prosmin.common.seeds import generator, prediction_generator
from prosmin.evaluation.embedding import Embedding, describe, embed
from prosmin.objectives.base import Objective
from prosmin.views.crop import bilinear_crop
from prosmin.views.make import random_view
from prosmin.views.settings import ViewSettings

SHARES = (0.1, 0.75)  # of the side that a crop keeps, as in the URL benchmark
# Of the first random stream. ``prosmin.evaluation.prediction`` has 0 to 2, so the views of the
# first block are drawn as those of the predictive mixture; no number depends on both.
_PURPOSE = 2
_CHUNK = 256  # images at a time; a constant, because the drawn views depend on it


def embed_crops(
    models: Mapping[str, Objective],
    chunks: Iterable[Tensor],
    count: int,
    seed: int,
    batch_size: int,
) -> dict[str, Embedding]:
    """Compute features and label-free scores of the central crop of each image, per model.

    chunks: the images in their order, uint8 [n, C, S, S] each. count: of all images, N.
    """
    shares, start = draw_shares(count, seed), 0
    seen: dict[str, list[Embedding]] = {name: [] for name in models}
    for images in chunks:
        crops = centre_crops(images, shares[start : start + len(images)])
        start += len(images)
        for name, model in models.items():
            seen[name].append(describe(model, crops, batch_size))
    return {name: _joined(parts) for name, parts in seen.items()}


def _joined(parts: Sequence[Embedding]) -> Embedding:
    """Consecutive images as one embedding."""
    doubts = {
        name: np.concatenate([part.doubts[name] for part in parts]) for name in parts[0].doubts
    }
    sigmas = [part.log_sigma for part in parts if part.log_sigma is not None]
    features = np.concatenate([part.features for part in parts])
    return Embedding(features, np.concatenate(sigmas) if sigmas else None, doubts)


def embed_views(
    models: Mapping[str, Objective],
    chunks: Iterable[Tensor],
    settings: ViewSettings,
    seed: int,
    batch_size: int,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Compute features of two random views of each image, [N, F] each, per model.

    chunks: as for ``embed_crops``; the drawn views depend on how the images are divided.
    """
    seen: dict[str, tuple[list[np.ndarray], list[np.ndarray]]] = {name: ([], []) for name in models}
    for block, images in enumerate(chunks):
        views = two_views(images, settings, seed, block)
        for name, model in models.items():
            for features, view in zip(seen[name], views, strict=True):
                features.append(embed(model.encoder, view, batch_size))
    return {
        name: (np.concatenate(first), np.concatenate(second))
        for name, (first, second) in seen.items()
    }


def draw_shares(count: int, seed: int) -> np.ndarray:
    """Draw the share of the side that the crop of each image keeps: float64 [count]."""
    return generator(seed, "crop test", count).uniform(*SHARES, size=count)


def centre_crops(images: Tensor, shares: np.ndarray) -> Tensor:
    """Cut the centre out of each image and enlarge it to the size of the image, bilinearly.

    Sides and margins are rounded as by the URL benchmark and by torchvision's ``center_crop``.

    images: uint8 [N, C, S, S]. shares: of the side that the crop keeps, [N].

    Returns: uint8 [N, C, S, S].
    """
    size = images.shape[-1]
    side = (torch.from_numpy(shares) * size).round().clamp(1, size).float()
    margin = ((size - side) / 2).round()
    flip = torch.zeros(len(images), dtype=torch.bool)
    crops = bilinear_crop(images.float() / 255, (margin, margin, side, side), size, flip, None)
    return _as_bytes(crops)


def two_views(
    images: Tensor, settings: ViewSettings, seed: int, block: int
) -> tuple[Tensor, Tensor]:
    """Draw two random views per image: uint8 [N, C, S, S] -> uint8 [N, C, size, size] each.

    block: number of this part of all images; each part has random numbers of its own.
    """
    source = prediction_generator(images.device, seed, _PURPOSE + block)
    pairs = [
        [_as_bytes(random_view(chunk, settings, source)) for _ in range(2)]
        for chunk in torch.split(images, _CHUNK)
    ]
    first, second = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    return first, second


def _as_bytes(images: Tensor) -> Tensor:
    """Round float images in [0, 1] to uint8, as images are stored."""
    return (images * 255).round().clamp(0, 255).to(torch.uint8)
