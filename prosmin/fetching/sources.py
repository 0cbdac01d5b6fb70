"""Where images come from. Folders stand in ``prosmin.fetching.folders``, tables in ``prosmin.fetching.tables``.

A source gives the labels of a split at once and its images on demand, so that neither the number of images nor
their size is bounded by memory.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prosmin.common.errors import ConfigError
from prosmin.data.arrow import NO_LABEL, SPLITS
from prosmin.data.picture import AnyImage
from prosmin.fetching.splits import Rows


@dataclass(frozen=True)
class Images:
    """Part of a source, or all of it.

    labels: int64 [N], index of the class, -1 throughout when there are none.
    read: ascending row numbers -> (image, its file or row for messages) of each, in that order.
    """

    labels: Rows
    read: Callable[[Rows], Iterator[tuple[AnyImage, str]]]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Rows) -> "Images":
        """The images of these ascending rows."""
        return Images(self.labels[rows], lambda chosen: self.read(rows[chosen]))

    def __iter__(self) -> Iterator[tuple[AnyImage, int, str]]:
        for label, (image, source) in zip(self.labels.tolist(), self.read(np.arange(len(self)))):
            yield image, label, source


@dataclass(frozen=True)
class Source:
    """classes: names in the order of the labels, None without labels; splits: those that it has;
    not_read: its files that are no images; notes: sentences on what looks like a slip."""

    classes: tuple[str, ...] | None
    splits: dict[str, Images]
    not_read: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def no_labels(count: int) -> Rows:
    return np.full(count, NO_LABEL, dtype=np.int64)


# --- scikit-learn ---------------------------------------------------------------------------------


def builtin(name: str, patch: int, val_fraction: float, test_fraction: float) -> Source:
    """``digits``: 1797 handwritten digits of 8x8 grey pixels. ``patches``: squares of two photographs.

    patch: pixels a side of a patch. The fractions are used by ``patches`` only, which brings its own splits.
    """
    if name == "digits":
        from sklearn.datasets import load_digits

        digits = load_digits()
        pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
        classes = tuple(str(digit) for digit in digits.target_names)
        return Source(
            classes, {"train": _in_memory(pixels, digits.target.astype(np.int64), "digits")}
        )
    return _patches(patch, val_fraction, test_fraction)


def _patches(side: int, val_fraction: float, test_fraction: float) -> Source:
    """Every split is a vertical strip of each photograph: random patches of one sky would make the test too easy."""
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
            f"the photographs are {across} patches wide, which val and test use up; make it smaller",
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


def _in_memory(pixels: np.ndarray, labels: Rows, name: str) -> Images:
    return Images(labels, lambda rows: ((pixels[row], f"{name}:{row}") for row in rows.tolist()))
