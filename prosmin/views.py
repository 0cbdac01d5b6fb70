"""Random views of a batch, on the batch's device, with parameters of its own for every image.

All functions take float images [B, C, H, W] in [0, 1] and parameters [B]; C is 1 (grey) or 3 (RGB). Each
operation follows torchvision's functional of the same name, applied image by image.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601-2, as Pillow and torchvision


@dataclass(frozen=True)
class ViewSettings:
    """What is drawn for each image; names and meaning as in ``params.yaml``, section ``pretrain.views``. interpolation:
    ``bilinear``, or ``bicubic`` with antialiasing, which does not go with ``rotate``."""

    size: int
    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    rotate: float = 0.0
    jitter: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    grayscale: float = 0.2
    blur: float = 0.5
    solarize: float = 0.1
    interpolation: str = "bilinear"


CACHED_PIXELS = 2**17  # of a part of a batch on a CPU, whose every step then finds what the last one left in the cache


class Draw:
    """Uniform numbers and coin tosses, one an image, from one generator."""

    def __init__(self, count: int, generator: torch.Generator):
        self.count, self.generator = count, generator

    def uniform(self, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(self.count, generator=self.generator, device=self.generator.device)

    def coin(self, probability: float) -> Tensor:
        return torch.rand(self.count, generator=self.generator, device=self.generator.device) < probability


@dataclass(frozen=True)
class Shape:
    """Where views are cut out, [B] each: top, left, height and width of the box; whether it is flipped; degrees that it is turned by."""

    boxes: tuple[Tensor, Tensor, Tensor, Tensor]
    flip: Tensor
    angle: Tensor | None


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
    bicubic = settings.interpolation == "bicubic"
    shape = Shape(boxes, flip, None if bicubic else draw.uniform(-settings.rotate, settings.rotate))
    colours = draw_colours(draw, settings, images.shape[1])

    def view(part: slice) -> Tensor:
        return recolour(cut(images[part].float().div_(255.0), settings.size, _rows(shape, part)), _rows(colours, part))

    return _in_parts(images, settings.size, view)


def finish_view(crops: Tensor, settings: ViewSettings, generator: torch.Generator) -> Tensor:
    """The rest of ``random_view`` for crops uint8 [B, C, size, size] that were cut, resized and flipped before: rotation (about the
    centre of the crop, whose edge repeats) and colours."""
    draw = Draw(len(crops), generator)
    shape = None
    if settings.rotate > 0:
        angle = draw.uniform(-settings.rotate, settings.rotate)
        top, left, height, width = (torch.full_like(angle, value) for value in (0.0, 0.0, settings.size, settings.size))
        shape = Shape((top, left, height, width), torch.zeros_like(angle, dtype=torch.bool), angle)
    colours = draw_colours(draw, settings, crops.shape[1])

    def view(part: slice) -> Tensor:
        images = crops[part].float().div_(255.0)
        if shape:
            images = cut(images, settings.size, _rows(shape, part))
        return recolour(images, _rows(colours, part))

    return _in_parts(crops, settings.size, view)


def _in_parts(images: Tensor, size: int, view: Callable[[slice], Tensor]) -> Tensor:
    """``view`` of all images, on a CPU of as many at a time as stay in its cache."""
    count = len(images)
    if images.device.type != "cpu":
        return view(slice(0, count))
    step = max(1, CACHED_PIXELS // size**2)
    whole = torch.empty(count, images.shape[1], size, size)
    for start in range(0, count, step):
        part = slice(start, min(start + step, count))
        whole[part] = view(part)
    return whole


def _rows(drawn: Any, part: slice) -> Any:
    """What was drawn for a part of the batch."""

    def rows(value: Any) -> Any:
        return tuple(map(rows, value)) if isinstance(value, tuple) else None if value is None else value[part]

    return type(drawn)(**{field.name: rows(getattr(drawn, field.name)) for field in fields(drawn)})


def cut(images: Tensor, size: int, shape: Shape) -> Tensor:
    """The boxes of ``shape`` as views [B, C, size, size]; without angles, those of the box of a bicubic view."""
    if shape.angle is None:
        return bicubic_crop(images, shape.boxes, size, shape.flip)
    return crop(images, shape.boxes, size, shape.flip, shape.angle)


def draw_colours(draw: Draw, settings: ViewSettings, channels: int) -> Colours:
    """For images of so many channels: grey ones have neither saturation nor hue."""
    drawn, coloured = {}, channels == 3
    if settings.jitter > 0:
        drawn["jitter"] = draw.coin(settings.jitter)
        for name in ("brightness", "contrast", "saturation") if coloured else ("brightness", "contrast"):
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
        view = _some(view, drawn.jitter, _jitter, drawn.brightness, drawn.contrast, drawn.saturation, drawn.hue)
    if drawn.grey is not None:
        view = _some(view, drawn.grey, grey)
    if drawn.blur is not None and drawn.sigma is not None:
        view = _some(view, drawn.blur, gaussian_blur, drawn.sigma)
    if drawn.solarize is not None:
        view = _some(view, drawn.solarize, solarize)
    return view


def _jitter(
    view: Tensor, brightness: Tensor | None, contrast: Tensor | None, saturation: Tensor | None, hue: Tensor | None
) -> Tensor:
    if brightness is not None:
        view = adjust_brightness(view, brightness)
    if contrast is not None:
        view = adjust_contrast(view, contrast)
    if saturation is not None:
        view = adjust_saturation(view, saturation)
    return view if hue is None else adjust_hue(view, hue)


def _some(view: Tensor, chosen: Tensor, change: Callable[..., Tensor], *drawn: Tensor | None) -> Tensor:
    """``change`` of those of the views that are chosen [B]. A GPU changes all of them, which is cheaper than to wait for how many there
    are; a CPU writes into ``view``."""
    if view.device.type != "cpu":
        return torch.where(_each(chosen), change(view, *drawn), view)
    rows = chosen.nonzero()[:, 0]
    if len(rows) == len(view):
        return change(view, *drawn)
    if len(rows):
        view[rows] = change(view[rows], *(None if each is None else each[rows] for each in drawn))
    return view


def _each(value: Tensor) -> Tensor:
    return value.view(-1, 1, 1, 1)


def draw_boxes(
    draw: Draw, height: Tensor | int, width: Tensor | int, scale: Sequence[float], ratio: Sequence[float]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Top, left, height, width [B] in pixels (real numbers) of crops that lie inside the images, all of a size or each of its own [B].

    Area share uniform in ``scale``, aspect ratio log-uniform in ``ratio``. A box that would stick out is narrowed
    to the image's side, where torchvision draws again: no loop, and every crop stays inside.
    """
    area = draw.uniform(*scale) * (height * width)
    aspect = torch.exp(draw.uniform(math.log(ratio[0]), math.log(ratio[1])))
    box_width = torch.sqrt(area * aspect).clamp_min(1.0).clamp(max=width)
    box_height = torch.sqrt(area / aspect).clamp_min(1.0).clamp(max=height)
    top = draw.uniform(0, 1) * (height - box_height)
    left = draw.uniform(0, 1) * (width - box_width)
    return top, left, box_height, box_width


def crop(images: Tensor, boxes: tuple[Tensor, ...], size: int, flip: Tensor, angle: Tensor) -> Tensor:
    """Bilinear resample of a box of each image to size x size; then flipped, and turned about the box's centre.

    boxes: top, left, height, width [B] in pixels. flip: bool [B]. angle: degrees [B], counter-clockwise. At the border
    of the box the edge pixel repeats, as when the box had been cut out first; a turned box may reach beyond the box
    and, at the border of the image, repeats the image's edge.
    """
    height, width = images.shape[-2:]
    top, left, box_height, box_width = (value.view(-1, 1, 1) for value in boxes)
    line = (torch.arange(size, device=images.device, dtype=images.dtype) + 0.5) / size - 0.5  # [-0.5, 0.5]
    across = torch.where(flip.view(-1, 1), -line, line).view(-1, 1, size)
    down = line.view(1, size, 1)
    turned = bool((angle != 0).any())
    if turned:
        cos, sin = (value.view(-1, 1, 1) for value in (torch.deg2rad(angle).cos(), torch.deg2rad(angle).sin()))
        across, down = cos * across - sin * down, sin * across + cos * down
    x = left + (across + 0.5) * box_width - 0.5  # in pixels of the image, 0 at the first one's centre
    y = top + (down + 0.5) * box_height - 0.5
    if not turned:
        x = torch.minimum(torch.maximum(x, left), left + box_width - 1)
        y = torch.minimum(torch.maximum(y, top), top + box_height - 1)
    shape = (len(images), size, size)
    grid = torch.stack((((2 * x + 1) / width - 1).expand(shape), ((2 * y + 1) / height - 1).expand(shape)), -1)
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
    centre = start + (torch.arange(size, device=start.device, dtype=start.dtype).view(1, -1, 1) + 0.5) * step
    x = ((place - centre) / step.clamp_min(1.0)).abs()
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    weight = torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
    weight = weight * ((place >= start) & (place <= start + length))
    return weight / weight.sum(2, keepdim=True)


def grey(images: Tensor) -> Tensor:
    """[B, C, H, W] -> its luma repeated over the channels."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.split(1, 1)
    return torch.add(red * _LUMA[0], green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2]).expand_as(images)


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return torch.lerp(other.expand_as(images), images, _each(factor)).clamp_(0.0, 1.0)


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """0 gives black, 1 the image."""
    return (images * _each(factor)).clamp_(0.0, 1.0)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """0 gives the mean of the grey image, 1 the image."""
    return _blend(images, grey(images.mean((2, 3), keepdim=True)), factor)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """0 gives the grey image, 1 the image."""
    return _blend(images, grey(images), factor)


def adjust_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue of RGB images by ``shift`` in [-0.5, 0.5] of a full turn, in exact HSV."""
    value = images.amax(1)
    chroma = value - images.amin(1)
    safe = torch.where(chroma > 0, chroma, 1.0)
    red, green, blue = images.unbind(1)
    hue = torch.where(
        red == value,
        green - blue,
        torch.where(green == value, (blue - red).add_(safe, alpha=2), (red - green).add_(safe, alpha=4)),
    )
    hue = hue.div_(safe).add_(6 * shift.view(-1, 1, 1))
    # V - C max(0, min(k, 4 - k, 1)) with k = (n + hue) mod 6, n = 5, 3, 1: HSV to RGB without cases; min(k, 4 - k) = 2 - |k - 2|
    k = hue.unsqueeze(1) + images.new_tensor([5.0, 3.0, 1.0]).view(1, 3, 1, 1)
    k.sub_(torch.floor(k / 6), alpha=6).sub_(2.0).abs_().neg_().add_(2.0).clamp_(0.0, 1.0)
    return value.unsqueeze(1) - k.mul_(chroma.unsqueeze(1))


def gaussian_blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Separable Gaussian of standard deviation ``sigma`` pixels [B] over an odd kernel of a tenth of the side, >= 3."""
    count, channels, height, width = images.shape
    radius = max(1, min(height, width) // 20)
    if images.device.type == "cpu":  # where it does not wait for the value; what is left out is less than a millionth
        radius = max(1, min(radius, math.ceil(5 * float(sigma.max()))))
    place = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-0.5 * (place / sigma.view(-1, 1)) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)  # [B C, K]
    flat = F.pad(images, (radius,) * 4, mode="reflect").reshape(1, count * channels, height + 2 * radius, -1)
    flat = F.conv2d(flat, kernel[:, None, None, :], groups=count * channels)
    flat = F.conv2d(flat, kernel[:, None, :, None], groups=count * channels)
    return flat.reshape(images.shape)


def solarize(images: Tensor, threshold: float = 0.5) -> Tensor:
    """Invert every value at or above the threshold."""
    return torch.where(images >= threshold, 1.0 - images, images)
