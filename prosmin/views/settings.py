"""The settings of random views. This module needs no torch, so that reading settings is fast."""

from dataclasses import dataclass, fields, replace
from typing import Annotated, Literal, get_args

from prosmin.common.settings import (
    Flag,
    OneOrMore,
    Probability,
    Range,
    Refused,
    Share,
    Strength,
    ascending,
    one_of,
)

Aspect = Annotated[float, Range(least=0.01, most=100)]
Interpolation = Literal["bilinear", "bicubic"]


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How a random view of an image is drawn, at any size.

    Angles are in degrees, probabilities in [0, 1]. A strength ``s`` of colour jitter draws the
    factor uniformly from [max(0, 1 - s), 1 + s].

    scale: lowest and highest share of the image's area that a crop covers.
    ratio: lowest and highest ratio of width to height of a crop.
    flip: probability of a horizontal flip.
    rotate: largest angle; the angle is drawn uniformly from [-rotate, rotate].
    jitter: probability of colour jitter, whose strengths follow.
    brightness, contrast, saturation: strengths of colour jitter.
    hue: largest shift of the hue, as a share of a full turn, at most 0.5.
    grayscale: probability that the view becomes grey.
    blur: probability of a Gaussian blur of standard deviation 0.1 to 2 pixels.
    solarize: probability that values of 0.5 and more are inverted.
    interpolation: ``bilinear``, or ``bicubic`` with antialiasing, which needs ``rotate`` 0.
    """

    scale: tuple[Share, Share] = (0.2, 1.0)
    ratio: tuple[Aspect, Aspect] = (3 / 4, 4 / 3)
    flip: Probability = 0.5
    rotate: Annotated[float, Range(least=0, most=180)] = 0.0
    jitter: Probability = 0.8
    brightness: Strength = 0.4
    contrast: Strength = 0.4
    saturation: Strength = 0.2
    hue: Annotated[float, Range(least=0, most=0.5)] = 0.1
    grayscale: Probability = 0.2
    blur: Probability = 0.5
    solarize: Probability = 0.1
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        ascending("scale", self.scale)
        ascending("ratio", self.ratio)
        one_of("interpolation", self.interpolation, get_args(Interpolation))
        if self.interpolation == "bicubic" and self.rotate > 0:
            only = f"it goes with rotate 0 only, and rotate is {self.rotate:g}"
            raise Refused("interpolation", self.interpolation, only)


@dataclass(frozen=True, kw_only=True)
class ViewSettings(Augmentation):
    """How one random view of an image is drawn.

    size: side of the square view, in pixels.
    compile: on a GPU, compile the drawing of views by ``torch.compile``.
    """

    size: int
    compile: Flag = False


@dataclass(frozen=True, kw_only=True)
class LocalViews:
    """Small views beside the two global ones.

    count: how many of each size.
    size: sides of the square views, in pixels.
    scale: lowest and highest share of the image's area that a crop covers.
    """

    count: Annotated[int, Range(least=0, most=64)] = 0
    size: Annotated[tuple[Annotated[int, Range(least=1, most=4096)], ...], OneOrMore(8)] = (96,)
    scale: tuple[Share, Share] = (0.05, 0.4)

    def __post_init__(self) -> None:
        ascending("scale", self.scale)


@dataclass(frozen=True, kw_only=True)
class Views(Augmentation):
    """All views of an image: two global ones and the local ones."""

    local: LocalViews = LocalViews()

    def whole(self, size: int) -> ViewSettings:
        """A global view of ``size`` pixels a side."""
        drawn = {field.name: getattr(self, field.name) for field in fields(Augmentation)}
        return ViewSettings(size=size, **drawn)

    def every(self, size: int) -> list[ViewSettings]:
        """All views, the two global ones of ``size`` pixels a side first."""
        whole = self.whole(size)
        small = [replace(whole, size=side, scale=self.local.scale) for side in self.local.size]
        return [whole] * 2 + [view for view in small for _ in range(self.local.count)]
