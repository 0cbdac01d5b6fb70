"""The settings of random views. This module needs no torch, so that reading settings is fast."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ViewSettings:
    """How one random view of an image is drawn.

    Lengths are in pixels, angles in degrees, probabilities in [0, 1]. A strength ``s`` of colour
    jitter draws the factor uniformly from [max(0, 1 - s), 1 + s].

    size: side of the square view.
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
    compile: on a GPU, compile the drawing of views by ``torch.compile``.
    """

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
    compile: bool = False
