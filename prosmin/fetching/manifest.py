"""What a dataset holds, in numbers: counts, sizes, checksums, and images that are in it more than once."""

import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prosmin.data.arrow import Layout, SplitReader

LISTED = 20  # repeated images that are spelt out


@dataclass(frozen=True)
class Written:
    """A split once it is written.

    labels: int64 [N]; digests: uint64 [N], checksums of the stored bytes; height, width: (least, most) pixels.
    """

    path: Path
    labels: NDArray[np.int64]
    digests: NDArray[np.uint64]
    height: tuple[int, int]
    width: tuple[int, int]


def describe(
    layout: Layout, classes: tuple[str, ...] | None, written: Mapping[str, Written]
) -> dict[str, Any]:
    """The manifest of these splits; image sizes are [least, most] pixels over all of them."""
    facts = written.values()
    return {
        "classes": list(classes) if classes else None,
        "channels": layout.channels,
        "encoding": layout.encoding,
        "image_sizes": {
            "height": [
                min(each.height[0] for each in facts),
                max(each.height[1] for each in facts),
            ],
            "width": [min(each.width[0] for each in facts), max(each.width[1] for each in facts)],
        },
        "splits": {split: _summary(each, classes) for split, each in written.items()},
        "duplicates": find_duplicates(written),
    }


def _summary(facts: Written, classes: tuple[str, ...] | None) -> dict[str, Any]:
    with open(facts.path, "rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    counts = np.bincount(facts.labels, minlength=len(classes)).tolist() if classes else None
    return {
        "count": len(facts.labels),
        "per_class": dict(zip(classes, counts)) if classes else None,
        "sha256": digest,
        "bytes": facts.path.stat().st_size,
    }


def find_duplicates(written: Mapping[str, Written]) -> dict[str, Any]:
    """Images that are stored more than once, by their checksums.

    within: for each split, how many of its images repeat an earlier one of that split; across: for each pair of
    splits, how many different images are in both; conflicting_labels: how many different images carry more than one
    label; examples: the places of up to 20 repeated images, those in several splits first.
    """
    names = list(written)
    splits = np.repeat(np.arange(len(names)), [len(facts.labels) for facts in written.values()])
    rows = np.concatenate([np.arange(len(facts.labels)) for facts in written.values()])
    labels = np.concatenate([facts.labels for facts in written.values()])
    groups = _repeated(np.concatenate([facts.digests for facts in written.values()]))
    counts = [np.bincount(splits[group], minlength=len(names)) for group in groups]
    order = sorted(range(len(groups)), key=lambda at: ((counts[at] > 0).sum() < 2, groups[at][0]))
    readers = [SplitReader(facts.path) for facts in written.values()]

    def place(image: int) -> str:
        return f"{names[splits[image]]}: {readers[splits[image]].source(int(rows[image]))}"

    return {
        "within": {
            name: sum(max(int(count[at]) - 1, 0) for count in counts)
            for at, name in enumerate(names)
        },
        "across": {
            f"{names[one]}-{names[other]}": sum(
                bool(count[one] and count[other]) for count in counts
            )
            for one, other in itertools.combinations(range(len(names)), 2)
        },
        "conflicting_labels": sum(len(set(labels[group].tolist())) > 1 for group in groups),
        "examples": [
            [place(image) for image in groups[at][:LISTED].tolist()] for at in order[:LISTED]
        ],
    }


def _repeated(digests: NDArray[np.uint64]) -> list[NDArray[np.int64]]:
    """Positions of each value that stands more than once, ascending."""
    order = np.argsort(digests, kind="stable")
    same = np.diff(digests[order]) == 0
    order = order[np.append(same, False) | np.append(False, same)]
    return [run for run in np.split(order, np.flatnonzero(np.diff(digests[order])) + 1) if len(run)]
