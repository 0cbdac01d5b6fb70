"""Common corruptions at five severities, batched (Hendrycks & Dietterich, "Benchmarking Neural Network Robustness to
Common Corruptions and Perturbations", ICLR 2019).

A corruption is one function ``(images, constant, generator) -> images`` over float images [N,C,H,W] in [0, 1], C 1 or
3, registered by ``@corruption`` with its five constants; ``TYPES`` then holds it under its name as
``(images, severity, generator) -> images`` over uint8.

The constants are those of the benchmark's own scripts: for images of more than 64 pixels those of ImageNet-C
(``make_imagenet_c.py``, made for 224 px), for smaller ones those of CIFAR-10-C (``make_cifar_c.py``, made for 32 px).
The scripts truncate to whole grey levels; here they are rounded, so that a pixel that is not changed stays as it was.
Results are therefore comparable among themselves; published figures belong to the published files.

Grey images take the same path with one channel. Blurs stand in pixels and so weigh more the smaller an image is: on
8 x 8 pixels the constants for 32 are severe, yet all types remain defined down to 2 x 2.
"""

import functools
import io
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor
from torch.nn import functional

SMALL = 64  # pixels: up to here the constants of CIFAR-10-C
SEVERITIES = (1, 2, 3, 4, 5)
CHUNK = 64  # images corrupted at a time; the random draws depend on it, so it is no setting

Corruption = Callable[[Tensor, int, Generator | None], Tensor]

TYPES: dict[str, Corruption] = {}


def corrupt(images: Tensor, name: str, severity: int, seed: int) -> Tensor:
    """Every image of a set under one type of ``TYPES`` at one severity (1 to 5).

    images: uint8 [N,C,H,W], and so the answer, on the same device. The draws depend on (seed, name, severity), on an
    image's place, on the images' size and on the kind of device, and not on which other cells are computed.
    """
    mixed = np.random.SeedSequence([seed, zlib.crc32(name.encode()), severity]).generate_state(1, np.uint64)
    generator = Generator(images.device).manual_seed(int(mixed[0]))
    return torch.cat([TYPES[name](chunk, severity, generator) for chunk in images.split(CHUNK)])


def corruption(large: list[Any], small: list[Any]) -> Callable[[Callable[..., Tensor]], Corruption]:
    """Register a type under its function's name. large, small: the constants of severities 1 to 5 by image size."""

    def register(function: Callable[..., Tensor]) -> Corruption:
        @functools.wraps(function)
        def corrupted(images: Tensor, severity: int, generator: Generator | None) -> Tensor:
            if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
                raise ValueError(f"images are {images.dtype} {list(images.shape)}; needed: uint8 [N, 1 or 3, H, W]")
            if severity not in SEVERITIES:
                raise ValueError(f"severity is {severity!r}; allowed: 1 to 5")
            constants = small if max(images.shape[-2:]) <= SMALL else large
            result = function(images.float() / 255, constants[severity - 1], generator)
            return (result.clamp(0, 1) * 255).round().to(torch.uint8)

        TYPES[function.__name__] = corrupted
        return corrupted

    return register


# --- noise ----------------------------------------------------------------------------------------


def _normal(like: Tensor, generator: Generator | None) -> Tensor:
    return torch.randn(like.shape, generator=generator, device=like.device)


@corruption([0.08, 0.12, 0.18, 0.26, 0.38], [0.04, 0.06, 0.08, 0.09, 0.10])
def gaussian_noise(images: Tensor, deviation: float, generator: Generator | None) -> Tensor:
    """Normal noise of this standard deviation, independent for every pixel and channel."""
    return images + deviation * _normal(images, generator)


@corruption([60, 25, 12, 5, 3], [500, 250, 100, 75, 50])
def shot_noise(images: Tensor, photons: float, generator: Generator | None) -> Tensor:
    """Poisson noise: a white pixel collects this many photons on average."""
    return torch.poisson(images * photons, generator) / photons


@corruption([0.03, 0.06, 0.09, 0.17, 0.27], [0.01, 0.02, 0.03, 0.05, 0.07])
def impulse_noise(images: Tensor, share: float, generator: Generator | None) -> Tensor:
    """Salt and pepper: this share of all values, of each channel by itself, becomes 0 or 1 in equal parts."""
    draw = torch.rand(images.shape, generator=generator, device=images.device)
    return images.masked_fill(draw < share, 1.0).masked_fill(draw < share / 2, 0.0)


@corruption([0.15, 0.2, 0.35, 0.45, 0.6], [0.06, 0.1, 0.12, 0.16, 0.2])
def speckle_noise(images: Tensor, deviation: float, generator: Generator | None) -> Tensor:
    """Normal noise whose standard deviation is proportional to the value."""
    return images + images * deviation * _normal(images, generator)


# --- blur -----------------------------------------------------------------------------------------


def _separable(images: Tensor, mix: Callable[[int], Tensor]) -> Tensor:
    """Apply the linear map ``mix(length)`` [length,length] along both axes."""
    height, width = (mix(length).to(images) for length in images.shape[-2:])
    return height @ images @ width.T


def _reflected(length: int, pad: int) -> Tensor:
    """Positions -pad .. length+pad-1 reflected about the first and last pixel, as often as needed (``reflect101``)."""
    period = max(2 * (length - 1), 1)
    place = torch.arange(-pad, length + pad) % period
    return torch.minimum(place, period - place)


def _convolve(images: Tensor, kernel: Tensor) -> Tensor:
    """One kernel [K,K] with odd K over every channel, the borders reflected; works where K exceeds the image."""
    pad = len(kernel) // 2
    rows, columns = (_reflected(length, pad).to(images.device) for length in images.shape[-2:])
    padded = images[:, :, rows][:, :, :, columns]
    blurred = functional.conv2d(padded.flatten(0, 1)[:, None], kernel.to(images)[None, None])
    return blurred.view(images.shape)


def _normal_weights(radius: int, deviation: float) -> Tensor:
    """A sampled normal density at -radius .. radius that sums to 1."""
    weights = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / deviation) ** 2)
    return weights / weights.sum()


@corruption([1, 2, 3, 4, 6], [0.4, 0.6, 0.7, 0.8, 1])
def gaussian_blur(images: Tensor, deviation: float, generator: Generator | None) -> Tensor:
    """Normal blur of this standard deviation in pixels, cut off after 4 of them, the border pixels repeated."""
    radius = int(4 * deviation + 0.5)

    def mix(length: int) -> Tensor:
        source = (torch.arange(length)[:, None] + torch.arange(-radius, radius + 1)).clamp(0, length - 1)
        weights = _normal_weights(radius, deviation).expand(length, -1)
        return torch.zeros(length, length, dtype=torch.float64).scatter_add(1, source, weights)

    return _separable(images, mix)


@corruption(
    [(3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)],
    [(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)],
)
def defocus_blur(images: Tensor, disk: tuple[float, float], generator: Generator | None) -> Tensor:
    """Blur by a disk of this radius in pixels whose edge is softened by a normal blur of this standard deviation."""
    radius, softness = disk
    reach = max(8, int(radius))  # the softening reflects at this border, which only disks of radius 8 and more touch
    squares = torch.arange(-reach, reach + 1, dtype=torch.float64) ** 2
    kernel = (squares[:, None] + squares <= radius**2).double()
    soft = _normal_weights(1 if radius <= 8 else 2, softness)
    kernel = _convolve((kernel / kernel.sum())[None, None], soft[:, None] * soft)[0, 0]
    used = reach - int(kernel.any(dim=0).nonzero()[0])
    return _convolve(images, kernel[reach - used : reach + used + 1, reach - used : reach + used + 1])


@corruption(
    [(1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)],
    [(1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)],
)
def zoom_blur(images: Tensor, zooms: tuple[float, float], generator: Generator | None) -> Tensor:
    """Mean of the image and of its enlargements about the centre, by 1 up to this factor in this step.

    The enlargement is bilinear and exact to a fraction of a pixel. The scripts of the benchmark round each to whole
    pixels, which is a shift of up to one pixel on large images and leaves one of 8 pixels unchanged up to 1.06.
    """
    stop, step = zooms
    factors = np.arange(1, stop, step)  # with the rounding of NumPy, as the benchmark has it

    def mix(factor: float, length: int) -> Tensor:
        centre = (length - 1) / 2
        place = torch.arange(length, dtype=torch.float64)
        source = (place - centre) / factor + centre
        return (1 - (source[:, None] - place).abs()).clamp(min=0)

    total = images.clone()
    for factor in factors:
        total += _separable(images, functools.partial(mix, float(factor)))
    return total / (len(factors) + 1)


# --- weather --------------------------------------------------------------------------------------


def _plasma(count: int, size: int, decay: float, generator: Generator | None, device: torch.device) -> Tensor:
    """Fractal maps [count,size,size] in [0, 1] by diamond-square on a torus; size: a power of two.

    Each round halves the step, fills the centres of the squares with the mean of their corners and then the
    mid-points of the edges with the mean of their four neighbours, and adds uniform noise of amplitude ``wibble**2``,
    wibble being divided by ``decay`` from round to round.
    """
    maps = torch.zeros(count, size, size, device=device)
    step, wibble = size, 100.0

    def noisy(total: Tensor) -> Tensor:
        draw = torch.rand(total.shape, generator=generator, device=device)
        return total / 4 + wibble**2 * (2 * draw - 1)

    while step >= 2:
        half = step // 2
        corners = maps[:, ::step, ::step]
        pairs = corners + corners.roll(-1, 1)
        maps[:, half::step, half::step] = noisy(pairs + pairs.roll(-1, 2))
        centres = maps[:, half::step, half::step]
        maps[:, ::step, half::step] = noisy(centres + centres.roll(1, 1) + corners + corners.roll(-1, 2))
        maps[:, half::step, ::step] = noisy(centres + centres.roll(1, 2) + corners + corners.roll(-1, 1))
        step, wibble = half, wibble / decay
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low)


@corruption(
    [(1.5, 2), (2.0, 2), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4)],
    [(0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)],
)
def fog(images: Tensor, thickness: tuple[float, float], generator: Generator | None) -> Tensor:
    """A fractal map times this amount is added and the brightest value kept; the second constant is its roughness.

    The map has the side of the next power of two, as for ImageNet-C (256) and CIFAR-10-C (32).
    """
    amount, decay = thickness
    count, _, height, width = images.shape
    size = max(2, 1 << (max(height, width) - 1).bit_length())
    cloud = _plasma(count, size, decay, generator, images.device)[:, None, :height, :width]
    brightest = images.amax((1, 2, 3), keepdim=True)
    return (images + amount * cloud) * brightest / (brightest + amount)


@corruption([0.1, 0.2, 0.3, 0.4, 0.5], [0.05, 0.1, 0.15, 0.2, 0.3])
def brightness(images: Tensor, amount: float, generator: Generator | None) -> Tensor:
    """Raise the V of HSV (the largest channel) by this amount, to 1 at most, at the same hue and saturation."""
    value = images.amax(1, keepdim=True)
    raised = (value + amount).clamp(max=1)
    return torch.where(value > 0, images * raised / value, raised)  # black is grey: it has no hue to keep


# --- digital --------------------------------------------------------------------------------------


@corruption([0.4, 0.3, 0.2, 0.1, 0.05], [0.75, 0.5, 0.4, 0.3, 0.15])
def contrast(images: Tensor, factor: float, generator: Generator | None) -> Tensor:
    """Scale the distance of each channel to its mean over the image by this factor."""
    mean = images.mean((2, 3), keepdim=True)
    return (images - mean) * factor + mean


@corruption(
    [(0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)],
    [(0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)],
)
def saturate(images: Tensor, change: tuple[float, float], generator: Generator | None) -> Tensor:
    """Multiply the S of HSV by the first constant and add the second: severities 1 and 2 pale, 3 to 5 garish.

    Images of one channel have no saturation and are returned as they are. A grey pixel of an RGB image has the hue 0
    by convention, so that an addition turns it reddish, as in the benchmark.
    """
    if images.shape[1] == 1:
        return images
    factor, addition = change
    value, least = images.amax(1, keepdim=True), images.amin(1, keepdim=True)
    old = torch.where(value > 0, (value - least) / value, 0.0)
    new = (old * factor + addition).clamp(0, 1)
    coloured = value - (value - images) * new / old  # a channel lies below V in proportion to S
    red = torch.cat([value, value * (1 - new), value * (1 - new)], 1)
    return torch.where(old > 0, coloured, red)


@corruption([0.6, 0.5, 0.4, 0.3, 0.25], [0.95, 0.9, 0.85, 0.75, 0.65])
def pixelate(images: Tensor, scale: float, generator: Generator | None) -> Tensor:
    """Shrink to this share of each side, rounded down to whole pixels, by means over boxes; enlarge by repetition.

    A small pixel is the mean of the pixels whose centre lies in its box, as Pillow's ``BOX`` has it.
    """

    def mix(length: int) -> Tensor:
        small = max(1, int(length * scale))
        place = torch.arange(length, dtype=torch.float64)
        box = (place * small / length + 0.5 * small / length).floor()  # of each pixel; also the one that it repeats
        width = length / small
        first = (torch.arange(small, dtype=torch.float64) * width + 0.5).floor()
        last = ((torch.arange(small, dtype=torch.float64) + 1) * width + 0.5).floor().clamp(max=length)
        inside = ((place >= first[:, None]) & (place < last[:, None])).double()
        return (inside / inside.sum(1, keepdim=True))[box.long()]

    return _separable(images, mix)


@corruption([25, 18, 15, 10, 7], [80, 65, 58, 50, 40])
def jpeg_compression(images: Tensor, quality: int, generator: Generator | None) -> Tensor:
    """Encode as baseline JPEG (colours at half the resolution) of this quality and decode, by Pillow on the CPU."""
    pixels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    decoded = np.stack([_through_jpeg(image, quality) for image in pixels])
    return torch.from_numpy(decoded).view(pixels.shape).permute(0, 3, 1, 2).contiguous().to(images) / 255


def _through_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """uint8 [H,W,1 or 3] -> uint8 [H,W] or [H,W,3]."""
    stream = io.BytesIO()
    Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))
