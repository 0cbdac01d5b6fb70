"""Read a fetched dataset: uint8 images of one size in memory, ready for a device."""

import concurrent.futures
import hashlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prosmin.common.errors import UserError, nearest, shown
from prosmin.common.files import AGAIN, FETCH, damaged, read_arrays, read_json
from prosmin.data.arrow import HUMAN_LABELS, SPLITS, SplitReader
from prosmin.data.cut import convert
from prosmin.data.frame import Frame
from prosmin.data.picture import decode

CHUNK = 4096  # images of a part of a split
_CHUNK = 1024  # images converted at a time

Rows = range | NDArray[np.int64]
"""Ascending row numbers, at least one."""


@dataclass(frozen=True)
class Split:
    """The images of one split, or some of them.

    images: uint8 [N, C, H, W].
    labels: int64 [N], -1 for none.
    classes: names in the order of the labels; None without labels.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...] | None

    def __len__(self) -> int:
        return len(self.images)


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Read the manifest of the dataset in ``folder``.

    Raises ``UserError`` where there is none, or a damaged one.
    """
    folder = Path(folder)
    path = folder / "manifest.json"
    try:
        manifest = read_json(path)
    except FileNotFoundError:
        raise UserError(f"{folder} holds no dataset; {FETCH}") from None
    except UserError as error:
        raise UserError(f"{path} is damaged: {error}") from None
    if fault := _fault(manifest):
        raise UserError(f"{path} is damaged: {fault}; {AGAIN}")
    return dict(manifest)


def _fault(manifest: Any) -> str:
    """Return a sentence on the first entry that readers need and a manifest lacks, or nothing."""
    if not isinstance(manifest, dict) or not {"classes", "splits"} <= manifest.keys():
        return "classes or splits are missing"
    classes, splits = manifest["classes"], manifest["splits"]
    if classes is not None and not (
        isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    ):
        return f"classes is {shown(classes)}, where a list of names is needed, or null"
    if not isinstance(splits, dict) or not splits or not set(splits) <= set(SPLITS):
        return f"splits is {shown(splits)}, where some of {', '.join(SPLITS)} are needed"
    for name, split in splits.items():
        count = split.get("count") if isinstance(split, dict) else None
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            return f"splits.{name}.count is {shown(count)}, where a number of images is needed"
    return ""


def split_names(folder: str | Path) -> list[str]:
    """Return the splits of the dataset in ``folder``, in the order train, val, test."""
    return [split for split in SPLITS if split in read_manifest(folder)["splits"]]


def open_split(folder: str | Path, split: str) -> SplitReader:
    """Open one split and check it against the manifest.

    Raises ``UserError`` for a dataset or split that does not exist or is damaged.
    """
    manifest = read_manifest(folder)
    if split not in manifest["splits"]:
        there = ", ".join(manifest["splits"])
        near = nearest(split, manifest["splits"])
        raise UserError(f"{folder} has no split {split!r}; there are: {there}{near}")
    reader = SplitReader(path := Path(folder, f"{split}.arrow"))
    count = manifest["splits"][split]["count"]
    reader.check_labels(len(manifest["classes"] or ()))
    if len(reader) != count:
        raise UserError(
            f"{path} holds {len(reader)} images and its manifest {count}; fetch it again"
        )
    return reader


def load_split(
    folder: str | Path,
    split: str,
    image_size: int | Frame | None = None,
    channels: int | None = None,
    rows: Rows | None = None,
) -> Split:
    """Load the images of one split.

    image_size: pixels a side. The short side is resized to it (bilinear, antialiased), and the
        centre is cropped; a ``Frame`` says more. None keeps the size, which must be the same for
        all images.
    channels: 1 or 3. RGB becomes grey by the luma of ITU-R BT.601, grey becomes RGB by repetition.
        None keeps the channels.
    rows: the images to load; None for all.

    Raises ``UserError`` for a dataset or split that does not exist or is damaged.
    """
    reader, classes = open_split(folder, split), read_manifest(folder)["classes"]
    rows = range(len(reader)) if rows is None else rows
    return _load(reader, classes, image_size, channels, os.cpu_count() or 1, rows)


def _load(
    reader: SplitReader,
    classes: Sequence[str] | None,
    image_size: int | Frame | None,
    channels: int | None,
    threads: int,
    rows: Rows,
) -> Split:
    if reader.layout.encoding == "raw":
        images = _raw(reader, image_size, channels, rows)
    else:
        images = _encoded(reader, image_size, channels, rows, threads)
    labels = torch.from_numpy(reader.labels()[np.asarray(rows)])
    return Split(images, labels, tuple(classes) if classes else None)


def chunks(
    folder: str | Path,
    split: str,
    image_size: int | Frame | None = None,
    channels: int | None = None,
    size: int = CHUNK,
) -> Iterator[Split]:
    """Yield a split as by ``load_split`` in parts of ``size`` images, which bounds memory."""
    count = read_manifest(folder)["splits"].get(split, {}).get("count", size)
    for start in range(0, count, size):
        yield load_split(
            folder, split, image_size, channels, range(start, min(start + size, count))
        )


def parts(
    folder: str | Path, split: str, image_size: int | Frame | None, channels: int | None, size: int
) -> list[Callable[[], Split]]:
    """Functions that load a split as by ``load_split`` in parts, each on the thread that calls it.

    size: images of a part at most. A part also ends where one of ``chunks`` does.
    """
    reader, classes = open_split(folder, split), read_manifest(folder)["classes"]
    wholes = (range(len(reader))[start:][:CHUNK] for start in range(0, len(reader), CHUNK))
    return [
        partial(_load, reader, classes, image_size, channels, 1, whole[first:][:size])
        for whole in wholes
        for first in range(0, len(whole), size)
    ]


def load_human_labels(folder: str | Path) -> NDArray[np.float64] | None:
    """Load how people labelled the test images: the share that chose each class, [N, C].

    Returns None where the dataset has no labels of people. Raises ``UserError`` for a damaged file.
    """
    path = Path(folder, HUMAN_LABELS)
    if not path.exists():
        return None
    arrays, manifest = read_arrays(path), read_manifest(folder)
    shape = manifest["splits"].get("test", {}).get("count", 0), len(manifest["classes"] or ())
    arrays.check({"shares": ("float32", "NC")})
    shares = arrays["shares"].astype(np.float64)
    if shares.shape != shape:
        raise damaged(path, f"shares is {list(shares.shape)} where {list(shape)} is needed")
    if not ((shares >= 0).all() and (np.abs((sums := shares.sum(axis=1)) - 1) < 1e-3).all()):
        raise damaged(path, "a row of shares is no distribution")
    return np.asarray(shares / sums[:, None], np.float64)


def channel_statistics(images: Tensor) -> tuple[list[float], list[float]]:
    """Compute mean and standard deviation of each channel, exactly, without a copy of the images.

    images: uint8 [N, C, H, W]; pixels count from 0 to 1.
    """
    levels = np.arange(256)
    means, deviations = [], []
    for channel in images.unbind(1):
        # Counts of the 256 levels say all, and take no memory.
        counts = np.zeros(256, np.int64)
        for part in torch.split(channel, 64):
            counts += torch.bincount(part.flatten(), minlength=256).numpy()
        n, total, squares = (int((counts * levels**power).sum()) for power in (0, 1, 2))
        means.append(total / n / 255)
        deviations.append(math.sqrt((n * squares - total**2) / (n * max(n - 1, 1))) / 255)
    return means, deviations


def digests(images: Tensor) -> NDArray[np.uint64]:
    """Compute a checksum per image: uint8 [N, C, H, W] -> uint64 [N].

    Equal images of one shape have equal checksums; different images practically never do.
    """
    rows = (hashlib.blake2b(image, digest_size=8).digest() for image in images.contiguous().numpy())
    return np.frombuffer(b"".join(rows), "<u8")


def checksum(*tensors: Tensor | None) -> str:
    """Compute the SHA-256 of the contents of tensors on the CPU, in order."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(b"none" if tensor is None else np.ascontiguousarray(tensor.numpy()).data)
    return digest.hexdigest()


# --- decoding -------------------------------------------------------------------------------------


def _raw(
    reader: SplitReader, image_size: int | Frame | None, channels: int | None, rows: Rows
) -> Tensor:
    shape, places = reader.layout.shape, np.asarray(rows)
    pixels = np.empty((len(places), *shape), np.uint8)
    first = 0
    for chunk in reader.table["image"].chunks:
        # A binary array is one buffer with the images end to end, a view of the file.
        low, high = np.searchsorted(places, [first, first + len(chunk)])
        if low < high:
            batch = _buffer(chunk).reshape(-1, *shape)
            np.take(batch, places[low:high] - first, axis=0, out=pixels[low:high])
        first += len(chunk)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    parts = torch.split(images, _CHUNK)
    return torch.cat([convert(part, image_size, channels) for part in parts])


def _buffer(chunk: Any) -> NDArray[np.uint8]:
    """Return the bytes of all values of an Arrow binary array."""
    _, offsets, values = chunk.buffers()
    first, last = np.frombuffer(offsets, np.int32)[[chunk.offset, chunk.offset + len(chunk)]]
    return np.frombuffer(values, np.uint8)[first:last]


def _encoded(
    reader: SplitReader,
    image_size: int | Frame | None,
    channels: int | None,
    rows: Rows,
    threads: int,
) -> Tensor:
    def load(image: Any) -> Tensor:
        pixels = torch.from_numpy(decode(image.to_pybytes(), reader.layout.channels))
        return convert(pixels.permute(2, 0, 1)[None], image_size, channels)[0]

    first = load(reader.image(int(rows[0])))
    images = torch.empty((len(rows), *first.shape), dtype=torch.uint8)
    # Decoding runs outside the interpreter lock.
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        run = map if threads == 1 else pool.map
        for start in range(0, len(rows), _CHUNK):  # a million tasks at once would fill the memory
            stored = map(reader.image, map(int, rows[start : start + _CHUNK]))
            for place, image in enumerate(run(load, stored), start):
                if image.shape != first.shape:
                    pair = f"{reader.source(int(rows[0]))} and {reader.source(int(rows[place]))}"
                    raise UserError(f"{pair} differ in size; an image_size is needed")
                images[place] = image
    return images
