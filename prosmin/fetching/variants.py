"""Out-of-distribution variants of a dataset: its pixel statistics without its content.

A variant has the splits of its origin. It has no labels, because no image belongs to a class.
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from PIL import Image

from prosmin.common.errors import UserError
from prosmin.common.seeds import generator
from prosmin.data.arrow import Layout, SplitReader
from prosmin.data.picture import Pixels, decode
from prosmin.fetching.sources import Rows
from prosmin.fetching.splits import is_labelled


def transformed_layout(layout: Layout, transform: str) -> Layout:
    """Return the layout of a variant."""
    if transform == "rotate90":
        return Layout(layout.encoding, layout.channels, layout.width, layout.height)
    return layout


def transformed(reader: SplitReader, transform: str, seed: int, split: str) -> Iterator[Pixels]:
    """Yield the variant of every image of a split.

    transform: name of the variant.
        ``invert``: 255 - x.
        ``rotate90``: a quarter turn anticlockwise.
        ``permute``: one permutation of the pixel positions for all images of a size.
        ``noise``: uniform noise of the image's size.
        ``halves``: the left half of the image beside the right half of an image of another class,
            or of any other image without labels.

    Raises ``UserError`` for ``halves`` of a split with one class.
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
            order = _permutation(seed, height * width)
            yield pixels.reshape(-1, channels)[order].reshape(pixels.shape)
        elif transform == "noise":
            yield noise.integers(0, 256, pixels.shape, dtype=np.uint8)
        else:
            raise ValueError(f"unknown transform {transform!r}")


def read_pixels(reader: SplitReader, row: int) -> Pixels:
    """Return the pixels of one stored image."""
    layout = reader.layout
    if layout.encoding == "encoded":
        return decode(reader.image(row).to_pybytes(), layout.channels)
    return np.frombuffer(reader.image(row), np.uint8).reshape(layout.shape)


@lru_cache(maxsize=64)
def _permutation(seed: int, count: int) -> Rows:
    return generator(seed, "permute").permutation(count)


def _halves(reader: SplitReader, seed: int, split: str) -> Iterator[Pixels]:
    labels = reader.labels()
    rng = generator(seed, f"halves.{split}")
    # Images are sorted by class and joined to a ring. The images of all other classes then follow
    # each class in one run.
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
            resized = picture.resize((width, height), Image.Resampling.BILINEAR)
            right = np.asarray(resized).reshape(left.shape)
        yield np.concatenate([left[:, : width // 2], right[:, width // 2 :]], axis=1)
