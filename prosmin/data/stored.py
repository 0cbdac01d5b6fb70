"""Images that stay on the disk until their pixels are needed."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prosmin.common.seeds import sample_rows
from prosmin.data.dataset import Split, load_split, open_split, read_manifest
from prosmin.data.frame import Frame

_PART = 2048  # images read at a time


class Stored:
    """The images of some splits of a dataset, one split after the other.

    Row numbers count over all of these splits.

    folder: of the dataset. splits: at least one of its splits.
    image_size, channels: of the images, as for ``prosmin.data.dataset.load_split``.

    spans: row numbers of each split. classes: names in the order of the labels, or None.
    """

    def __init__(
        self, folder: str | Path, splits: Sequence[str], image_size: int | Frame, channels: int
    ):
        self.folder, self.image_size, self.channels = Path(folder), image_size, channels
        manifest = read_manifest(folder)
        self.classes = tuple(manifest["classes"]) if manifest["classes"] else None
        self.spans: dict[str, range] = {}
        for split in splits:
            start = len(self)
            self.spans[split] = range(start, start + manifest["splits"][split]["count"])

    def __len__(self) -> int:
        return sum(map(len, self.spans.values()))

    def labels(self) -> NDArray[np.int64]:
        """Read the labels of all images, int64 [N], -1 for none."""
        return np.concatenate([open_split(self.folder, split).labels() for split in self.spans])

    def load(self) -> Tensor:
        """Read all images, uint8 [N, C, S, S]."""
        return self.images(np.arange(len(self)))

    def images(self, rows: NDArray[np.int64]) -> Tensor:
        """Read the images of ``rows`` [n], at least one, in the order of ``rows``.

        Returns: uint8 [n, C, S, S], which memory holds once.
        """
        order = np.argsort(rows, kind="stable")
        images: Tensor | None = None
        first = 0
        for part in self._parts(np.asarray(rows)[order]):
            if images is None:
                # The layout in memory decides the last digits of a convolution.
                shape = len(rows), *part.shape[1:]
                images = part.new_empty_strided(shape, part.stride())
            images[torch.from_numpy(order[first : first + len(part)])] = part
            first += len(part)
        assert images is not None
        return images

    def _parts(self, rows: NDArray[np.int64]) -> Iterator[Tensor]:
        """Yield the images of ascending ``rows`` in parts, each of one split."""
        for split, span in self.spans.items():
            inside = rows[(rows >= span.start) & (rows < span.stop)] - span.start
            for start in range(0, len(inside), _PART):
                part = inside[start : start + _PART]
                yield load_split(self.folder, split, self.image_size, self.channels, part).images

    def batches(self, rows: NDArray[np.int64], size: int) -> Iterator[Tensor]:
        """Yield the images of ``rows`` in batches of ``size``, uint8 [B, C, S, S]."""
        for start in range(0, len(rows), size):
            yield self.images(rows[start : start + size])


def load_splits(
    folder: str | Path,
    names: Sequence[str],
    image_size: int | Frame,
    channels: int,
    limit: int | None,
    seed: int,
) -> tuple[dict[str, Split], Tensor]:
    """Load splits end to end into one tensor, so that memory holds their images once.

    image_size, channels: as for ``prosmin.data.dataset.load_split``.
    limit: number of images to draw at random of a longer split; None: all.

    Returns: the splits by name, parts of the tensor; and the tensor, uint8 [N, C, S, S].
    """
    stored = Stored(folder, names, image_size, channels)
    rows = []
    for name, span in stored.spans.items():
        chosen = np.arange(len(span))
        if limit is not None:
            chosen = sample_rows(len(span), limit, seed, f"streamed {name}")
        rows.append(chosen + span.start)
    images = stored.images(np.concatenate(rows))
    labels = torch.from_numpy(stored.labels()[np.concatenate(rows)])
    counts = [len(part) for part in rows]
    parts = zip(torch.split(images, counts), torch.split(labels, counts), strict=True)
    splits = {name: Split(*part, stored.classes) for name, part in zip(names, parts, strict=True)}
    return splits, images
