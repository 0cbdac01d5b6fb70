"""Corrupt images, batched on any device.

The constants are those of the benchmark's own scripts: for images of more than 64 pixels those of
ImageNet-C (``make_imagenet_c.py``, made for 224 pixels), for smaller images those of CIFAR-10-C
(``make_cifar_c.py``, made for 32 pixels). Three details differ:

- The scripts truncate to whole grey levels. Here levels are rounded, so that a pixel without change
  stays as it was.
- The script for ImageNet-C saves its images as JPEG of quality 85. Here ``jpeg_compression`` alone
  compresses.
- The scripts round the enlargements of ``zoom_blur`` to whole pixels. Here they are exact to a
  fraction of a pixel.

Results are therefore comparable among themselves. Published figures belong to the published files
(``prosmin.evaluation.corrupted_sets``).

Grey images take the same path with one channel. Blurs and textures have sizes in pixels, so that
they are stronger for small images: on 8 x 8 pixels the constants for 32 are severe, yet all types
are defined down to 2 x 2.
"""

import torch
from torch import Tensor

from prosmin.common.seeds import corruption_generator
from prosmin.common.threads import one_thread_each
from prosmin.corruptions import (  # noqa: F401  (these modules register their types)
    blur,
    digital,
    noise,
    spatter,
    weather,
)
from prosmin.corruptions.registry import TYPES
from prosmin.corruptions.textures import Frost

__all__ = ["TYPES", "block", "corrupt"]


def block(height: int, width: int) -> int:
    """Return how many images of this size are corrupted at a time.

    The random draws depend on this number, so that it must never change.
    """
    return max(1, 2**18 // (height * width))


def corrupt(
    images: Tensor,
    name: str,
    severity: int,
    seed: int,
    *,
    first: int = 0,
    frost: Frost | None = None,
) -> Tensor:
    """Corrupt images of a dataset by one type at one severity.

    The draws depend on (seed, name, severity), on an image's place in its dataset, on the size of
    the images, and on the kind of device. They do not depend on how the dataset is divided, nor on
    other types and severities.

    images: uint8 [N, C, H, W].
    name: a type of ``TYPES``.
    severity: 1 to 5.
    first: place of the first image in its dataset, a multiple of ``block``, so that a dataset can
        be corrupted in parts.
    frost: panes for the type frost; None for procedural panes.

    Returns: uint8 [N, C, H, W] on the same device.
    """
    size = block(*images.shape[-2:])
    if first % size:
        raise ValueError(f"first is {first}; it must be a multiple of the block, {size}")
    options = {"panes": frost} if name == "frost" else {}

    def corrupt_block(place: int, part: Tensor) -> Tensor:
        generator = corruption_generator(images.device, seed, name, severity, place)
        return TYPES[name](part, severity, generator, **options)

    parts = torch.split(images, size)
    places = range(first // size, first // size + len(parts))
    threads = torch.get_num_threads() if images.device.type == "cpu" else 1
    if threads == 1 or len(parts) == 1:
        return torch.cat(list(map(corrupt_block, places, parts)))
    # Blocks side by side, on one thread each, keep all cores busy. Otherwise random draws and JPEG
    # would use one core.
    with one_thread_each(threads) as pool:
        return torch.cat(list(pool.map(corrupt_block, places, parts)))
