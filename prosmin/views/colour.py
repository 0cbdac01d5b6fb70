"""Change the colours of views: jitter, grey, blur, solarisation.

All functions take float images [B, C, H, W] in [0, 1] and parameters [B], one per image; C is 1
(grey) or 3 (RGB). Every operation follows torchvision's functional of the same name, applied
image by image.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from prosmin.views.draw import ColourParameters

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601-2, as in Pillow and torchvision


def change_colours(views: Tensor, parameters: ColourParameters) -> Tensor:
    """Apply colour jitter, grey, blur and solarisation, in this order. May write into ``views``."""
    drawn = parameters
    if drawn.jitter is not None:
        factors = (drawn.brightness, drawn.contrast, drawn.saturation, drawn.hue)
        views = _change_chosen(views, drawn.jitter, _jitter, *factors)
    if drawn.grey is not None:
        views = _change_chosen(views, drawn.grey, grey)
    if drawn.blur is not None and drawn.sigma is not None:
        views = _change_chosen(views, drawn.blur, gaussian_blur, drawn.sigma)
    if drawn.solarize is not None:
        views = _change_chosen(views, drawn.solarize, solarize)
    return views


def _jitter(
    views: Tensor,
    brightness: Tensor | None,
    contrast: Tensor | None,
    saturation: Tensor | None,
    hue: Tensor | None,
) -> Tensor:
    # In place on a CPU, so that the views stay in its cache. A GPU needs the views as they were.
    out = views if views.device.type == "cpu" else None
    steps = (
        (adjust_brightness, brightness),
        (adjust_contrast, contrast),
        (adjust_saturation, saturation),
        (adjust_hue, hue),
    )
    for adjust, amount in steps:
        if amount is not None:
            views = adjust(views, amount, out=out)
    return views


def _change_chosen(
    views: Tensor, chosen: Tensor, change: Callable[..., Tensor], *parameters: Tensor | None
) -> Tensor:
    """Apply ``change`` to the views that are ``chosen``, bool [B]. A CPU writes into ``views``.

    A GPU changes all views and selects afterwards, because waiting for the number of chosen views
    costs more.
    """
    if views.device.type != "cpu":
        return torch.where(_per_image(chosen), change(views, *parameters), views)
    rows = chosen.nonzero()[:, 0]
    if len(rows) == len(views):
        return change(views, *parameters).contiguous()
    if len(rows):
        arguments = (
            None if value is None else value.index_select(0, rows) for value in (views, *parameters)
        )
        write_rows(change(*arguments), rows, views)
    return views


def write_rows(part: Tensor, rows: Tensor, whole: Tensor) -> None:
    """Write images into these rows of ``whole``, which is contiguous and on a CPU.

    ``index_copy_`` goes element by element. As complex128, an element is four floats.
    """
    if whole[0].numel() % 4 == 0:
        # A view of ``whole``: ``index_copy_`` into a copy would not reach it.
        part = part.reshape(len(part), -1).view(torch.complex128)
        whole = whole.view(len(whole), -1).view(torch.complex128)
    whole.index_copy_(0, rows, part)


def _per_image(value: Tensor) -> Tensor:
    return value.view(-1, 1, 1, 1)


# --- operations -----------------------------------------------------------------------------------


def grey(images: Tensor) -> Tensor:
    """Replace every channel by the luma."""
    return _luma(images).expand_as(images)


def _luma(images: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, 1, H, W]."""
    if images.shape[1] == 1:
        return images
    red, green, blue = torch.split(images, 1, 1)
    return torch.add(red * _LUMA[0], green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2])


def _blend(images: Tensor, other: Tensor, factor: Tensor, out: Tensor | None) -> Tensor:
    """Mix images with ``other`` [B, 1, H, W] or [B, 1, 1, 1], which factor 0 gives."""
    factor = _per_image(factor)
    return torch.addcmul(other * (1.0 - factor), images, factor, out=out).clamp_(0.0, 1.0)


def adjust_brightness(images: Tensor, factor: Tensor, out: Tensor | None = None) -> Tensor:
    """Scale the values: factor 0 gives black, 1 the image."""
    return torch.mul(images, _per_image(factor), out=out).clamp_(0.0, 1.0)


def adjust_contrast(images: Tensor, factor: Tensor, out: Tensor | None = None) -> Tensor:
    """Blend with the mean of the grey image: factor 0 gives the mean, 1 the image."""
    return _blend(images, _luma(images.mean((2, 3), keepdim=True)), factor, out)


def adjust_saturation(images: Tensor, factor: Tensor, out: Tensor | None = None) -> Tensor:
    """Blend with the grey image: factor 0 gives the grey image, 1 the image."""
    return _blend(images, _luma(images), factor, out)


def adjust_hue(images: Tensor, shift: Tensor, out: Tensor | None = None) -> Tensor:
    """Turn the hue of RGB images in exact HSV.

    The formulas have no case distinctions, which are slow on a CPU. Let V be the largest value, C
    the chroma and H the hue in sixths of a turn in [-3, 3]. Then |H| = 2 + (G + B - R - V) / C, and
    the sign of H is the sign of G - B. For the way back let H be in [0, 6), and k(c) = |H - c| cut
    to [1, 2]. Then R = V - C (2 - k(3)), G = V - C (k(2) - 1), B = V - C (k(4) - 1).

    shift: in [-0.5, 0.5] of a full turn.
    """
    red, green, blue = images.unbind(1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    hue = (green + blue).sub_(red).sub_(value).div_(chroma.clamp_min(1e-12)).add_(2.0)
    hue = hue.copysign_(green - blue).add_(6 * shift.view(-1, 1, 1) + 6)
    hue.sub_((hue / 6).floor_(), alpha=6)
    most = value + chroma
    parts = ((value.sub_(chroma, alpha=2), 3, 1), (most, 2, -1), (most, 4, -1))
    targets = (None,) * 3 if out is None else out.unbind(1)
    channels = [
        torch.addcmul(base, chroma, (hue - centre).abs_().clamp_(1.0, 2.0), value=sign, out=target)
        for (base, centre, sign), target in zip(parts, targets, strict=True)
    ]
    return torch.stack(channels, 1) if out is None else out


def gaussian_blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur by a separable Gaussian over an odd kernel of a tenth of the shorter side, at least 3.

    sigma: standard deviation in pixels [B].
    """
    height, width = images.shape[-2:]
    radius = max(1, min(height, width) // 20)
    if images.device.type == "cpu":
        pairs = zip(images, sigma.tolist(), strict=True)
        return torch.stack([_blur_by_shifts(image, value, radius) for image, value in pairs])
    down, across = (_blur_matrix(sigma, side, radius)[:, None] for side in (height, width))
    return down @ images @ across.transpose(2, 3)


def _blur_matrix(sigma: Tensor, side: int, radius: int) -> Tensor:
    """Return the share of each pixel of a line in each blurred pixel, [B, side, side].

    The line is reflected at its ends. Matrix products take a GPU half the time of a convolution
    with groups of one channel.
    """
    place = torch.arange(side, device=sigma.device, dtype=sigma.dtype)
    row, column = place.view(1, -1, 1), place.view(1, 1, -1)

    def weight(distance: Tensor) -> Tensor:
        return torch.exp(-0.5 * (distance / sigma.view(-1, 1, 1)) ** 2) * (distance.abs() <= radius)

    whole = weight(row - column)
    whole = (
        whole
        + weight(row + column) * (column > 0)
        + weight(2 * (side - 1) - row - column) * (column < side - 1)
    )
    return whole / whole.sum(2, keepdim=True)


def _blur_by_shifts(image: Tensor, sigma: float, radius: int) -> Tensor:
    """Blur one image [C, H, W] as a sum of shifted images.

    On a CPU this is several times faster than a convolution with groups of one channel. It leaves
    out pixels beyond four standard deviations, which hold less than a ten thousandth of the weight.
    """
    radius = min(radius, math.ceil(4 * sigma))
    weights = [math.exp(-0.5 * (place / sigma) ** 2) for place in range(-radius, radius + 1)]
    total = sum(weights)
    for dim in (2, 1):
        margins = (radius, radius, 0, 0) if dim == 2 else (0, 0, radius, radius)
        padded = F.pad(image, margins, mode="reflect")
        size = image.shape[dim]
        image = padded.narrow(dim, 0, size) * (weights[0] / total)
        for place in range(1, 2 * radius + 1):
            image.add_(padded.narrow(dim, place, size), alpha=weights[place] / total)
    return image


def solarize(images: Tensor, threshold: float = 0.5) -> Tensor:
    """Invert every value at or above the threshold."""
    return torch.where(images >= threshold, 1.0 - images, images)
