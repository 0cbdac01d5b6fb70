"""Linear filters over batches of images [N,C,H,W], down to 2 x 2 pixels."""

import functools
import itertools
import math

import torch
from torch import Tensor
from torch.nn import functional


def normal_weights(radius: int, deviation: float) -> Tensor:
    """A sampled normal density at -radius .. radius that sums to 1; at deviation 0 all of it in the middle."""
    place = torch.arange(-radius, radius + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (place / deviation) ** 2) if deviation > 0 else (place == 0).double()
    return weights / weights.sum()


def gaussian(
    images: Tensor,
    deviation: float | tuple[float, float],
    truncate: float = 4.0,
    mirrored: bool = False,
) -> Tensor:
    """Normal blur of this standard deviation in pixels (or these, down and across), cut off after ``truncate`` of them.

    Beyond the border stands the border pixel, or, mirrored, the image reflected about its edge.
    """
    both = deviation if isinstance(deviation, tuple) else (deviation, deviation)
    down, across = (
        _normal_mixture(length, each, truncate, mirrored).to(images)
        for length, each in zip(images.shape[-2:], both)
    )
    return down @ images @ across.T


@functools.lru_cache(maxsize=64)
def _normal_mixture(length: int, deviation: float, truncate: float, mirrored: bool) -> Tensor:
    """The blur of one side as a matrix [length,length]."""
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
    """Positions -pad .. length+pad-1 reflected about the first and last pixel, as often as needed (``reflect101``)."""
    period = max(2 * (length - 1), 1)
    place = torch.arange(-pad, length + pad) % period
    return torch.minimum(place, period - place)


def convolve(images: Tensor, kernel: Tensor) -> Tensor:
    """One kernel [K,K] with odd K over every channel, the borders reflected; works where K exceeds the image."""
    pad = len(kernel) // 2
    rows, columns = (reflected(length, pad).to(images.device) for length in images.shape[-2:])
    padded = images.flatten(0, 1)[None].index_select(2, rows).index_select(3, columns)
    # Every channel of every image is a channel of one image: on a CPU many times faster than a batch of one channel.
    planes = padded.shape[1]
    kernels = kernel.to(images).expand(planes, 1, -1, -1).contiguous()
    return functional.conv2d(padded, kernels, groups=planes).view(images.shape)


def box(images: Tensor) -> Tensor:
    """Mean over 3 x 3 pixels, the borders reflected."""
    return convolve(images, torch.full((3, 3), 1 / 9))


def motion(images: Tensor, radius: int, deviation: float, angles: Tensor) -> Tensor:
    """Smear each image to one side along its angle, as ImageMagick's motion blur does.

    Tap i of 0 .. 2 radius lies i pixels along the angle, rounded to whole pixels, and has the weight of a normal density
    of this deviation at i. Beyond the border stands the border pixel. angles: radians [N].
    """
    taps = torch.arange(2 * radius + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (taps / deviation) ** 2)
    weights /= weights.sum()
    taps = taps[weights > 1e-6]  # what lies below changes no grey level
    order = (
        angles.argsort()
    )  # neighbours in angle share the pixels of most taps, so that a tap is a few slices
    height, width = images.shape[-2:]
    sine, cosine = angles[order].double().cpu().sin(), angles[order].double().cpu().cos()
    shifts = torch.stack(
        [(taps[:, None] * sine - 0.5).ceil(), (taps[:, None] * cosine - 0.5).ceil()], dim=2
    )
    far = int(taps[-1]) + 1
    # No shift leads further out than the border pixel that a whole image away would show.
    down, across = min(far, height), min(far, width)
    limits = torch.tensor([down, across])
    shifts = torch.minimum(torch.maximum(shifts.long(), -limits), limits).tolist()
    padded = functional.pad(images[order], (across, across, down, down), mode="replicate")
    blurred = torch.zeros_like(images)
    for weight, places in zip(weights.tolist(), shifts):
        first = 0
        for (rows, columns), same in itertools.groupby(places):
            last = first + len(list(same))
            shifted = padded[first:last, :, down + rows :, across + columns :][
                :, :, :height, :width
            ]
            blurred[first:last].add_(shifted, alpha=weight)
            first = last
    return torch.empty_like(images).index_copy_(0, order, blurred)


def enlarge(images: Tensor, factor: float) -> Tensor:
    """Cut out the centre and enlarge it, bilinearly, to at least the former size (``clipped_zoom`` of the benchmark).

    images: the centre, ceil(H / factor) x ceil(W / factor) pixels.
    """
    size = [max(1, round(length * factor)) for length in images.shape[-2:]]
    return functional.interpolate(images, size=size, mode="bilinear", align_corners=True)


def centre(length: int, factor: float) -> int:
    """How many pixels of ``length`` are enlarged by this factor."""
    return math.ceil(length / factor)
