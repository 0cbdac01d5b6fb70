"""Read a dataset that ``stages.fetch`` wrote: uint8 images of one size in memory, ready for a device."""

import concurrent.futures
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from prosmin.common.errors import UserError, nearest, shown
from prosmin.common.files import read_json
from prosmin.data.arrow import NO_LABEL, SPLITS, SplitReader
from prosmin.data.picture import decode

_CHUNK = 1024  # images converted at a time
_THIN = 4  # long side to short side above which only the middle of an image is resized

Rows = range | np.ndarray


@dataclass(frozen=True)
class Split:
    """images: uint8 [N, C, H, W]; labels: int64 [N], -1 where there is none; classes: names, None without labels."""

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...] | None

    def __len__(self) -> int:
        return len(self.images)


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """What ``stages.fetch`` found out about the dataset in ``folder``."""
    folder = Path(folder)
    path, again = folder / "manifest.json", f"run `python -m stages.fetch {folder.name}` again"
    try:
        manifest = read_json(path, again)
    except FileNotFoundError:
        remedy = f"run `dvc repro` or `python -m stages.fetch {folder.name}`"
        raise UserError(f"{folder} holds no dataset; {remedy}") from None
    except UserError as error:
        raise UserError(f"{path} is damaged: {error}") from None
    if fault := _fault(manifest):
        raise UserError(f"{path} is damaged: {fault}; {again}")
    return manifest


def _fault(manifest: Any) -> str:
    """What a manifest lacks of what readers rely on; empty where it has it all."""
    if not isinstance(manifest, dict) or not {"classes", "splits"} <= manifest.keys():
        return "classes or splits are missing"
    classes, splits = manifest["classes"], manifest["splits"]
    if classes is not None and not (
        isinstance(classes, list) and all(isinstance(each, str) for each in classes)
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
    """The splits that the dataset in ``folder`` has, in the order train, val, test."""
    return [split for split in SPLITS if split in read_manifest(folder)["splits"]]


def load_split(
    folder: str | Path,
    split: str,
    image_size: int | None = None,
    channels: int | None = None,
    rows: Rows | None = None,
) -> Split:
    """The images of one split: all, or those of ``rows``, at least one and ascending.

    image_size: pixels a side; the short side is resized to it (bilinear, antialiased) and the centre cropped.
        None keeps the size, which must then be the same for all images.
    channels: 1 or 3; RGB becomes grey by the luma of ITU-R BT.601, grey becomes RGB by repetition. None keeps them.

    Raise ``UserError`` when the dataset or the split does not exist.
    """
    manifest = read_manifest(folder)
    if split not in manifest["splits"]:
        there = ", ".join(manifest["splits"])
        raise UserError(
            f"{folder} has no split {split!r}; there are: {there}{nearest(split, manifest['splits'])}"
        )
    reader = SplitReader(path := Path(folder, f"{split}.arrow"))
    classes, count = manifest["classes"], manifest["splits"][split]["count"]
    reader.check_labels(len(classes or ()))
    if len(reader) != count:
        raise UserError(
            f"{path} holds {len(reader)} images and its manifest {count}; fetch it again"
        )
    load = _raw if reader.layout.encoding == "raw" else _encoded
    rows = range(len(reader)) if rows is None else rows
    images = load(reader, image_size, channels, rows)
    labels = torch.from_numpy(
        reader.table["label"].fill_null(NO_LABEL).to_numpy()[np.asarray(rows)]
    )
    return Split(images, labels, tuple(classes) if classes else None)


def chunks(
    folder: str | Path,
    split: str,
    image_size: int | None = None,
    channels: int | None = None,
    size: int = 4096,
) -> Iterator[Split]:
    """``load_split`` in parts of ``size`` images, so that a split need not fit into memory."""
    count = read_manifest(folder)["splits"].get(split, {}).get("count", size)
    for start in range(0, count, size):
        yield load_split(
            folder, split, image_size, channels, range(start, min(start + size, count))
        )


def digests(images: Tensor) -> np.ndarray:
    """Checksums of the pixels, uint64 [N]: equal images of one shape have equal ones, and others, in effect, do not."""
    rows = (hashlib.blake2b(image, digest_size=8).digest() for image in images.contiguous().numpy())
    return np.frombuffer(b"".join(rows), "<u8")


# --- decoding -------------------------------------------------------------------------------------


def _raw(reader: SplitReader, image_size: int | None, channels: int | None, rows: Rows) -> Tensor:
    layout, places = reader.layout, np.asarray(rows)
    shape = (layout.height, layout.width, layout.channels)
    pixels = np.empty((len(places), *shape), np.uint8)
    first = 0
    for chunk in reader.table["image"].chunks:
        # One binary array is one buffer with the images end to end, so that the whole batch is a view of the file.
        low, high = np.searchsorted(places, [first, first + len(chunk)])
        if low < high:
            np.take(
                _buffer(chunk).reshape(-1, *shape),
                places[low:high] - first,
                axis=0,
                out=pixels[low:high],
            )
        first += len(chunk)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    return torch.cat([convert(part, image_size, channels) for part in images.split(_CHUNK)])


def _buffer(chunk: Any) -> np.ndarray:
    """The bytes of all values of an Arrow binary array."""
    _, offsets, values = chunk.buffers()
    first, last = np.frombuffer(offsets, np.int32)[[chunk.offset, chunk.offset + len(chunk)]]
    return np.frombuffer(values, np.uint8)[first:last]


def _encoded(
    reader: SplitReader, image_size: int | None, channels: int | None, rows: Rows
) -> Tensor:
    def load(image: Any) -> Tensor:
        pixels = torch.from_numpy(decode(image.to_pybytes(), reader.layout.channels))
        return convert(pixels.permute(2, 0, 1)[None], image_size, channels)[0]

    first = load(reader.image(int(rows[0])))
    images = torch.empty((len(rows), *first.shape), dtype=torch.uint8)
    with concurrent.futures.ThreadPoolExecutor(
        os.cpu_count()
    ) as pool:  # decoding runs outside the interpreter lock
        for start in range(0, len(rows), _CHUNK):  # not all at once: a million tasks are memory too
            chunk = rows[start : start + _CHUNK]
            for place, image in enumerate(
                pool.map(load, map(reader.image, map(int, chunk))), start
            ):
                if image.shape != first.shape:
                    pair = f"{reader.source(int(rows[0]))} and {reader.source(int(rows[place]))}"
                    raise UserError(f"{pair} differ in size; an image_size is needed")
                images[place] = image
    return images


def convert(images: Tensor, image_size: int | None, channels: int | None) -> Tensor:
    """uint8 [N, C, H, W] of one size -> uint8 [N, channels, image_size, image_size]; see ``load_split``.

    image_size: at least 2.
    """
    if channels == 1 and images.shape[1] == 3:
        red, green, blue = images.int().unbind(1)
        luma = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16  # rounded as Pillow does
        images = luma.to(torch.uint8)[:, None]
    if image_size is not None and images.shape[2:] != (image_size, image_size):
        images = _centre(images, image_size)
    if channels == 3 and images.shape[1] == 1:
        images = images.expand(-1, 3, -1, -1)
    return images.contiguous()


def _centre(images: Tensor, side: int) -> Tensor:
    """uint8 [N, C, H, W] -> [N, C, side, side]: short side resized, long side cut to its centre.

    Sizes and margins are rounded as ``Resize`` and ``CenterCrop`` of torchvision, and so of timm, round them.
    """
    height, width = images.shape[2:]
    size = tuple(side * each // min(height, width) for each in (height, width))
    top, left = (round((each - side) / 2) for each in size)
    if max(size) <= _THIN * side:
        resized = functional.interpolate(
            images, size=size, mode="bilinear", antialias=True, align_corners=False
        )
        return resized[:, :, top : top + side, left : left + side]
    # Resized as a whole, a line of 1 x 16000 pixels would take gigabytes. Pillow computes the pixels
    # of a box alone, from the same neighbours and to rounding the same values.
    down, across = height / size[0], width / size[1]
    right, bottom = min((left + side) * across, width), min((top + side) * down, height)
    box = left * across, top * down, right, bottom
    resized = torch.empty(*images.shape[:2], side, side, dtype=torch.uint8)
    for image, place in zip(images.flatten(0, 1), resized.flatten(0, 1), strict=True):
        channel = Image.fromarray(image.numpy())
        channel = channel.resize((side, side), Image.Resampling.BILINEAR, box)
        place.copy_(torch.from_numpy(np.array(channel)))
    return resized
