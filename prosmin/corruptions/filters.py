"""Linear filters over batches of images [N, C, H, W], down to 2 x 2 pixels."""

import functools
import itertools
import math

import torch
from torch import Tensor
from torch.nn import functional


def normal_weights(radius: int, deviation: float) -> Tensor:
    """Sample a normal density at -radius .. radius; the weights add up to 1.

    At a standard deviation of 0 the middle has all the weight.
    """
    place = torch.arange(-radius, radius + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (place / deviation) ** 2) if deviation > 0 else (place == 0).double()
    return weights / weights.sum()


def gaussian(
    images: Tensor,
    deviation: float | tuple[float, float],
    truncate: float = 4.0,
    mirrored: bool = False,
) -> Tensor:
    """Blur by a Gaussian.

    deviation: standard deviation in pixels, or two of them, down and across.
    truncate: number of standard deviations after which the kernel is cut off.
    mirrored: continue the image beyond its border by reflection about its edge; otherwise by
        repetition of the border pixels.
    """
    both = deviation if isinstance(deviation, tuple) else (deviation, deviation)
    down, across = (
        _blur_matrix(length, width, truncate, mirrored).to(images)
        for length, width in zip(images.shape[-2:], both)
    )
    return down @ images @ across.T


@functools.lru_cache(maxsize=64)
def _blur_matrix(length: int, deviation: float, truncate: float, mirrored: bool) -> Tensor:
    """Return the blur of one side as a matrix [length, length]."""
    radius = int(truncate * deviation + 0.5)
    source = torch.arange(length)[:, None] + torch.arange(-radius, radius + 1)
    if mirrored:
        source = source % (2 * length)
        source = torch.minimum(source, 2 * length - 1 - source)
    weights = normal_weights(radius, deviation).expand(length, -1)
    return torch.zeros(length, length, dtype=torch.float64).scatter_add(
        1, source.clamp(0, length - 1), weights
    )


def reflected(length: int, pad: int) -> Tensor:
    """Reflect the positions -pad .. length + pad - 1 about the first and last pixel.

    Positions are reflected as often as needed (OpenCV's ``reflect101``).
    """
    period = max(2 * (length - 1), 1)
    place = torch.arange(-pad, length + pad) % period
    return torch.minimum(place, period - place)


def convolve(images: Tensor, kernel: Tensor) -> Tensor:
    """Convolve every channel with one kernel [K, K], K odd; borders are reflected.

    K may exceed the size of the image.
    """
    pad = len(kernel) // 2
    rows, columns = (reflected(length, pad).to(images.device) for length in images.shape[-2:])
    padded = images.flatten(0, 1)[None].index_select(2, rows).index_select(3, columns)
    # All channels of all images become channels of one image. On a CPU this is many times faster
    # than a batch of images with one channel.
    planes = padded.shape[1]
    kernels = kernel.to(images).expand(planes, 1, -1, -1).contiguous()
    return functional.conv2d(padded, kernels, groups=planes).view(images.shape)


def box(images: Tensor) -> Tensor:
    """Average over 3 x 3 pixels; borders are reflected."""
    return convolve(images, torch.full((3, 3), 1 / 9))


def motion(images: Tensor, radius: int, deviation: float, angles: Tensor) -> Tensor:
    """Smear every image to one side along its angle, as ImageMagick's motion blur does.

    Tap i of 0 .. 2 radius lies i pixels along the angle, rounded to whole pixels. Its weight is a
    normal density at i. Border pixels repeat beyond the border.

    radius, deviation: in pixels; deviation is the standard deviation of the density.
    angles: radians [N].
    """
    taps = torch.arange(2 * radius + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (taps / deviation) ** 2)
    weights /= weights.sum()
    taps = taps[weights > 1e-6]  # smaller weights change no grey level
    # Neighbours in angle share the pixels of most taps, so that a tap is a few slices.
    order = angles.argsort()
    height, width = images.shape[-2:]
    sine, cosine = angles[order].double().cpu().sin(), angles[order].double().cpu().cos()
    steps = [(taps[:, None] * part - 0.5).ceil() for part in (sine, cosine)]
    far = int(taps[-1]) + 1
    # Beyond one image's length every shift shows the border pixel.
    down, across = min(far, height), min(far, width)
    limits = torch.tensor([down, across])
    shifts = torch.stack(steps, dim=2).long()
    shifts = torch.minimum(torch.maximum(shifts, -limits), limits)
    padded = functional.pad(images[order], (across, across, down, down), mode="replicate")
    blurred = torch.zeros_like(images)
    for weight, places in zip(weights.tolist(), shifts.tolist()):
        first = 0
        for (rows, columns), same in itertools.groupby(places):
            last = first + len(list(same))
            shifted = padded[first:last, :, down + rows :, across + columns :]
            shifted = shifted[:, :, :height, :width]
            blurred[first:last].add_(shifted, alpha=weight)
            first = last
    return torch.empty_like(images).index_copy_(0, order, blurred)


def enlarge(images: Tensor, factor: float) -> Tensor:
    """Enlarge the centre of images bilinearly (``clipped_zoom`` of the benchmark).

    images: the centre, ceil(H / factor) x ceil(W / factor) pixels.

    Returns: at least H x W pixels.
    """
    size = [max(1, round(length * factor)) for length in images.shape[-2:]]
    return functional.interpolate(images, size=size, mode="bilinear", align_corners=True)


def centre(length: int, factor: float) -> int:
    """Return how many pixels of ``length`` become the whole length by this factor."""
    return math.ceil(length / factor)
