"""Common corruptions at five severities, batched on any device (Hendrycks & Dietterich, "Benchmarking Neural Network
Robustness to Common Corruptions and Perturbations", ICLR 2019): the 15 types of the benchmark and its 4 extra ones.

The constants are those of the benchmark's own scripts: for images of more than 64 pixels those of ImageNet-C
(``make_imagenet_c.py``, made for 224 px), for smaller ones those of CIFAR-10-C (``make_cifar_c.py``, made for 32 px).
The scripts truncate to whole grey levels; here they are rounded, so that a pixel that is not changed stays as it was.
The script for ImageNet-C saves what it made as JPEG of quality 85; here nothing is compressed but by
``jpeg_compression``. zoom_blur is exact to a fraction of a pixel, the scripts round to whole ones. Results are therefore
comparable among themselves; published figures belong to the published files (``prosmin.evaluation.corrupted_sets``).

Grey images take the same path with one channel. Blurs and textures stand in pixels and so weigh more the smaller an
image is: on 8 x 8 pixels the constants for 32 are severe, yet all types remain defined down to 2 x 2.
"""

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from prosmin.common.seeds import corruption_generator
from prosmin.corruptions import blur, digital, noise, spatter, weather  # noqa: F401  (each registers its types)
from prosmin.corruptions.registry import SEVERITIES, SMALL, TYPES, Corruption
from prosmin.corruptions.textures import Frost, procedural_frost, read_frost

__all__ = [
    "BENCHMARK", "EXTRA", "SEVERITIES", "SMALL", "TYPES",
    "Corruption", "Frost", "block", "corrupt", "procedural_frost", "read_frost",
]  # fmt: skip

BENCHMARK = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow",
    "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression",
)  # fmt: skip
EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")


def block(height: int, width: int) -> int:
    """How many images of this size are corrupted at a time. The draws depend on it, so it is no setting."""
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
    """Images of a set under one type of ``TYPES`` at one severity (1 to 5).

    images: uint8 [N,C,H,W], and so the answer, on the same device; first: the place of the first one in its set, a
    multiple of ``block``, so that a set may be corrupted in parts. frost: the panes of the type frost; procedural ones
    where there are none.

    The draws depend on (seed, name, severity), on an image's place, on the images' size and on the kind of device, and
    on nothing else: not on how a set is parted nor on which other cells are computed.
    """
    size = block(*images.shape[-2:])
    if first % size:
        raise ValueError(f"first is {first}; it must be a multiple of the block, {size}")
    given = {"panes": frost} if name == "frost" else {}

    def corrupted(place: int, part: Tensor) -> Tensor:
        generator = corruption_generator(images.device, seed, name, severity, place)
        return TYPES[name](part, severity, generator, **given)

    parts = images.split(size)
    places = range(first // size, first // size + len(parts))
    threads = torch.get_num_threads() if images.device.type == "cpu" else 1
    if threads == 1 or len(parts) == 1:
        return torch.cat(list(map(corrupted, places, parts)))
    # Blocks side by side, each on one thread, keep all cores busy; draws and JPEG would not spread by themselves.
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        result = list(pool.map(corrupted, places, parts))
    torch.set_num_threads(threads)  # for threads to come, of which the setting above is the default
    return torch.cat(result)
