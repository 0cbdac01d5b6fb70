"""Images as tensors: as ``prosmin.data.picture`` decodes them, RGB JPEGs in two thirds of its time.

torchvision decodes a JPEG to the pixels that Pillow gives (a test compares them).
"""

import contextlib
from pathlib import Path

import torch
from torch import Tensor

from prosmin.data.picture import contents, decode, open_picture, orientation
from prosmin.models import light_imports


def decode_jpeg(content: bytes) -> Tensor:
    """Decode a JPEG, uint8 [channels, H, W], not turned upright. Raises ``RuntimeError``."""
    encoded = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    pixels: Tensor = light_imports.torchvision_io().decode_jpeg(encoded)
    return pixels


def decode_tensor(image: bytes | Path) -> Tensor:
    """Decode an image, uint8 [1 or 3, H, W], upright; see ``prosmin.data.picture.decode``.

    Raises ``prosmin.data.picture.Unreadable``.
    """
    with contextlib.suppress(Exception):  # Pillow decodes it after all, or gives the reason
        image = contents(image)
        with open_picture(image) as picture:
            plain = picture.format in ("JPEG", "MPO") and picture.mode == "RGB"
            if plain and orientation(picture) == 1:
                return decode_jpeg(image)
    return torch.from_numpy(decode(image)).permute(2, 0, 1)
