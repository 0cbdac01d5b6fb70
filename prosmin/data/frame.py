"""How an image of any size becomes the input of a network: resized, and its centre cut out."""

import math
from dataclasses import dataclass

from prosmin.views.settings import Interpolation

SMALLEST_SHARE = 0.1  # of the short side; below that an input would be a few pixels, enlarged


@dataclass(frozen=True)
class Frame:
    """The input of a network.

    size: pixels a side, at least 2.
    crop_pct: share of the short side that is kept, in [0.1, 1]: with 224 pixels and 0.875 the short
        side is resized to 256 pixels. The name is that of timm.
    interpolation: of the resizing, with antialiasing.
    """

    size: int
    crop_pct: float = 1.0
    interpolation: Interpolation = "bilinear"

    @property
    def short_side(self) -> int:
        """Pixels of the short side after the resizing, rounded down as timm does."""
        return math.floor(self.size / self.crop_pct)


def frame_of(size: "int | Frame") -> Frame:
    """Return a frame, or the frame of images that are resized to ``size`` pixels."""
    return size if isinstance(size, Frame) else Frame(size)
