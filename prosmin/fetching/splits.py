"""Divide a source into splits: held-out parts and class-balanced subsets, drawn from a seed."""

import math
from collections import Counter
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from prosmin.common.errors import ConfigError, UserError
from prosmin.common.seeds import generator
from prosmin.data.arrow import NO_LABEL, SPLITS
from prosmin.fetching.sources import Images, Rows, Source


def divide(
    source: Source, seed: int, val_fraction: float, test_fraction: float, limit: Mapping[str, int]
) -> dict[str, Images]:
    """Divide a source into splits; splits that it lacks are held out of train.

    val_fraction, test_fraction: share of train to hold out. With a test_fraction of 1 the images of
        a source without splits are all test images.
    limit: most images of a split.

    Returns: images by split, in the order train, val, test.
    Raises ``UserError`` for a split without images and ``ConfigError`` for a limit that cannot be.
    """
    splits = dict(source.splits)
    for split, images in splits.items():
        if not len(images):
            raise UserError(f"split {split!r} has no images")
    if test_fraction == 1 and list(splits) == ["train"]:
        splits = {"test": splits["train"]}
    for split, fraction in (("test", test_fraction), ("val", val_fraction)):
        if split not in splits and "train" in splits and fraction > 0:
            train = splits["train"]
            kept, held = hold_out(
                train.labels, fraction, generator(seed, split), split, source.classes
            )
            splits["train"], splits[split] = train.take(kept), train.take(held)
    for split, count in limit.items():
        key = f"limit.{split}"
        if split not in splits:
            allowed = f"there is no such split; there are: {', '.join(splits)}"
            raise ConfigError(key, count, allowed)
        if source.classes and count < len(source.classes):
            allowed = f"must be at least the number of classes, {len(source.classes)}"
            raise ConfigError(key, count, allowed)
        rows = balanced_subset(splits[split].labels, count, generator(seed, key))
        splits[split] = splits[split].take(rows)
    return {split: splits[split] for split in SPLITS if split in splits}


def check_classes(classes: tuple[str, ...] | None, splits: Mapping[str, Images]) -> None:
    """Raise ``UserError`` for class names that repeat, and for classes that a split lacks."""
    if classes is None:
        return
    if twice := [name for name, count in Counter(classes).items() if count > 1]:
        raise UserError(f"{Counter(classes)[twice[0]]} classes are named {twice[0]!r}; rename them")
    if "train" not in splits:
        return
    present = {split: set(images.labels.tolist()) for split, images in splits.items()}
    for split, labels in present.items():
        if extra := sorted(labels - present["train"]):
            raise UserError(
                f"{split} has images of class {classes[extra[0]]!r}, but train has none"
            )
    if missing := sorted(present["train"] - present.get("test", present["train"])):
        raise UserError(f"train has images of class {classes[missing[0]]!r}, but test has none")
    if absent := sorted(set(range(len(classes))) - present["train"]):
        raise UserError(f"class {classes[absent[0]]!r} has no images in train")


def check_human_labels(
    shares: NDArray[np.float32], source: Source, splits: Mapping[str, Images], transform: str
) -> None:
    """Raise ``ConfigError`` where labels of people cannot be those of the test images."""
    key = "human_labels"
    if source.classes is None or transform != "none" or "test" not in splits:
        allowed = "it needs test images with labels and transform none"
        raise ConfigError(key, f"{len(shares)} rows", allowed)
    origin = "test" if "test" in source.splits else "train"
    images, (rows, classes) = len(source.splits[origin]), shares.shape
    if rows != images:
        allowed = f"the {origin} split of the source has {images} images; it needs a row for each"
        raise ConfigError(key, f"{rows} rows", allowed)
    if classes != len(source.classes):
        allowed = f"there are {len(source.classes)} classes; it needs a column for each"
        raise ConfigError(key, f"{classes} columns", allowed)


def hold_out(
    labels: Rows,
    fraction: float,
    rng: np.random.Generator,
    name: str,
    classes: tuple[str, ...] | None,
) -> tuple[Rows, Rows]:
    """Hold out ceil(fraction * N) images, at random.

    The classes share them in proportion, by largest remainders, but every class keeps at least one
    image on both sides.

    labels: [N], -1 throughout for images without labels.
    name: of the held-out split, for messages.

    Returns: row numbers of the kept and of the held-out images, ascending.
    Raises ``UserError`` for a class of one image.
    """
    groups = _rows_by_class(labels)
    for rows in groups:
        if len(rows) < 2:
            there = f"class {classes[labels[rows[0]]]!r} has" if classes else "there is"
            raise UserError(
                f"{there} only 1 image left to share between train and {name}; "
                f"add images or set {name}_fraction to 0"
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
    """Draw at most ``count`` images, equally many per class as far as the classes have them.

    labels: [N], -1 throughout for images without labels.

    Returns: row numbers, ascending.
    """
    groups = _rows_by_class(labels)
    sizes = np.array([len(rows) for rows in groups])
    quota = np.zeros_like(sizes)
    left = min(count, len(labels))
    while left:  # fill all classes evenly; exhausted classes leave their share to the others
        open_classes = np.flatnonzero(quota < sizes)
        step = max(1, min(left // len(open_classes), (sizes - quota)[open_classes].min()))
        chosen = open_classes if left >= len(open_classes) else rng.permutation(open_classes)[:left]
        quota[chosen] += step
        left -= step * len(chosen)
    rows = np.concatenate([rng.permutation(rows)[:size] for rows, size in zip(groups, quota)])
    rows.sort()
    return rows


def _rows_by_class(labels: Rows) -> list[Rows]:
    """Return the row numbers of every class that is present, in order of the classes."""
    order = np.argsort(labels, kind="stable")
    _, starts = np.unique(labels[order], return_index=True)
    return np.split(order, starts[1:])


def is_labelled(labels: Rows) -> bool:
    """Return whether images have labels; either all of a source have one or none has."""
    return bool(len(labels)) and bool(labels[0] != NO_LABEL)
