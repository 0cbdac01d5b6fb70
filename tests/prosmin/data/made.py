"""Photographs, files of them, and datasets of these."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from prosmin.common.files import write_json
from prosmin.fetching.sources import Images, Source
from prosmin.fetching.writing import write_dataset


def photograph(height: int, width: int, channels: int = 3) -> np.ndarray:
    """A part of a real photograph, uint8 [height, width, channels]."""
    from sklearn.datasets import load_sample_image

    pixels = load_sample_image("china.jpg")[100 : 100 + height, 200 : 200 + width]
    if channels == 1:
        return np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
    return pixels


def encoded(pixels: np.ndarray, kind: str, mode: str | None = None, **options) -> bytes:
    picture = Image.fromarray(pixels.squeeze(-1) if pixels.shape[2] == 1 else pixels)
    stream = io.BytesIO()
    (picture.convert(mode) if mode else picture).save(stream, kind, **options)
    return stream.getvalue()


def fetched(folder: Path, images: list, labels: list[int] | None = None, **settings) -> dict:
    """Write ``images`` as split train of a dataset; without labels they are unlabelled."""
    classes = tuple(f"class {label}" for label in range(max(labels) + 1)) if labels else None
    rows = np.array(labels if labels else [-1] * len(images), dtype=np.int64)
    source = Source(
        classes,
        {"train": Images(rows, lambda rows: ((images[row], f"image {row}") for row in rows))},
    )
    folder.mkdir(exist_ok=True)
    manifest = write_dataset(folder, source, seed=0, val_fraction=0, test_fraction=0, **settings)
    write_json(folder / "manifest.json", manifest)
    return manifest
