"""All images of a dataset as one list: their splits, files, labels and pictures by row.

Letters in shapes: N images, S splits, n rows, P pairs.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from prosmin.common.seeds import sample_rows
from prosmin.data import dataset
from prosmin.data.arrow import SplitReader
from prosmin.fetching.listing import escape_unprintable
from stages.common.features import Features
from stages.common.pictures import open_stored, read

COLUMNS = ("split", "row", "file", "label")


@dataclass(frozen=True)
class Images:
    """All images of a dataset, one split after the other.

    count: of the images of each split.
    labels: int64 [N], -1 for none.
    digests: checksums of the pixels that the network sees, uint64 [N].
    classes: names in the order of the labels; empty without labels.
    """

    name: str
    count: dict[str, int]
    labels: np.ndarray
    digests: np.ndarray
    classes: tuple[str, ...]

    @classmethod
    def of(cls, features: Features) -> "Images":
        """The images whose features these are."""
        labels = [features.split(split)[1] for split in features.splits]
        return cls(
            features.dataset,
            {split: len(of) for split, of in zip(features.splits, labels, strict=True)},
            np.concatenate(labels),
            np.concatenate([features.digests(split) for split in features.splits]),
            tuple(dataset.read_manifest(f"data/{features.dataset}")["classes"] or ()),
        )

    @cached_property
    def readers(self) -> dict[str, SplitReader]:
        """The file of each split."""
        return {split: open_stored(self.name, split) for split in self.count}

    @cached_property
    def starts(self) -> np.ndarray:
        """The first row of each split, [S]."""
        return np.cumsum([0, *self.count.values()])[:-1]

    def places(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The number of the split of each row, and the row in its split."""
        split = np.searchsorted(self.starts, rows, "right") - 1
        return split, rows - self.starts[split]

    def by_split(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """The values of each split, of values [N]."""
        return dict(zip(self.count, np.split(values, self.starts[1:]), strict=True))

    def named(self, rows: np.ndarray) -> list[str]:
        """Each row as split and row in the split, such as ``train/17``."""
        names, places = tuple(self.count), zip(*self.places(rows), strict=True)
        return [f"{names[split]}/{place}" for split, place in places]

    def describe(self, rows: np.ndarray) -> list[tuple[str, int, str, str]]:
        """``COLUMNS`` of each row."""
        names = tuple(self.count)
        return [
            (
                names[split],
                int(place),
                escape_unprintable(self.readers[names[split]].source(int(place))),
                self.classes[label] if label >= 0 else "",
            )
            for split, place, label in zip(*self.places(rows), self.labels[rows], strict=True)
        ]

    def read(self, rows: np.ndarray) -> list[np.ndarray]:
        """The images of these rows as they were fetched, uint8 [H, W, C] each."""
        names, places = tuple(self.count), zip(*self.places(rows), strict=True)
        return [
            image for split, place in places for image in read(self.readers[names[split]], [place])
        ]

    def sample(self, limit: int | None, seed: int, purpose: str) -> np.ndarray:
        """Rows of at most ``limit`` images of each split, drawn at random; all without a limit."""
        drawn = []
        for start, (split, count) in zip(self.starts, self.count.items(), strict=True):
            rows = np.arange(count)
            if limit is not None:
                rows = sample_rows(count, limit, seed, f"{purpose}, {split}")
            drawn.append(rows + start)
        return np.concatenate(drawn)

    def by_splits(self, first: np.ndarray, second: np.ndarray) -> dict[str, int]:
        """The number of pairs of rows for each two splits that have any.

        first: rows, [P], each below that in ``second``, [P].
        """
        names, size = tuple(self.count), len(self.count)
        cells = self.places(first)[0] * size + self.places(second)[0]
        numbers, counts = np.unique(cells, return_counts=True)
        return {
            f"{names[cell // size]}, {names[cell % size]}": int(count)
            for cell, count in zip(numbers, counts, strict=True)
        }
