"""Make random views of a batch of images, on its device.

Every image has parameters of its own.

Letters in shapes: B images, C channels (1 or 3), H height, W width, V views. Views of a step are a
pure function of (seed, epoch, step, rank).
"""

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from prosmin.common.seeds import box_generator, view_generator
from prosmin.views.colour import change_colours, write_rows
from prosmin.views.crop import crop_views
from prosmin.views.draw import (
    ColourParameters,
    CropParameters,
    Sampler,
    draw_boxes,
    draw_colours,
)
from prosmin.views.settings import ViewSettings

# Of a part of a batch per core: every operation then finds its input in the cache.
CACHED_PIXELS = 2**17


# --- the views of a step --------------------------------------------------------------------------


def make_views(
    images: Tensor, views: Sequence[ViewSettings], seed: int, epoch: int, step: int, rank: int = 0
) -> list[Tensor]:
    """Make the views of one batch: uint8 [B, C, H, W] -> float [B, C, size, size] per view."""
    generator = view_generator(images.device, seed, epoch, step, rank)
    return [random_view(images, settings, generator) for settings in views]


def crop_boxes(
    heights: Tensor,
    widths: Tensor,
    views: Sequence[ViewSettings],
    seed: int,
    epoch: int,
    step: int,
    rank: int = 0,
) -> tuple[Tensor, Tensor]:
    """Draw where to cut the views of one batch, on the CPU, which decodes the images.

    heights, widths: size of the images in pixels, [B].

    Returns: boxes [V, B, 4], each top, left, height, width in pixels; and which crops to flip, bool
        [V, B].
    """
    sampler = Sampler(len(heights), box_generator(seed, epoch, step, rank))
    boxes, flips = [], []
    for view in views:
        boxes.append(torch.stack(draw_boxes(sampler, heights, widths, view.scale, view.ratio), 1))
        flips.append(sampler.coin(view.flip))
    return torch.stack(boxes), torch.stack(flips)


def finish_views(
    crops: Sequence[Tensor],
    views: Sequence[ViewSettings],
    seed: int,
    epoch: int,
    step: int,
    rank: int = 0,
) -> list[Tensor]:
    """Make the views of one batch from crops that were cut at the boxes of ``crop_boxes``.

    crops: per view, uint8 [B, C, size, size].

    Returns: per view, float [B, C, size, size] in [0, 1].
    """
    generator = view_generator(crops[0].device, seed, epoch, step, rank)
    return [
        finish_view(crop, settings, generator) for crop, settings in zip(crops, views, strict=True)
    ]


# --- one view -------------------------------------------------------------------------------------


def random_view(images: Tensor, settings: ViewSettings, generator: torch.Generator) -> Tensor:
    """Make one view of each image: uint8 [B, C, H, W] -> float [B, C, size, size] in [0, 1].

    The operations come in the order of SimCLR (Chen et al., ICML 2020): crop and flip, colour
    jitter, grey, blur, solarise. Colour jitter changes brightness, contrast, saturation and hue, in
    this order for every image.

    generator: on the device of the images.
    """
    sampler = Sampler(len(images), generator)
    height, width = images.shape[-2:]
    boxes = draw_boxes(sampler, height, width, settings.scale, settings.ratio)
    bicubic = settings.interpolation == "bicubic"
    crop = CropParameters(boxes, sampler.coin(settings.flip), bicubic=bicubic)
    if not bicubic:
        # Drawn even where no view is rotated, so that the draws after it stay the same.
        angle = sampler.uniform(-settings.rotate, settings.rotate)
        crop = replace(crop, angle=angle if settings.rotate else None)
    return _apply(images, settings, crop, draw_colours(sampler, settings, images.shape[1]))


def finish_view(crops: Tensor, settings: ViewSettings, generator: torch.Generator) -> Tensor:
    """Rotate and recolour crops that were cut, resized and flipped before, as ``random_view`` does.

    A crop turns about its centre; beyond its border its edge repeats.

    crops: uint8 [B, C, size, size].
    """
    sampler = Sampler(len(crops), generator)
    crop = None
    if settings.rotate > 0:
        angle = sampler.uniform(-settings.rotate, settings.rotate)
        start, side = torch.zeros_like(angle), torch.full_like(angle, settings.size)
        whole = (start, start, side, side)
        crop = CropParameters(whole, torch.zeros_like(angle, dtype=torch.bool), angle)
    return _apply(crops, settings, crop, draw_colours(sampler, settings, crops.shape[1]))


# --- applying what was drawn ----------------------------------------------------------------------


def _apply(
    images: Tensor, settings: ViewSettings, crop: CropParameters | None, colours: ColourParameters
) -> Tensor:
    """Apply the parameters: uint8 [B, C, H, W] -> float [B, C, size, size].

    A CPU takes as many images at a time as stay in the cache of its cores, grouped by which
    operations apply to them.

    crop: None to cut nothing.
    """
    size = settings.size
    if images.device.type != "cpu":
        transform = _compiled_transform() if settings.compile else _transform
        return transform(images, size, crop, colours)
    if crop is None and all(value is None for value in vars(colours).values()):
        return images.float().div_(255.0)
    views = torch.empty(len(images), images.shape[1], size, size)
    at_a_time = max(1, CACHED_PIXELS * torch.get_num_threads() // size**2)
    for rows in torch.split(_grouped_order(colours, len(images)), at_a_time):
        chosen = images.index_select(0, rows)
        part = _transform(chosen, size, _select(rows, crop), _select(rows, colours))
        write_rows(part, rows, views)
    return views


def _transform(
    images: Tensor, size: int, crop: CropParameters | None, colours: ColourParameters
) -> Tensor:
    images = images.to(torch.float32, memory_format=torch.contiguous_format).div_(255.0)
    return change_colours(crop_views(images, size, crop) if crop else images, colours)


@cache
def _compiled_transform() -> Callable[..., Tensor]:
    return torch.compile(_transform, dynamic=False)


def _grouped_order(colours: ColourParameters, count: int) -> Tensor:
    """Sort images by whether they are jittered, how far they are blurred, whether they are grey.

    Returns: row numbers, int64 [count].
    """
    key = torch.zeros(count)
    if colours.jitter is not None:
        key += 10.0 * colours.jitter
    if colours.blur is not None and colours.sigma is not None:
        key += colours.blur * colours.sigma
    if colours.grey is not None:
        key += 0.01 * colours.grey
    return key.argsort()


def _select(rows: Tensor, parameters: Any) -> Any:
    """Take these rows of every tensor [B] in a dataclass or tuple; None and bool stay."""
    match parameters:
        case None | bool():
            return parameters
        case Tensor():
            return parameters.index_select(0, rows)
        case tuple():
            return tuple(_select(rows, value) for value in parameters)
    values = {field.name: getattr(parameters, field.name) for field in fields(parameters)}
    return type(parameters)(**{name: _select(rows, value) for name, value in values.items()})
