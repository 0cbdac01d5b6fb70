"""Random views of a batch, on the batch's device, with parameters of its own for every image.

All functions take float images [B, C, H, W] in [0, 1] and parameters [B]; C is 1 (grey) or 3 (RGB). Each
operation follows torchvision's functional of the same name, applied image by image.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from prosmin.views.settings import ViewSettings

_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601-2, as Pillow and torchvision


CACHED_PIXELS = (
    2**17
)  # of a part of a batch on a core, whose every step then finds what the last one left in the cache


CROP_ATTEMPTS = 10  # as torchvision's RandomResizedCrop


class Draw:
    """Uniform numbers and coin tosses, one an image, from one generator. With ``rows`` so many for each image: [rows, B]."""

    def __init__(self, count: int, generator: torch.Generator):
        self.count, self.generator = count, generator

    def uniform(self, low: float, high: float, rows: int | None = None) -> Tensor:
        shape = (self.count,) if rows is None else (rows, self.count)
        return low + (high - low) * torch.rand(
            shape, generator=self.generator, device=self.generator.device
        )

    def coin(self, probability: float) -> Tensor:
        return (
            torch.rand(self.count, generator=self.generator, device=self.generator.device)
            < probability
        )


@dataclass(frozen=True)
class Shape:
    """Where views are cut out, [B] each: top, left, height and width of the box; whether it is flipped; degrees that it is turned by, None
    where none is turned. And how: ``bicubic`` or bilinear."""

    boxes: tuple[Tensor, Tensor, Tensor, Tensor]
    flip: Tensor
    angle: Tensor | None = None
    bicubic: bool = False


@dataclass(frozen=True)
class Colours:
    """What is done to the colours of views, [B] each; None where it is done to none of them. ``jitter``, ``grey``, ``blur`` and
    ``solarize`` are bool: to which."""

    jitter: Tensor | None = None
    brightness: Tensor | None = None
    contrast: Tensor | None = None
    saturation: Tensor | None = None
    hue: Tensor | None = None
    grey: Tensor | None = None
    sigma: Tensor | None = None
    blur: Tensor | None = None
    solarize: Tensor | None = None


def random_view(images: Tensor, settings: ViewSettings, generator: torch.Generator) -> Tensor:
    """One view: uint8 [B, C, H, W] -> float [B, C, size, size] in [0, 1].

    The generator lives on the images' device. The parts come in the order of SimCLR (Chen et al., ICML 2020):
    crop and flip, colour jitter, grey, blur, solarise. Colour jitter is brightness, contrast, saturation, hue in
    that order for every image.
    """
    draw = Draw(len(images), generator)
    boxes = draw_boxes(draw, *images.shape[-2:], settings.scale, settings.ratio)
    flip = draw.coin(settings.flip)
    shape = Shape(boxes, flip, bicubic=settings.interpolation == "bicubic")
    if not shape.bicubic:
        # Drawn also where none is turned, so that what is drawn next stays the same.
        angle = draw.uniform(-settings.rotate, settings.rotate)
        shape = replace(shape, angle=angle if settings.rotate else None)
    return _make(images, settings, shape, draw_colours(draw, settings, images.shape[1]))


def finish_view(crops: Tensor, settings: ViewSettings, generator: torch.Generator) -> Tensor:
    """The rest of ``random_view`` for crops uint8 [B, C, size, size] that were cut, resized and flipped before: rotation (about the
    centre of the crop, whose edge repeats) and colours."""
    draw = Draw(len(crops), generator)
    shape = None
    if settings.rotate > 0:
        angle = draw.uniform(-settings.rotate, settings.rotate)
        start, side = torch.zeros_like(angle), torch.full_like(angle, settings.size)
        shape = Shape((start, start, side, side), torch.zeros_like(angle, dtype=torch.bool), angle)
    return _make(crops, settings, shape, draw_colours(draw, settings, crops.shape[1]))


def _make(images: Tensor, settings: ViewSettings, shape: Shape | None, colours: Colours) -> Tensor:
    """uint8 images [B, C, H, W] -> float views [B, C, size, size] as drawn. On a CPU as many at a time as stay in the cache of its cores, and
    those together of which the same is to be done."""
    size = settings.size
    if images.device.type != "cpu":
        return (_compiled() if settings.compile else _drawn)(images, size, shape, colours)
    if shape is None and all(value is None for value in vars(colours).values()):
        return images.float().div_(255.0)
    whole = torch.empty(len(images), images.shape[1], size, size)
    for rows in _alike(colours, len(images)).split(
        max(1, CACHED_PIXELS * torch.get_num_threads() // size**2)
    ):
        _put(
            _drawn(images.index_select(0, rows), size, _of(rows, shape), _of(rows, colours)),
            rows,
            whole,
        )
    return whole


def _drawn(images: Tensor, size: int, shape: Shape | None, colours: Colours) -> Tensor:
    images = images.to(torch.float32, memory_format=torch.contiguous_format).div_(255.0)
    return recolour(cut(images, size, shape) if shape else images, colours)


@cache
def _compiled() -> Callable[..., Tensor]:
    return torch.compile(_drawn, dynamic=False)


def _alike(drawn: Colours, count: int) -> Tensor:
    """The images [B], sorted by whether they are jittered, then by whether and how far they are blurred, then by whether they are grey."""
    order = torch.zeros(count)
    if drawn.jitter is not None:
        order += 10.0 * drawn.jitter
    if drawn.blur is not None and drawn.sigma is not None:
        order += drawn.blur * drawn.sigma
    if drawn.grey is not None:
        order += 0.01 * drawn.grey
    return order.argsort()


def _of(rows: Tensor, drawn: Any) -> Any:
    """What was drawn for some of the images: of a tensor [B], a tuple of them, or a dataclass of these; what is of no image stays."""
    match drawn:
        case None | bool():
            return drawn
        case Tensor():
            return drawn.index_select(0, rows)
        case tuple():
            return tuple(_of(rows, each) for each in drawn)
    return type(drawn)(
        **{field.name: _of(rows, getattr(drawn, field.name)) for field in fields(drawn)}
    )


def cut(images: Tensor, size: int, shape: Shape) -> Tensor:
    """The boxes of ``shape`` as views [B, C, size, size]."""
    if shape.bicubic:
        return bicubic_crop(images, shape.boxes, size, shape.flip)
    return crop(images, shape.boxes, size, shape.flip, shape.angle)


def draw_colours(draw: Draw, settings: ViewSettings, channels: int) -> Colours:
    """For images of so many channels: grey ones have neither saturation nor hue."""
    drawn, coloured = {}, channels == 3
    if settings.jitter > 0:
        drawn["jitter"] = draw.coin(settings.jitter)
        for name in (
            ("brightness", "contrast", "saturation") if coloured else ("brightness", "contrast")
        ):
            if (width := getattr(settings, name)) > 0:
                drawn[name] = draw.uniform(max(0.0, 1 - width), 1 + width)
        if coloured and settings.hue > 0:
            drawn["hue"] = draw.uniform(-settings.hue, settings.hue)
    if coloured and settings.grayscale > 0:
        drawn["grey"] = draw.coin(settings.grayscale)
    if settings.blur > 0:
        drawn["sigma"], drawn["blur"] = draw.uniform(0.1, 2.0), draw.coin(settings.blur)
    if settings.solarize > 0:
        drawn["solarize"] = draw.coin(settings.solarize)
    return Colours(**drawn)


def recolour(view: Tensor, drawn: Colours) -> Tensor:
    """Colour jitter, grey, blur and solarisation of float views [B, C, size, size] in [0, 1], into which it may write."""
    if drawn.jitter is not None:
        view = _some(
            view,
            drawn.jitter,
            _jitter,
            drawn.brightness,
            drawn.contrast,
            drawn.saturation,
            drawn.hue,
        )
    if drawn.grey is not None:
        view = _some(view, drawn.grey, grey)
    if drawn.blur is not None and drawn.sigma is not None:
        view = _some(view, drawn.blur, gaussian_blur, drawn.sigma)
    if drawn.solarize is not None:
        view = _some(view, drawn.solarize, solarize)
    return view


def _jitter(
    view: Tensor,
    brightness: Tensor | None,
    contrast: Tensor | None,
    saturation: Tensor | None,
    hue: Tensor | None,
) -> Tensor:
    """On a CPU in place, so that it stays in the cache; on a GPU the views are needed as they were."""
    out = view if view.device.type == "cpu" else None
    steps = (
        (adjust_brightness, brightness),
        (adjust_contrast, contrast),
        (adjust_saturation, saturation),
        (adjust_hue, hue),
    )
    for adjust, amount in steps:
        if amount is not None:
            view = adjust(view, amount, out=out)
    return view


def _some(
    view: Tensor, chosen: Tensor, change: Callable[..., Tensor], *drawn: Tensor | None
) -> Tensor:
    """``change`` of those of the views that are chosen [B]. A GPU changes all of them, which is cheaper than to wait for how many there
    are; a CPU writes into ``view``."""
    if view.device.type != "cpu":
        return torch.where(_each(chosen), change(view, *drawn), view)
    rows = chosen.nonzero()[:, 0]
    if len(rows) == len(view):
        return change(view, *drawn).contiguous()
    if len(rows):
        some = (None if each is None else each.index_select(0, rows) for each in (view, *drawn))
        _put(change(*some), rows, view)
    return view


def _put(part: Tensor, rows: Tensor, whole: Tensor) -> None:
    """Write images into these rows of others, contiguous on a CPU: ``index_copy_`` goes element by element, and so by four numbers at a time."""
    if whole[0].numel() % 4 == 0:
        # A view of what is written to: a copy would take the images with it.
        part, whole = (
            part.reshape(len(part), -1).view(torch.complex128),
            whole.view(len(whole), -1).view(torch.complex128),
        )
    whole.index_copy_(0, rows, part)


def _each(value: Tensor) -> Tensor:
    return value.view(-1, 1, 1, 1)


def draw_boxes(
    draw: Draw,
    height: Tensor | int,
    width: Tensor | int,
    scale: Sequence[float],
    ratio: Sequence[float],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw crop boxes with the distribution of torchvision's ``RandomResizedCrop``.

    height, width: of the images in pixels, one number for all or a tensor [B].
    scale: lowest and highest share of the image's area. ratio: lowest and highest width / height.

    Area uniform, aspect ratio log-uniform, sides rounded to whole pixels. A box that does not fit
    into its image is drawn again; after ``CROP_ATTEMPTS`` misses the image gets the largest centred
    box that respects ``ratio``. Boxes that fit are placed uniformly.

    Returns top, left, height, width as float [B], all whole numbers of pixels.
    """
    share = draw.uniform(*scale, rows=CROP_ATTEMPTS)
    aspect = torch.exp(draw.uniform(math.log(ratio[0]), math.log(ratio[1]), rows=CROP_ATTEMPTS))
    height, width = (
        torch.as_tensor(side, dtype=share.dtype, device=share.device).expand(draw.count)
        for side in (height, width)
    )
    area = share * (height * width)
    widths, heights = torch.sqrt(area * aspect).round(), torch.sqrt(area / aspect).round()
    fits = (widths >= 1) & (widths <= width) & (heights >= 1) & (heights <= height)
    first = (fits.cumsum(0) == 0).sum(0)  # attempts before the first box that fits
    missed = first == CROP_ATTEMPTS
    chosen = first.clamp(max=CROP_ATTEMPTS - 1).unsqueeze(0)
    widest, highest = (height * ratio[1]).round(), (width / ratio[0]).round()
    box_width = torch.where(missed, widest.minimum(width), widths.gather(0, chosen)[0])
    box_height = torch.where(missed, highest.minimum(height), heights.gather(0, chosen)[0])
    top = _place(draw.uniform(0, 1), height - box_height, missed)
    left = _place(draw.uniform(0, 1), width - box_width, missed)
    return top, left, box_height, box_width


def _place(share: Tensor, room: Tensor, centred: Tensor) -> Tensor:
    """Whole pixels before a box, out of ``room`` [B]: uniform from 0 to room, or half of it."""
    # The product can round up to room + 1.
    drawn = (share * (room + 1)).floor().minimum(room)
    return torch.where(centred, (room / 2).floor(), drawn)


def crop(
    images: Tensor, boxes: tuple[Tensor, ...], size: int, flip: Tensor, angle: Tensor | None
) -> Tensor:
    """Bilinear resample of a box of each image to size x size; then flipped, and turned about the box's centre.

    boxes: top, left, height, width [B] in pixels. flip: bool [B]. angle: degrees [B], counter-clockwise, or None. At the border
    of the box the edge pixel repeats, as when the box had been cut out first; a turned box may reach beyond the box
    and, at the border of the image, repeats the image's edge.
    """
    height, width = images.shape[-2:]
    top, left, box_height, box_width = (value.view(-1, 1, 1) for value in boxes)
    line = (
        torch.arange(size, device=images.device, dtype=images.dtype) + 0.5
    ) / size - 0.5  # [-0.5, 0.5]
    across = torch.where(flip.view(-1, 1), -line, line).view(-1, 1, size)
    down = line.view(1, size, 1)
    if angle is not None:
        cos, sin = (
            value.view(-1, 1, 1)
            for value in (torch.deg2rad(angle).cos(), torch.deg2rad(angle).sin())
        )
        across, down = cos * across - sin * down, sin * across + cos * down
    x = (
        left + (across + 0.5) * box_width - 0.5
    )  # in pixels of the image, 0 at the first one's centre
    y = top + (down + 0.5) * box_height - 0.5
    if angle is None:
        x = torch.minimum(torch.maximum(x, left), left + box_width - 1)
        y = torch.minimum(torch.maximum(y, top), top + box_height - 1)
    shape = (len(images), size, size)
    grid = torch.stack(
        (((2 * x + 1) / width - 1).expand(shape), ((2 * y + 1) / height - 1).expand(shape)), -1
    )
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def bicubic_crop(images: Tensor, boxes: tuple[Tensor, ...], size: int, flip: Tensor) -> Tensor:
    """Bicubic resample of a box of each image to size x size, antialiased; then flipped. Values are cut to [0, 1].

    boxes: top, left, height, width [B] in pixels. Keys' cubic with a = -0.5, widened where the box is larger than the view,
    over the pixels of the box alone: as Pillow, and torchvision with ``antialias``, resize the box cut out.
    """
    height, width = images.shape[-2:]
    top, left, box_height, box_width = boxes
    down = _cubic_weights(top, box_height, height, size)
    across = _cubic_weights(left, box_width, width, size)
    across = torch.where(flip.view(-1, 1, 1), across.flip(1), across)
    # [B, 1, S, H] [B, C, H, W] [B, 1, W, S]: a crop is smaller than the image as a rule, so the larger side goes first
    return (down[:, None] @ images @ across[:, None].transpose(2, 3)).clamp(0.0, 1.0)


def _cubic_weights(start: Tensor, length: Tensor, pixels: int, size: int) -> Tensor:
    """[B, size, pixels]: how much each pixel of a line adds to each of ``size`` that a stretch of it [B] becomes."""
    place = torch.arange(pixels, device=start.device, dtype=start.dtype) + 0.5  # of the centres
    start, length = start.view(-1, 1, 1), length.view(-1, 1, 1)
    step = length / size
    centre = (
        start
        + (torch.arange(size, device=start.device, dtype=start.dtype).view(1, -1, 1) + 0.5) * step
    )
    x = ((place - centre) / step.clamp_min(1.0)).abs()
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    weight = torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
    weight = weight * ((place >= start) & (place <= start + length))
    return weight / weight.sum(2, keepdim=True)


def grey(images: Tensor) -> Tensor:
    """[B, C, H, W] -> its luma repeated over the channels."""
    return _luma(images).expand_as(images)


def _luma(images: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, 1, H, W]."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.split(1, 1)
    return torch.add(red * _LUMA[0], green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2])


def _blend(images: Tensor, other: Tensor, factor: Tensor, out: Tensor | None) -> Tensor:
    """``other`` [B, 1, H, W] or [B, 1, 1, 1] at 0, the images at 1."""
    factor = _each(factor)
    return torch.addcmul(other * (1.0 - factor), images, factor, out=out).clamp_(0.0, 1.0)


def adjust_brightness(images: Tensor, factor: Tensor, out: Tensor | None = None) -> Tensor:
    """0 gives black, 1 the image."""
    return torch.mul(images, _each(factor), out=out).clamp_(0.0, 1.0)


def adjust_contrast(images: Tensor, factor: Tensor, out: Tensor | None = None) -> Tensor:
    """0 gives the mean of the grey image, 1 the image."""
    return _blend(images, _luma(images.mean((2, 3), keepdim=True)), factor, out)


def adjust_saturation(images: Tensor, factor: Tensor, out: Tensor | None = None) -> Tensor:
    """0 gives the grey image, 1 the image."""
    return _blend(images, _luma(images), factor, out)


def adjust_hue(images: Tensor, shift: Tensor, out: Tensor | None = None) -> Tensor:
    """Turn the hue of RGB images by ``shift`` in [-0.5, 0.5] of a full turn, in exact HSV.

    Without cases, in which a CPU is slow. With V the largest value, C the chroma and hue H in sixths of a turn in [-3, 3],
    |H| = 2 + (G + B - R - V) / C and the sign is that of G - B. Back from H in [0, 6), with k(c) = |H - c| between 1 and 2:
    R = V - C (2 - k(3)), G = V - C (k(2) - 1), B = V - C (k(4) - 1).
    """
    red, green, blue = images.unbind(1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    hue = (green + blue).sub_(red).sub_(value).div_(chroma.clamp_min(1e-12)).add_(2.0)
    hue = hue.copysign_(green - blue).add_(6 * shift.view(-1, 1, 1) + 6)
    hue.sub_((hue / 6).floor_(), alpha=6)
    most = value + chroma
    parts = ((value.sub_(chroma, alpha=2), 3, 1), (most, 2, -1), (most, 4, -1))
    channels = [
        torch.addcmul(base, chroma, (hue - centre).abs_().clamp_(1.0, 2.0), value=sign, out=channel)
        for (base, centre, sign), channel in zip(
            parts, (None,) * 3 if out is None else out.unbind(1), strict=True
        )
    ]
    return torch.stack(channels, 1) if out is None else out


def gaussian_blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Separable Gaussian of standard deviation ``sigma`` pixels [B] over an odd kernel of a tenth of the side, >= 3."""
    height, width = images.shape[-2:]
    radius = max(1, min(height, width) // 20)
    if images.device.type == "cpu":
        return torch.stack(
            [_blur_by_shifts(*each, radius) for each in zip(images, sigma.tolist(), strict=True)]
        )
    down, across = (_blur_matrix(sigma, side, radius)[:, None] for side in (height, width))
    return down @ images @ across.transpose(2, 3)


def _blur_matrix(sigma: Tensor, side: int, radius: int) -> Tensor:
    """[B, side, side]: how much each pixel of a line adds to each of the blurred one, the line reflected at its ends. Matrix products take a
    GPU half the time of a convolution with groups of one channel."""
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
    """``gaussian_blur`` of one image [C, H, W]: a CPU adds it up from shifted images several times faster than it convolves groups of one
    channel. What lies beyond four standard deviations, of which less than a ten thousandth of the weight, is left out."""
    radius = min(radius, math.ceil(4 * sigma))
    weights = [math.exp(-0.5 * (place / sigma) ** 2) for place in range(-radius, radius + 1)]
    total = sum(weights)
    for dim in (2, 1):
        padded = F.pad(
            image, (radius, radius, 0, 0) if dim == 2 else (0, 0, radius, radius), mode="reflect"
        )
        size = image.shape[dim]
        image = padded.narrow(dim, 0, size) * (weights[0] / total)
        for place in range(1, 2 * radius + 1):
            image.add_(padded.narrow(dim, place, size), alpha=weights[place] / total)
    return image


def solarize(images: Tensor, threshold: float = 0.5) -> Tensor:
    """Invert every value at or above the threshold."""
    return torch.where(images >= threshold, 1.0 - images, images)
