"""Draw the parameters of random views: where each image is cut, and how its colours change.

Letters in shapes: B images. Every image has parameters of its own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prosmin.views.settings import ViewSettings

CROP_ATTEMPTS = 10  # as torchvision's RandomResizedCrop

Boxes = tuple[Tensor, Tensor, Tensor, Tensor]
"""Top, left, height and width of a box per image, float [B] each, in pixels."""


class Sampler:
    """Uniform numbers and coin tosses, one per image, from one generator.

    count: number of images, B.
    """

    def __init__(self, count: int, generator: torch.Generator):
        self.count, self.generator = count, generator

    def uniform(self, low: float, high: float, rows: int | None = None) -> Tensor:
        """Draw float [B], or with ``rows`` float [rows, B], uniformly from [low, high)."""
        shape = (self.count,) if rows is None else (rows, self.count)
        return low + (high - low) * self._rand(shape)

    def coin(self, probability: float) -> Tensor:
        """Draw bool [B], true with this probability."""
        return self._rand((self.count,)) < probability

    def _rand(self, shape: tuple[int, ...]) -> Tensor:
        return torch.rand(shape, generator=self.generator, device=self.generator.device)


@dataclass(frozen=True)
class CropParameters:
    """How views are cut out of their images.

    boxes: the boxes to cut.
    flip: bool [B], whether the view is mirrored horizontally.
    angle: [B], counter-clockwise rotation in degrees; None without rotation.
    bicubic: resample by the bicubic filter instead of the bilinear one.
    """

    boxes: Boxes
    flip: Tensor
    angle: Tensor | None = None
    bicubic: bool = False


@dataclass(frozen=True)
class ColourParameters:
    """How the colours of views change, [B] each; None for a change that no view undergoes.

    jitter, grey, blur, solarize: bool, whether the view undergoes the change.
    brightness, contrast, saturation: factors of colour jitter, 1 for no change.
    hue: shift of the hue, as a share of a full turn.
    sigma: standard deviation of the blur in pixels.
    """

    jitter: Tensor | None = None
    brightness: Tensor | None = None
    contrast: Tensor | None = None
    saturation: Tensor | None = None
    hue: Tensor | None = None
    grey: Tensor | None = None
    sigma: Tensor | None = None
    blur: Tensor | None = None
    solarize: Tensor | None = None


def draw_boxes(
    sampler: Sampler,
    height: Tensor | int,
    width: Tensor | int,
    scale: Sequence[float],
    ratio: Sequence[float],
) -> Boxes:
    """Draw crop boxes with the distribution of torchvision's ``RandomResizedCrop``.

    The area is uniform, the aspect ratio log-uniform, and the sides are rounded to whole pixels. A
    box that does not fit into its image is drawn again. After ``CROP_ATTEMPTS`` misses the image
    gets the largest centred box that respects ``ratio``. Boxes that fit are placed uniformly.

    height, width: size of the images in pixels, one number for all or a tensor [B].
    scale: lowest and highest share of the image's area.
    ratio: lowest and highest width / height.

    Returns: boxes of whole pixels.
    """
    share = sampler.uniform(scale[0], scale[1], rows=CROP_ATTEMPTS)
    log_ratio = sampler.uniform(math.log(ratio[0]), math.log(ratio[1]), rows=CROP_ATTEMPTS)
    aspect = torch.exp(log_ratio)
    height, width = (
        torch.as_tensor(side, dtype=share.dtype, device=share.device).expand(sampler.count)
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
    top = _place(sampler.uniform(0, 1), height - box_height, missed)
    left = _place(sampler.uniform(0, 1), width - box_width, missed)
    return top, left, box_height, box_width


def _place(share: Tensor, room: Tensor, centred: Tensor) -> Tensor:
    """Return the whole pixels before a box, [B]: uniform from 0 to ``room``, or half of it."""
    # The product can round up to room + 1.
    drawn = (share * (room + 1)).floor().minimum(room)
    return torch.where(centred, (room / 2).floor(), drawn)


def draw_colours(sampler: Sampler, settings: ViewSettings, channels: int) -> ColourParameters:
    """Draw the changes of colour. Grey images (one channel) have neither saturation nor hue."""
    drawn: dict[str, Tensor] = {}
    coloured = channels == 3
    if settings.jitter > 0:
        drawn["jitter"] = sampler.coin(settings.jitter)
        factors = ("brightness", "contrast") + (("saturation",) if coloured else ())
        for name in factors:
            if (strength := getattr(settings, name)) > 0:
                drawn[name] = sampler.uniform(max(0.0, 1 - strength), 1 + strength)
        if coloured and settings.hue > 0:
            drawn["hue"] = sampler.uniform(-settings.hue, settings.hue)
    if coloured and settings.grayscale > 0:
        drawn["grey"] = sampler.coin(settings.grayscale)
    if settings.blur > 0:
        drawn["sigma"], drawn["blur"] = sampler.uniform(0.1, 2.0), sampler.coin(settings.blur)
    if settings.solarize > 0:
        drawn["solarize"] = sampler.coin(settings.solarize)
    return ColourParameters(**drawn)
