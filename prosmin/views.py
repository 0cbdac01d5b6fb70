"""Random views of a batch, on the batch's device, with parameters of its own for every image.

All functions take float images [B, C, H, W] in [0, 1] and parameters [B]; C is 1 (grey) or 3 (RGB). Each
operation follows torchvision's functional of the same name, applied image by image.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

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


class _Draw:
    """Uniform numbers and coin tosses, one an image, from one generator."""

    def __init__(self, count: int, generator: torch.Generator):
        self.count, self.generator = count, generator

    def uniform(self, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(self.count, generator=self.generator, device=self.generator.device)

    def coin(self, probability: float) -> Tensor:
        return torch.rand(self.count, generator=self.generator, device=self.generator.device) < probability


def random_view(images: Tensor, settings: ViewSettings, generator: torch.Generator) -> Tensor:
    """One view: uint8 [B, C, H, W] -> float [B, C, size, size] in [0, 1].

    The generator lives on the images' device. The parts come in the order of SimCLR (Chen et al., ICML 2020):
    crop and flip, colour jitter, grey, blur, solarise. Colour jitter is brightness, contrast, saturation, hue in
    that order for every image.
    """
    draw = _Draw(len(images), generator)
    height, width = images.shape[-2:]
    boxes = draw_boxes(draw, height, width, settings.scale, settings.ratio)
    flip = draw.coin(settings.flip)
    if settings.interpolation == "bicubic":
        view = bicubic_crop(images.float() / 255.0, boxes, settings.size, flip)
    else:
        angle = draw.uniform(-settings.rotate, settings.rotate)
        view = crop(images.float() / 255.0, boxes, settings.size, flip, angle)
    return recolour(view, settings, draw)


def finish_view(crops: Tensor, settings: ViewSettings, generator: torch.Generator) -> Tensor:
    """The rest of ``random_view`` for crops uint8 [B, C, size, size] that were cut, resized and flipped before: rotation (about the
    centre of the crop, whose edge repeats) and colours."""
    draw = _Draw(len(crops), generator)
    view = crops.float().div_(255.0)
    if settings.rotate > 0:
        angle = draw.uniform(-settings.rotate, settings.rotate)
        whole = tuple(torch.full_like(angle, value) for value in (0.0, 0.0, settings.size, settings.size))
        view = crop(view, whole, settings.size, torch.zeros_like(angle, dtype=torch.bool), angle)
    return recolour(view, settings, draw)


def recolour(view: Tensor, settings: ViewSettings, draw: _Draw) -> Tensor:
    """Colour jitter, grey, blur and solarisation of float views [B, C, size, size] in [0, 1]."""
    if settings.jitter > 0:
        on = draw.coin(settings.jitter)

        def around(width: float) -> Tensor:
            return torch.where(on, draw.uniform(max(0.0, 1 - width), 1 + width), 1.0)

        if settings.brightness > 0:
            view = adjust_brightness(view, around(settings.brightness))
        if settings.contrast > 0:
            view = adjust_contrast(view, around(settings.contrast))
        if view.shape[1] == 3 and settings.saturation > 0:
            view = adjust_saturation(view, around(settings.saturation))
        if view.shape[1] == 3 and settings.hue > 0:
            view = adjust_hue(view, torch.where(on, draw.uniform(-settings.hue, settings.hue), 0.0))
    if view.shape[1] == 3 and settings.grayscale > 0:
        view = torch.where(_each(draw.coin(settings.grayscale)), grey(view), view)
    if settings.blur > 0:
        blurred = gaussian_blur(view, draw.uniform(0.1, 2.0))
        view = torch.where(_each(draw.coin(settings.blur)), blurred, view)
    if settings.solarize > 0:
        view = torch.where(_each(draw.coin(settings.solarize)), solarize(view), view)
    return view


def _each(value: Tensor) -> Tensor:
    return value.view(-1, 1, 1, 1)


def draw_boxes(
    draw: _Draw, height: Tensor | int, width: Tensor | int, scale: Sequence[float], ratio: Sequence[float]
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
    luma = images.new_tensor(_LUMA).view(1, 3, 1, 1)
    return (images * luma).sum(1, keepdim=True).expand_as(images)


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return torch.lerp(other.expand_as(images), images, _each(factor)).clamp(0.0, 1.0)


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """0 gives black, 1 the image."""
    return (images * _each(factor)).clamp(0.0, 1.0)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """0 gives the mean of the grey image, 1 the image."""
    return _blend(images, grey(images)[:, :1].mean((1, 2, 3), keepdim=True), factor)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """0 gives the grey image, 1 the image."""
    return _blend(images, grey(images), factor)


def adjust_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue of RGB images by ``shift`` in [-0.5, 0.5] of a full turn, in exact HSV."""
    value, argmax = images.max(1)
    chroma = value - images.min(1).values
    safe = torch.where(chroma > 0, chroma, 1.0)
    red, green, blue = images.unbind(1)
    hue = torch.where(
        argmax == 0, (green - blue) / safe, torch.where(argmax == 1, 2 + (blue - red) / safe, 4 + (red - green) / safe)
    )
    hue = hue + 6 * shift.view(-1, 1, 1)
    # V - C max(0, min(k, 4 - k, 1)) with k = (n + hue) mod 6, n = 5, 3, 1: HSV to RGB without cases
    k = torch.remainder(hue.unsqueeze(1) + images.new_tensor([5.0, 3.0, 1.0]).view(1, 3, 1, 1), 6.0)
    return value.unsqueeze(1) - chroma.unsqueeze(1) * torch.minimum(k, 4 - k).clamp(0.0, 1.0)


def gaussian_blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Separable Gaussian of standard deviation ``sigma`` pixels [B] over an odd kernel of a tenth of the side, >= 3."""
    count, channels, height, width = images.shape
    radius = max(1, min(height, width) // 20)
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
