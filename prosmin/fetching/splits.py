"""Which images go where: held-out parts and class-balanced subsets, drawn from a seed."""

import math

import numpy as np
from numpy.typing import NDArray

from prosmin.common.errors import UserError
from prosmin.data.arrow import NO_LABEL

Rows = NDArray[np.int64]


def hold_out(
    labels: Rows,
    fraction: float,
    rng: np.random.Generator,
    name: str,
    classes: tuple[str, ...] | None,
) -> tuple[Rows, Rows]:
    """Split row numbers into (kept, held out), each ascending.

    ceil(fraction * N) images are held out, shared over the classes in proportion by largest remainders, but at
    least one and not all of any class; without labels they are drawn at random.

    labels: [N], -1 throughout when there are none; name: of the held-out split, for messages.
    """
    groups = _groups(labels)
    for rows in groups:
        if len(rows) < 2:
            what = f"class {classes[labels[rows[0]]]!r} has" if classes else "there is"
            raise UserError(
                f"{what} only 1 image left to share between train and {name}; add images or set {name}_fraction to 0"
            )
    sizes = np.array([len(rows) for rows in groups])
    share = sizes * fraction
    counts = np.floor(share).astype(int)
    missing = math.ceil(fraction * len(labels) - 1e-9) - counts.sum()
    counts[np.argsort(counts - share, kind="stable")[:missing]] += 1
    counts = np.clip(counts, 1, sizes - 1)
    held = np.concatenate([rng.permutation(rows)[:count] for rows, count in zip(groups, counts)])
    held.sort()
    return np.setdiff1d(np.arange(len(labels)), held), held


def balanced_subset(labels: Rows, count: int, rng: np.random.Generator) -> Rows:
    """Ascending row numbers of at most ``count`` images, as many of each class as of any other where there are enough.

    labels: [N], -1 throughout when there are none.
    """
    groups = _groups(labels)
    sizes = np.array([len(rows) for rows in groups])
    quota = np.zeros_like(sizes)
    left = min(count, len(labels))
    while left:  # fill all classes evenly; those that run out leave their share to the others
        open_classes = np.flatnonzero(quota < sizes)
        step = max(1, min(left // len(open_classes), (sizes - quota)[open_classes].min()))
        chosen = open_classes if left >= len(open_classes) else rng.permutation(open_classes)[:left]
        quota[chosen] += step
        left -= step * len(chosen)
    rows = np.concatenate([rng.permutation(rows)[:size] for rows, size in zip(groups, quota)])
    rows.sort()
    return rows


def _groups(labels: Rows) -> list[Rows]:
    """Row numbers of each class that is present, in order of the class."""
    order = np.argsort(labels, kind="stable")
    _, starts = np.unique(labels[order], return_index=True)
    return np.split(order, starts[1:])


def is_labelled(labels: Rows) -> bool:
    return bool(len(labels)) and labels[0] != NO_LABEL
