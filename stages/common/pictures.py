"""Images as they were fetched, for people to look at."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from prosmin.common.errors import UserError
from prosmin.data import picture
from prosmin.data.arrow import SplitReader

LARGEST = 224  # pixels a side of a picture


def open_stored(dataset: str, split: str) -> SplitReader:
    """Open a split of a dataset.

    Raises ``UserError`` where it does not exist or is damaged.
    """
    folder = Path("data") / dataset
    if not any(folder.glob(f"{split}*.arrow")):
        raise UserError(
            f"{folder / split}.arrow does not exist; "
            f"run `dvc repro` or `python -m stages.fetch {dataset}`"
        )
    return SplitReader(folder / f"{split}.arrow")


def read(reader: SplitReader, rows: Sequence[int] | np.ndarray) -> list[np.ndarray]:
    """Decode the images of these rows alone, as they were fetched: uint8 [H, W, C] each."""
    layout, stored = reader.layout, [reader.image(int(row)).to_pybytes() for row in rows]
    if layout.encoding == "raw":
        return [
            np.frombuffer(pixels, np.uint8).reshape(layout.height, layout.width, layout.channels)
            for pixels in stored
        ]
    return [picture.decode(content, layout.channels) for content in stored]


def one_size(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """uint8 [n, C, H, W]: unchanged, or resized central squares where sizes differ or are large.

    pictures: at least one, uint8 [H, W, C] each, of one number of channels.
    """
    side = min(LARGEST, *(min(pixels.shape[:2]) for pixels in pictures))
    if len({pixels.shape for pixels in pictures}) > 1 or max(pictures[0].shape[:2]) > LARGEST:
        pictures = [_square(pixels, side) for pixels in pictures]
    return np.stack(pictures).transpose(0, 3, 1, 2)


def _square(pixels: np.ndarray, side: int) -> np.ndarray:
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    return np.asarray(ImageOps.fit(image, (side, side), Image.Resampling.BILINEAR)).reshape(
        side, side, -1
    )
