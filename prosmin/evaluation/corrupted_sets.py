"""The corrupted images of a test split, cell by cell: generated, or read from published files.

A cell is one corruption type at one severity. Every source gives the labels [N] of its images,
which are the same and in the same order in all cells, and functions that give the images of a cell
in parts. Several threads may call these at the same time.

Letters in shapes: N images, B images of a part, C channels, S pixels a side, H x W pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from prosmin.common.errors import ConfigError, UserError, nearest, reason
from prosmin.corruptions import SEVERITIES
from prosmin.corruptions.apply import block, corrupt
from prosmin.corruptions.textures import Frost
from prosmin.data.cut import convert
from prosmin.data.dataset import Split
from prosmin.data.picture import Unreadable, decode
from prosmin.evaluation.embedding import Images
from prosmin.fetching.listing import files_in, subfolders

_PART = 1024  # images per part, at least

Parts = Sequence[Callable[[], Images]]


class Cells(Protocol):
    """Corrupted images.

    labels: int64 [N].
    paired: the images come in the order of the test split.
    """

    labels: np.ndarray
    paired: bool

    def parts(self, name: str, severity: int) -> Parts:
        """The N images of a cell in parts of B images. name: of the type."""
        ...


@dataclass(frozen=True)
class Generated:
    """The images of a split, corrupted by ``prosmin.corruptions`` on the device that sees them.

    frost: photographs of frost; None: procedural frost.
    """

    split: Split
    seed: int
    frost: Frost | None = None
    paired: ClassVar[bool] = True

    @property
    def labels(self) -> np.ndarray:
        return self.split.labels.numpy()

    def parts(self, name: str, severity: int) -> Parts:
        size = block(*self.split.images.shape[-2:])
        step = size * -(-_PART // size)
        starts = range(0, len(self.split), step)
        return [partial(partial, self._part, name, severity, first, step) for first in starts]

    def _part(
        self, name: str, severity: int, first: int, step: int, device: torch.device
    ) -> Tensor:
        images = self.split.images[first : first + step].to(device)
        return corrupt(images, name, severity, self.seed, first=first, frost=self.frost)


# --- published files ------------------------------------------------------------------------------


class Folders:
    """ImageNet-C: image files in ``path/<type>/<severity>/<class>/``.

    All cells have the same file names.

    classes: names of the class folders in the order of the labels.
    image_size, channels: the images are converted to these, as by
        ``prosmin.data.dataset.load_split``.

    Raises ``UserError``, before any image is read, where a cell is missing or holds other images
    than the first cell.
    """

    paired = False  # published files may come in another order

    def __init__(
        self,
        path: str | Path,
        types: Sequence[str],
        severities: Sequence[int],
        classes: Sequence[str],
        image_size: int,
        channels: int,
    ):
        self.root, self.image_size, self.channels = _root(path), image_size, channels
        _check_types(types, subfolders(self.root), self.root)
        cells = [self.root / name / str(severity) for name in types for severity in severities]
        for cell in cells:
            if not cell.is_dir():
                there = ", ".join(subfolders(cell.parent)) or "nothing"
                raise UserError(f"{cell} is missing; {cell.parent} holds {there}")
        self.files = _images(cells[0], classes)
        for cell in cells[1:]:
            _check_same(cells[0], self.files, cell, _images(cell, classes))
        places = {name: label for label, name in enumerate(classes)}
        self.labels = np.array(
            [places[file.partition("/")[0]] for file in self.files], dtype=np.int64
        )

    def parts(self, name: str, severity: int) -> Parts:
        cell = self.root / name / str(severity)
        starts = range(0, len(self.files), _PART)
        return [partial(self._part, cell, self.files[first : first + _PART]) for first in starts]

    def _part(self, cell: Path, files: Sequence[str]) -> Tensor:
        return torch.cat([self._read(cell / file) for file in files])

    def _read(self, file: Path) -> Tensor:
        try:
            pixels = torch.from_numpy(decode(file)).permute(2, 0, 1)
        except Unreadable as error:
            raise UserError(f"{file} cannot be read: {error}") from None
        return convert(pixels[None], self.image_size, self.channels)


class Arrays:
    """CIFAR-10-C: ``path/<type>.npy``, uint8 [5 N, H, W, 3], and ``path/labels.npy``, [5 N].

    The N images of severity 1 come first. The arrays are mapped, not loaded, and never unpickled.

    count: number of classes. image_size, channels: as in ``Folders``.

    Raises ``UserError`` where an array has another shape or type than these.
    """

    paired = False  # published files may come in another order

    def __init__(
        self, path: str | Path, types: Sequence[str], count: int, image_size: int, channels: int
    ):
        self.root, self.image_size, self.channels = _root(path), image_size, channels
        _check_types(
            types,
            [file.stem for file in sorted(self.root.glob("*.npy")) if file.stem != "labels"],
            self.root,
        )
        file = self.root / "labels.npy"
        labels = _array(file)
        rows = len(labels)
        if labels.ndim != 1 or labels.dtype.kind not in "iu" or not rows or rows % len(SEVERITIES):
            raise UserError(f"{file} is {_shown(labels)}; needed: whole numbers [5 N]")
        by_severity = labels.astype(np.int64).reshape(len(SEVERITIES), -1)
        if (by_severity != by_severity[0]).any():
            raise UserError(f"{file} differs between severities; its five parts must be equal")
        self.labels = by_severity[0]
        if self.labels.min() < 0 or self.labels.max() >= count:
            wrong = int(self.labels.min() if self.labels.min() < 0 else self.labels.max())
            raise UserError(f"{file} holds label {wrong}; the dataset has {count} classes, from 0")
        self.arrays = {name: _array(self.root / f"{name}.npy") for name in types}
        for name, array in self.arrays.items():
            if (
                array.dtype != np.uint8
                or array.ndim != 4
                or array.shape[3] not in (1, 3)
                or len(array) != rows
            ):
                needed = f"uint8 [{rows}, H, W, 3], as many images as labels.npy has labels"
                raise UserError(f"{self.root / name}.npy is {_shown(array)}; needed: {needed}")

    def parts(self, name: str, severity: int) -> Parts:
        count = len(self.labels)
        cell = self.arrays[name][(severity - 1) * count : severity * count]
        return [
            partial(self._part, cell[first : first + _PART]) for first in range(0, count, _PART)
        ]

    def _part(self, array: np.ndarray) -> Tensor:
        pixels = torch.from_numpy(np.array(array)).permute(0, 3, 1, 2)
        # Copied even with one channel, whose strides would otherwise choose other kernels with
        # other last digits.
        pixels = pixels.clone(memory_format=torch.contiguous_format)
        return convert(pixels, self.image_size, self.channels)


def _root(path: str | Path) -> Path:
    root = Path(path).expanduser()
    if not root.is_dir():
        raise ConfigError("path", str(path), "there is no such folder")
    return root


def _check_types(wanted: Sequence[str], there: Sequence[str], root: Path) -> None:
    if missing := [name for name in wanted if name not in there]:
        holds = ", ".join(there) or "nothing"
        raise ConfigError(
            "types",
            ", ".join(missing),
            f"{root} has only {holds}{nearest(missing[0], there)}; name no other types",
        )


def _images(cell: Path, classes: Sequence[str]) -> list[str]:
    """The files ``<class>/<file>`` of a cell, sorted, the classes in the order of the labels."""
    there = subfolders(cell)
    if unknown := sorted(set(there) - set(classes)):
        raise UserError(
            f"{cell / unknown[0]} is no class of the dataset, which has {len(classes)}, "
            f"such as {classes[0]!r}{nearest(unknown[0], classes)}"
        )
    present = set(there)
    return [
        f"{name}/{file}" for name in classes if name in present for file in files_in(cell / name)
    ]


def _check_same(first: Path, expected: list[str], cell: Path, images: list[str]) -> None:
    """Raise ``UserError`` unless a cell holds the ``expected`` images, those of the first cell."""
    if not expected:
        raise UserError(f"{first} holds no images")
    if images == expected:
        return
    missing, extra = sorted(set(expected) - set(images)), sorted(set(images) - set(expected))
    odd = f"{missing[0]} is not in {cell}" if missing else f"{extra[0]} is not in {first}"
    raise UserError(
        f"{cell} holds {len(images)} images and {first} {len(expected)}, "
        f"which must be the same: {odd}"
    )


def _array(file: Path) -> np.ndarray:
    try:
        array: np.ndarray = np.load(file, mmap_mode="r", allow_pickle=False)
        return array
    except FileNotFoundError:
        raise UserError(f"{file} does not exist") from None
    except Exception as error:  # NumPy parses the header as Python: SyntaxError, OverflowError, ...
        raise UserError(
            f"{file} is no array that can be read: {reason(error)}; download it again"
        ) from None


def _shown(array: np.ndarray) -> str:
    return f"{array.dtype} {list(array.shape)}"


def check_labels(cells: Cells, split: Split, dataset: str) -> None:
    """Raise ``UserError`` unless each class has as many corrupted images as clean ones.

    Counts agree for classes of equal size whatever their names. ``Arrays`` have no names of
    classes, so their labels must also come in the order of the split.
    """
    names = split.classes or ()
    labels = cells.labels, split.labels.numpy()
    counts = (np.bincount(part, minlength=len(names)) for part in labels)
    for name, corrupted, clean in zip(names, *counts):
        if corrupted != clean:
            raise UserError(
                f"{corrupted} corrupted images are of class {name!r}, "
                f"but {clean} of the test split of {dataset!r}; "
                "the clean and the corrupted images must be the same"
            )
    differing = np.flatnonzero(labels[0] != labels[1])
    if isinstance(cells, Arrays) and len(differing):
        corrupted, clean = (names[part[differing[0]]] for part in labels)
        raise UserError(
            f"corrupted image {differing[0]} is of class {corrupted!r}, "
            f"but that of the test split of {dataset!r} of class {clean!r}, "
            f"as for {len(differing)} of {len(split)} images; "
            "labels.npy must have the order of the test split"
        )
