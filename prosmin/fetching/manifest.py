"""The manifest of a dataset: counts, sizes, checksums, and images that it holds more than once."""

import hashlib
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prosmin.data.arrow import Layout, SplitReader
from prosmin.data.shards import Shard

EXAMPLES = 20  # images or files that a manifest names as examples


@dataclass(frozen=True)
class Written:
    """A split that has been written.

    path: of the split, such as ``train.arrow``.
    labels: int64 [N].
    digests: uint64 [N], checksums of the stored bytes.
    height, width: lowest and highest, in pixels.
    shards: its files.
    """

    path: Path
    labels: NDArray[np.int64]
    digests: NDArray[np.uint64]
    height: tuple[int, int]
    width: tuple[int, int]
    shards: list[Shard]


def describe(
    layout: Layout, classes: tuple[str, ...] | None, written: Mapping[str, Written]
) -> dict[str, Any]:
    """Return the manifest of these splits; image sizes are [lowest, highest] in pixels."""
    splits = written.values()
    return {
        "classes": list(classes) if classes else None,
        "channels": layout.channels,
        "encoding": layout.encoding,
        "image_sizes": {
            "height": _range(split.height for split in splits),
            "width": _range(split.width for split in splits),
        },
        "splits": {name: _summary(split, classes) for name, split in written.items()},
        "duplicates": find_duplicates(written),
    }


def _range(sizes: Iterable[tuple[int, int]]) -> list[int]:
    lowest, highest = zip(*sizes)
    return [min(lowest), max(highest)]


def _summary(split: Written, classes: tuple[str, ...] | None) -> dict[str, Any]:
    per_class = None
    if classes:
        counts = np.bincount(split.labels, minlength=len(classes)).tolist()
        per_class = dict(zip(classes, counts))
    files = [
        {"file": shard.path.name, "count": len(shard.labels), "sha256": shard.sha256}
        for shard in split.shards
    ]
    digest = files[0]["sha256"]
    if len(files) > 1:
        together = "".join(str(file["sha256"]) for file in files)
        digest = hashlib.sha256(together.encode()).hexdigest()
    return {
        "count": len(split.labels),
        "per_class": per_class,
        "sha256": digest,
        "bytes": sum(shard.bytes for shard in split.shards),
        **({"shards": files} if len(files) > 1 else {}),
    }


def find_duplicates(written: Mapping[str, Written]) -> dict[str, Any]:
    """Find images that are stored more than once, by their checksums.

    Returns: a dictionary.
        within: by split the number of its images that repeat an earlier image of the split.
        across: by pair of splits the number of different images in both.
        conflicting_labels: number of different images with more than one label.
        examples: the places of up to 20 repeated images, images in several splits first.
    """
    names = list(written)
    splits = np.repeat(np.arange(len(names)), [len(split.labels) for split in written.values()])
    rows = np.concatenate([np.arange(len(split.labels)) for split in written.values()])
    labels = np.concatenate([split.labels for split in written.values()])
    groups = _repeated(np.concatenate([split.digests for split in written.values()]))
    counts = [np.bincount(splits[group], minlength=len(names)) for group in groups]
    order = sorted(range(len(groups)), key=lambda at: ((counts[at] > 0).sum() < 2, groups[at][0]))
    readers = [SplitReader(split.path) for split in written.values()]

    def place(image: int) -> str:
        return f"{names[splits[image]]}: {readers[splits[image]].source(int(rows[image]))}"

    return {
        "within": {
            name: sum(max(int(count[at]) - 1, 0) for count in counts)
            for at, name in enumerate(names)
        },
        "across": {
            f"{names[first]}-{names[second]}": sum(
                bool(count[first] and count[second]) for count in counts
            )
            for first, second in itertools.combinations(range(len(names)), 2)
        },
        "conflicting_labels": sum(len(set(labels[group].tolist())) > 1 for group in groups),
        "examples": [
            [place(image) for image in groups[at][:EXAMPLES].tolist()] for at in order[:EXAMPLES]
        ],
    }


def _repeated(digests: NDArray[np.uint64]) -> list[NDArray[np.int64]]:
    """Return the positions of every value that occurs more than once, ascending."""
    order = np.argsort(digests, kind="stable")
    same = np.diff(digests[order]) == 0
    order = order[np.append(same, False) | np.append(False, same)]
    return [run for run in np.split(order, np.flatnonzero(np.diff(digests[order])) + 1) if len(run)]
