"""Images of any size and colour as a network wants them, on the CPU."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from prosmin.data.frame import Frame, frame_of

_THIN = 4  # ratio of long to short side above which only the middle of an image is resized


def convert(images: Tensor, image_size: int | Frame | None, channels: int | None) -> Tensor:
    """Convert uint8 [N, C, H, W] to uint8 [N, channels, S, S].

    image_size, channels: as for ``prosmin.data.dataset.load_split``.
    """
    if channels == 1 and images.shape[1] == 3:
        red, green, blue = images.int().unbind(1)
        luma = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16  # rounded as Pillow does
        images = luma.to(torch.uint8)[:, None]
    if image_size is not None:
        images = _cut(images, frame_of(image_size))
    if channels == 3 and images.shape[1] == 1:
        images = images.expand(-1, 3, -1, -1)
    return images.contiguous()


def _cut(images: Tensor, frame: Frame) -> Tensor:
    """Resize the short side of images and cut out their centre.

    images: uint8 [N, C, H, W]. Returns: uint8 [N, C, S, S].

    Sizes and margins are rounded as in torchvision's ``Resize`` and ``CenterCrop``, used by timm.
    """
    side, resized_side = frame.size, frame.short_side
    height, width = images.shape[2:]
    if height == width == side == resized_side:
        return images
    short = min(height, width)
    size = resized_side * height // short, resized_side * width // short
    top, left = (round((length - side) / 2) for length in size)
    if max(size) <= _THIN * side:
        resized = functional.interpolate(
            images, size=size, mode=frame.interpolation, antialias=True, align_corners=False
        )
        return resized[:, :, top : top + side, left : left + side]
    # Resizing all of an image of 1 x 16000 pixels would take gigabytes. Pillow resizes a box alone,
    # from the same neighbours, to the same values up to rounding.
    down, across = height / size[0], width / size[1]
    right, bottom = min((left + side) * across, width), min((top + side) * down, height)
    box = left * across, top * down, right, bottom
    resample = Image.Resampling[frame.interpolation.upper()]
    resized = torch.empty(*images.shape[:2], side, side, dtype=torch.uint8)
    for image, place in zip(images.flatten(0, 1), resized.flatten(0, 1), strict=True):
        channel = Image.fromarray(image.numpy())
        place.copy_(torch.from_numpy(np.array(channel.resize((side, side), resample, box))))
    return resized
