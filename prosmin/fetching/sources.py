"""Where images come from: the common form of all sources, and the datasets of scikit-learn.

The other sources are ``prosmin.fetching.folders``, ``parquet`` and ``hub``. A source gives the
labels of a split at once and its images on demand, so that memory limits neither their number nor
their size.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prosmin.common.errors import ConfigError
from prosmin.data.arrow import NO_LABEL, SPLITS
from prosmin.data.picture import AnyImage, Pixels

Rows = NDArray[np.int64]
"""Row numbers or labels, [N]."""


@dataclass(frozen=True)
class Images:
    """Some images of a source.

    labels: int64 [N], number of the class; -1 throughout for images without labels.
    read: maps ascending row numbers to pairs of an image and its file or row, for messages.
    taken: int64 [N], rows of these images in the split of the source. None: they are all of it.
    """

    labels: Rows
    read: Callable[[Rows], Iterator[tuple[AnyImage, str]]]
    taken: Rows | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def rows(self) -> Rows:
        """The row of each image in the split of the source, int64 [N]."""
        return np.arange(len(self)) if self.taken is None else self.taken

    def take(self, rows: Rows) -> "Images":
        """Return the images of these ascending rows."""
        return Images(self.labels[rows], lambda chosen: self.read(rows[chosen]), self.rows[rows])

    def __iter__(self) -> Iterator[tuple[AnyImage, int, str]]:
        for label, (image, source) in zip(self.labels.tolist(), self.read(np.arange(len(self)))):
            yield image, label, source


@dataclass(frozen=True)
class Source:
    """Images by split, with their classes.

    classes: names in the order of the labels; None without labels.
    splits: images by split, for the splits that the source has.
    not_read: its files that are no images.
    notes: sentences about possible mistakes.
    """

    classes: tuple[str, ...] | None
    splits: dict[str, Images]
    not_read: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def no_labels(count: int) -> Rows:
    """Return the labels of images without labels."""
    return np.full(count, NO_LABEL, dtype=np.int64)


# --- scikit-learn ---------------------------------------------------------------------------------


def builtin(name: str, patch: int, val_fraction: float, test_fraction: float) -> Source:
    """Return a dataset that comes with scikit-learn.

    name: ``digits``, 1797 handwritten digits of 8x8 grey pixels; or ``patches``, squares of two
        photographs, which come in splits of their own.
    patch: pixels a side of a patch.
    val_fraction, test_fraction: share of the patches in these splits.

    Raises ``ConfigError`` for patches that are too large for three splits.
    """
    if name == "digits":
        from sklearn.datasets import load_digits

        digits = load_digits()
        pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
        classes = tuple(str(digit) for digit in digits.target_names)
        images = _in_memory(pixels, digits.target.astype(np.int64), "digits")
        return Source(classes, {"train": images})
    return _patches(patch, val_fraction, test_fraction)


def _patches(side: int, val_fraction: float, test_fraction: float) -> Source:
    """Cut each photograph into patches; every split is a vertical strip of the photographs.

    Random patches of one sky would make the test too easy.
    """
    from sklearn.datasets import load_sample_images

    sample = load_sample_images()
    classes = tuple(Path(file).stem for file in sample.filenames)
    pixels, labels, columns = [], [], []
    for label, photograph in enumerate(sample.images):
        down, across = photograph.shape[0] // side, photograph.shape[1] // side
        squares = (
            photograph[: down * side, : across * side]
            .reshape(down, side, across, side, 3)
            .swapaxes(1, 2)
        )
        pixels.append(squares.reshape(-1, side, side, 3))
        labels.append(np.full(down * across, label))
        columns.append(np.tile(np.arange(across), down))
    across = columns[0].max() + 1
    test = math.ceil(across * test_fraction)
    val = math.ceil((across - test) * val_fraction)
    train = across - test - val
    if train < 1:
        raise ConfigError(
            "patch",
            side,
            f"the photographs are {across} patches wide, which val and test use up; "
            "make it smaller",
        )
    whole = _in_memory(np.concatenate(pixels), np.concatenate(labels), "patches")
    edges = np.cumsum([0, train, val, test])
    column = np.concatenate(columns)
    strips = {
        split: whole.take(np.flatnonzero((column >= low) & (column < high)))
        for split, low, high in zip(SPLITS, edges, edges[1:])
        if high > low
    }
    return Source(classes, strips)


def _in_memory(pixels: Pixels, labels: Rows, name: str) -> Images:
    return Images(labels, lambda rows: ((pixels[row], f"{name}:{row}") for row in rows.tolist()))
