"""Out-of-distribution variants of a dataset: the pixel statistics of its images, without their content.

A variant has the splits of its origin and no labels, for none of its images belongs to a class.
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from PIL import Image

from prosmin.common.errors import UserError
from prosmin.common.seeds import generator
from prosmin.data.arrow import NO_LABEL, Layout, SplitReader
from prosmin.data.picture import decode
from prosmin.fetching.splits import is_labelled


def transformed_layout(layout: Layout, transform: str) -> Layout:
    if transform == "rotate90":
        return Layout(layout.encoding, layout.channels, layout.width, layout.height)
    return layout


def transformed(reader: SplitReader, transform: str, seed: int, split: str) -> Iterator[np.ndarray]:
    """Yield the variant of each image of a split, uint8 [height, width, channels].

    transform: ``invert`` 255 - x; ``rotate90`` a quarter turn anticlockwise; ``permute`` one permutation of the pixel
    positions for all images of a size; ``noise`` uniform noise of the image's size; ``halves`` its left half beside
    the right half of an image of another class (of any other image when there are no labels).
    """
    if transform == "halves":
        yield from _halves(reader, seed, split)
        return
    noise = generator(seed, f"noise.{split}")
    for row in range(len(reader)):
        pixels = read_pixels(reader, row)
        if transform == "invert":
            yield 255 - pixels
        elif transform == "rotate90":
            yield np.rot90(pixels)
        elif transform == "permute":
            height, width, channels = pixels.shape
            yield pixels.reshape(-1, channels)[_permutation(seed, height * width)].reshape(
                pixels.shape
            )
        elif transform == "noise":
            yield noise.integers(0, 256, pixels.shape, dtype=np.uint8)
        else:
            raise ValueError(f"unknown transform {transform!r}")


def read_pixels(reader: SplitReader, row: int) -> np.ndarray:
    """uint8 [height, width, channels] of one stored image."""
    layout = reader.layout
    if layout.encoding == "encoded":
        return decode(reader.image(row).to_pybytes(), layout.channels)
    return np.frombuffer(reader.image(row), np.uint8).reshape(
        layout.height, layout.width, layout.channels
    )


@lru_cache(maxsize=64)
def _permutation(seed: int, count: int) -> np.ndarray:
    return generator(seed, "permute").permutation(count)


def _halves(reader: SplitReader, seed: int, split: str) -> Iterator[np.ndarray]:
    labels = reader.table["label"].fill_null(NO_LABEL).to_numpy()
    rng = generator(seed, f"halves.{split}")
    # Sorted by class, the images of other classes are one run of the ring that starts behind this class.
    order = np.argsort(labels, kind="stable")
    if not is_labelled(labels):
        labels = np.arange(len(labels))
    ranked = labels[order]
    first, last = np.searchsorted(ranked, labels, "left"), np.searchsorted(ranked, labels, "right")
    others = len(labels) - (last - first)
    if not others.all():
        raise UserError(
            f"transform halves joins images of different classes, but split {split!r} has only one"
        )
    partners = order[(last + rng.integers(0, others)) % len(labels)]
    for row, partner in enumerate(partners.tolist()):
        left, right = read_pixels(reader, row), read_pixels(reader, partner)
        height, width, channels = left.shape
        if right.shape != left.shape:
            picture = Image.fromarray(right[..., 0] if channels == 1 else right)
            right = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR)).reshape(
                left.shape
            )
        yield np.concatenate([left[:, : width // 2], right[:, width // 2 :]], axis=1)
