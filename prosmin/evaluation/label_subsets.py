"""Which labelled samples a leaf of the evaluation works on: the classes, a held-out part, a few of each class."""

from collections.abc import Mapping

import numpy as np

from prosmin.common.errors import UserError
from prosmin.common.seeds import generator

Labelled = tuple[np.ndarray, np.ndarray]  # features [N, F], labels [N]


def count_classes(labels: Mapping[str, np.ndarray]) -> int:
    """Number of classes C: the first of the named splits, the one fitted to, holds each of 0..C-1, the others no more.

    labels: ``[N]`` integers by split name.
    Raises ``UserError`` for an empty split, a negative label (none), fewer than two classes, or a class without
    an image to learn it from.
    """
    for name, values in labels.items():
        if not len(values):
            raise UserError(f"the {name} split is empty; evaluation needs images in it")
        missing = int((values < 0).sum())
        if missing:
            raise UserError(
                f"{missing} of {len(values)} images of the {name} split have no label; each needs one"
            )
    fitted = next(iter(labels))
    classes = int(labels[fitted].max()) + 1
    for name, values in labels.items():
        # Not all of range(classes): a damaged label would make that as long as memory.
        every = np.arange(min(classes, len(values) + 1)) if name == fitted else values
        unseen = np.setdiff1d(every, labels[fitted])
        if len(unseen):
            where = "while higher classes have" if name == fitted else f"while the {name} split has"
            raise UserError(
                f"class {unseen[0]} has no image in the {fitted} split, {where}; it cannot be learned"
            )
    if classes < 2:
        raise UserError(
            f"all images of the {fitted} split are of one class; evaluation needs at least two"
        )
    return classes


def stratified_holdout(
    labels: np.ndarray, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """(kept, held): sorted indices that hold out ``fraction`` of each class, rounded, and keep at least one of it."""
    rng = generator(seed, "held out", len(labels))
    held = []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        held.append(members[: min(round(fraction * len(members)), len(members) - 1)])
    held = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(labels)), held), held


def few_labels(labels: np.ndarray, per_class: int, seed: int, draw: int) -> np.ndarray:
    """Sorted indices of ``per_class`` samples of each class, drawn without replacement.

    Draws differ by ``draw`` and depend on nothing else but the labels, ``per_class`` and the seed.
    Raises ``UserError`` naming a class that has fewer.
    """
    rng = generator(seed, "few labels", per_class, draw)
    chosen = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) < per_class:
            raise UserError(
                f"class {label} has {len(members)} labelled images, fewer than the {per_class} asked for"
            )
        chosen.append(rng.choice(members, per_class, replace=False))
    return np.sort(np.concatenate(chosen))
