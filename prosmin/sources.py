"""Where images come from: scikit-learn's own, and folders. Tables stand in ``prosmin.tables``.

A source gives the labels of a split at once and its images on demand, so that neither the number of images nor
their size is bounded by memory.
"""

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prosmin.arrow import NO_LABEL, SPLITS
from prosmin.errors import ConfigError, UserError, nearest
from prosmin.images import AnyImage
from prosmin.splits import Rows

IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


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
    """classes: names in the order of the labels, None when there are no labels; splits: those that the source has."""

    classes: tuple[str, ...] | None
    splits: dict[str, Images]


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
        return Source(classes, {"train": _in_memory(pixels, digits.target.astype(np.int64), "digits")})
    return _patches(patch, val_fraction, test_fraction)


def _patches(side: int, val_fraction: float, test_fraction: float) -> Source:
    """Every split is a vertical strip of each photograph: random patches of one sky would make the test too easy."""
    from sklearn.datasets import load_sample_images

    sample = load_sample_images()
    classes = tuple(Path(file).stem for file in sample.filenames)
    pixels, labels, columns = [], [], []
    for label, photograph in enumerate(sample.images):
        down, across = photograph.shape[0] // side, photograph.shape[1] // side
        squares = photograph[: down * side, : across * side].reshape(down, side, across, side, 3).swapaxes(1, 2)
        pixels.append(squares.reshape(-1, side, side, 3))
        labels.append(np.full(down * across, label))
        columns.append(np.tile(np.arange(across), down))
    across = columns[0].max() + 1
    test = math.ceil(across * test_fraction)
    val = math.ceil((across - test) * val_fraction)
    train = across - test - val
    if train < 1:
        raise ConfigError(
            "patch", side, f"the photographs are {across} patches wide, which val and test use up; make it smaller"
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


# --- folders --------------------------------------------------------------------------------------


def folder(path: str) -> Source:
    """Image files by class: ``path/<class>/``, or ``path/<split>/<class>/`` for the splits train, val and test.

    Without class folders the images are unlabelled. Hidden files and files of other kinds are passed over; below a
    class, folders may nest.
    """
    root = Path(path)
    if not root.is_dir():
        raise ConfigError("path", path, "there is no such folder")
    folders = _visible_folders(root)
    parts = {split: root / split for split in SPLITS if split in folders} or {"train": root}
    if root not in parts.values():
        for stray in sorted(set(folders) - set(parts)):
            raise UserError(
                f"{root / stray} stands beside the split {next(iter(parts))!r} but is no split; "
                f"allowed: {', '.join(SPLITS)}{nearest(stray, SPLITS)}"
            )
    files = {split: _class_files(part, root) for split, part in parts.items()}
    labelled = {split: None not in found for split, found in files.items()}
    if len(set(labelled.values())) > 1:
        yes = next(split for split in files if labelled[split])
        no = next(split for split in files if not labelled[split])
        raise UserError(f"{parts[yes]} has class folders, but {parts[no]} has none; give all splits labels, or none")
    if not all(labelled.values()):
        return Source(
            None,
            {split: _image_files(root, found[None], no_labels(len(found[None]))) for split, found in files.items()},
        )
    classes = tuple(sorted({name for found in files.values() for name in found}))
    for split, found in files.items():
        for name in classes:
            if name not in found:
                other = next(split for split in files if name in files[split])
                raise UserError(
                    f"class folder {name!r} stands in {parts[other]} but not in {parts[split]}{nearest(name, found)}"
                )
    splits = {}
    for split, found in files.items():
        labels = np.repeat(np.arange(len(classes)), [len(found[name]) for name in classes])
        splits[split] = _image_files(root, [file for name in classes for file in found[name]], labels)
    return Source(classes, splits)


def _visible_folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def _class_files(part: Path, root: Path) -> dict[str | None, list[str]]:
    """Image files by class, relative to ``root`` and sorted; under the key None when there are no class folders."""
    loose = sorted(
        os.path.relpath(entry, root) for entry in os.scandir(part) if _is_image(entry.name) and not entry.is_dir()
    )
    found = {name: sorted(_walk(part / name, root, frozenset())) for name in _visible_folders(part)}
    if loose and any(found.values()):
        name = next(name for name, files in found.items() if files)
        raise UserError(
            f"{part} holds both images ({Path(loose[0]).name}) and class folders ({name}); move the images into one"
        )
    if loose:
        return {None: loose}
    if not any(found.values()):
        raise UserError(f"{part} holds no images; known endings: {', '.join(sorted(IMAGE_SUFFIXES))}")
    for name, files in found.items():
        if not files:
            raise UserError(f"class folder {part / name} holds no images; remove it or fill it")
    return found


def _walk(folder: Path, root: Path, above: frozenset[Path]) -> Iterator[str]:
    """Image files below ``folder``; ``above`` are the real folders that lead here, so that a loop of links ends."""
    here = folder.resolve()
    if here in above:
        return
    for entry in os.scandir(folder):
        if entry.is_dir() and not entry.name.startswith("."):
            yield from _walk(folder / entry.name, root, above | {here})
        elif _is_image(entry.name):
            yield os.path.relpath(entry, root)


def _is_image(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES


def _image_files(root: Path, files: list[str], labels: Rows) -> Images:
    return Images(labels, lambda rows: ((root / files[row], files[row]) for row in rows.tolist()))
