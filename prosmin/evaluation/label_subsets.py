"""Subsets of labelled images: the classes, a held-out part, a few images per class."""

from collections.abc import Mapping

import numpy as np

from prosmin.common.errors import UserError
from prosmin.common.seeds import generator

Labelled = tuple[np.ndarray, np.ndarray]  # features [N, F], labels [N]


def count_classes(labels: Mapping[str, np.ndarray]) -> int:
    """Count the classes C, and check that the splits agree on them.

    The first split, which is fitted to, holds every class of 0..C-1; the others hold no more.

    labels: ``[N]`` integers by split name.
    Raises ``UserError`` for an empty split, a negative label (none), fewer than two classes, or a
    class without an image to learn it from.
    """
    for name, values in labels.items():
        if not len(values):
            raise UserError(f"the {name} split is empty; evaluation needs images in it")
        missing = int((values < 0).sum())
        if missing:
            raise UserError(
                f"{missing} of {len(values)} images of the {name} split have no label; "
                "each needs one"
            )
    fitted = next(iter(labels))
    classes = int(labels[fitted].max()) + 1
    for name, values in labels.items():
        # Not all of range(classes), which a damaged label would make longer than the memory.
        every = np.arange(min(classes, len(values) + 1)) if name == fitted else values
        unseen = np.setdiff1d(every, labels[fitted])
        if len(unseen):
            where = "while higher classes have" if name == fitted else f"while the {name} split has"
            raise UserError(
                f"class {unseen[0]} has no image in the {fitted} split, {where}; "
                "it cannot be learned"
            )
    if classes < 2:
        raise UserError(
            f"all images of the {fitted} split are of one class; evaluation needs at least two"
        )
    return classes


def stratified_holdout(
    labels: np.ndarray, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Hold out ``fraction`` of each class, rounded, and keep at least one image of it.

    Returns sorted indices (kept, held) of labels ``[N]``.
    """
    rng = generator(seed, "held out", len(labels))
    parts = []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        parts.append(members[: min(round(fraction * len(members)), len(members) - 1)])
    held = np.sort(np.concatenate(parts))
    return np.setdiff1d(np.arange(len(labels)), held), held


def few_labels(labels: np.ndarray, per_class: int, seed: int, draw: int) -> np.ndarray:
    """Draw ``per_class`` images of each class without replacement.

    Returns their sorted indices. They depend on the labels ``[N]``, ``per_class``, the seed and the
    number ``draw`` alone.
    Raises ``UserError``, which names the class, where a class has fewer images.
    """
    rng = generator(seed, "few labels", per_class, draw)
    chosen = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) < per_class:
            raise UserError(
                f"class {label} has {len(members)} labelled images, "
                f"fewer than the {per_class} asked for"
            )
        chosen.append(rng.choice(members, per_class, replace=False))
    return np.sort(np.concatenate(chosen))
