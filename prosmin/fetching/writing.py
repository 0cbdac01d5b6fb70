"""Write a source as a dataset: Arrow files by split, and a manifest of their contents."""

import array
import concurrent.futures
import hashlib
import itertools
import logging
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from prosmin.common.errors import UserError
from prosmin.common.files import write_arrays
from prosmin.data.arrow import HUMAN_LABELS, NO_LABEL, RAW_SIDE, Layout, SplitReader, SplitWriter
from prosmin.data.picture import AnyImage, Unreadable, decode, encode, read_header
from prosmin.fetching.listing import by_ending, escape_unprintable
from prosmin.fetching.manifest import EXAMPLES, Written, describe
from prosmin.fetching.sources import Images, Source
from prosmin.fetching.splits import check_classes, check_human_labels, divide
from prosmin.fetching.variants import transformed, transformed_layout

_CHUNK = 256  # images decoded at a time

log = logging.getLogger(__name__)


def write_dataset(
    folder: Path,
    source: Source,
    *,
    seed: int,
    val_fraction: float = 0.2,
    test_fraction: float = 0.2,
    limit: Mapping[str, int] | None = None,
    max_unreadable: float = 0.01,
    transform: str = "none",
    human_labels: NDArray[np.float32] | None = None,
    workers: int = 1,
) -> dict[str, Any]:
    """Write ``<split>.arrow`` for every split into ``folder``.

    val_fraction, test_fraction, limit: as for ``prosmin.fetching.splits.divide``.
    max_unreadable: share of the images that may be left out because they cannot be decoded.
    transform: as for ``prosmin.fetching.variants.transformed``; ``none`` writes the images.
    human_labels: share of people that chose each class, [M, C], by the rows of the split of the
        source that the test images are from. They are written beside the test images, row by row.
    workers: number of images decoded at a time.

    Returns: the manifest.
    Raises ``UserError`` for images that make no sensible dataset.
    """
    splits = divide(source, seed, val_fraction, test_fraction, limit or {})
    check_classes(source.classes, splits)
    layout, converted = _survey(splits, max_unreadable)
    total = sum(map(len, splits.values()))
    quarantined: list[dict[str, str]] = []
    written = {}
    kept: dict[str, list[int]] = {split: [] for split in splits}  # places of readable images
    if human_labels is not None:
        check_human_labels(human_labels, source, splits, transform)
    with tqdm(total=total, unit=" images", disable=None) as bar:
        for split, images in splits.items():
            rows = _decoded(images, layout, kept[split], quarantined, converted, bar, workers)
            written[split] = _write_split(_file(folder, split), layout, rows)
    _check_unreadable(quarantined, total, max_unreadable)
    _check_written(source.classes, written)
    classes = source.classes
    if transform != "none":
        classes, layout = None, transformed_layout(layout, transform)
        written = {
            split: _transform_split(_file(folder, split), layout, transform, seed, split)
            for split in splits
        }
    people = {}
    if human_labels is not None:
        shares = human_labels[splits["test"].rows[kept["test"]]]
        write_arrays(folder / HUMAN_LABELS, {"shares": shares})
        agrees = shares.argmax(axis=1) == written["test"].labels
        people["human_labels"] = {"agreement": round(float(agrees.mean()), 4)}
    return {
        **describe(layout, classes, written),
        **people,
        "converted": {name: count for name, count in sorted(converted.items()) if count},
        "quarantined": quarantined,
        "not_read": {
            "endings": by_ending(source.not_read),
            "examples": [escape_unprintable(file) for file in source.not_read[:EXAMPLES]],
        },
    }


def _file(folder: Path, split: str) -> Path:
    return folder / f"{split}.arrow"


def cautions(source: Source, test_fraction: float) -> list[str]:
    """Return sentences about possible mistakes, before anything is written."""
    notes = list(source.notes)
    if {"train", "val"} == set(source.splits) and test_fraction > 0:
        notes.append(
            f"there is no test split, so {test_fraction:g} of train is held out as one, though "
            "there is a val split: if that is the test set (as for ImageNet), say so under splits "
            "or files ({train: …, test: …})"
        )
    return notes


# --- unreadable images ----------------------------------------------------------------------------


def _check_unreadable(unreadable: list[dict[str, str]], total: int, max_unreadable: float) -> None:
    if len(unreadable) > max_unreadable * total:
        first = unreadable[0]
        raise UserError(
            f"{len(unreadable)} of {total} images cannot be read, more than max_unreadable "
            f"({max_unreadable:g}) allows; the first is {first['source']} ({first['reason']})"
        )


def _survey(splits: Mapping[str, Images], max_unreadable: float) -> tuple[Layout, Counter[str]]:
    """Read the headers of all images.

    If one image is RGB, all images become RGB. Images without a readable header do not count.

    Returns: the layout of the files, and the number of images by the change that decoding makes.
    """
    unreadable: list[dict[str, str]] = []
    channels: Counter[int] = Counter()
    converted: Counter[str] = Counter()
    sizes: set[tuple[int, int]] = set()
    for images in splits.values():
        for image, _, source in images:
            try:
                header = read_header(image)
            except Unreadable as error:
                unreadable.append({"source": source, "reason": str(error)})
                continue
            channels[header.channels] += 1
            converted.update(header.changes)
            if len(sizes) < 2:
                sizes.add((header.height, header.width))
    _check_unreadable(unreadable, sum(map(len, splits.values())), max_unreadable)
    if not channels:
        raise UserError("no image can be read")
    if len(channels) > 1:
        converted["grey"] = channels[1]
    height, width = sizes.pop()
    if sizes or max(height, width) > RAW_SIDE:
        return Layout("encoded", max(channels)), converted
    return Layout("raw", max(channels), height, width), converted


# --- writing --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One image as it is stored; height and width in pixels."""

    image: bytes
    label: int
    source: str
    height: int
    width: int


@dataclass(frozen=True)
class Omitted:
    """One image that cannot be stored. changes: as in ``prosmin.data.picture.Header``."""

    source: str
    reason: str
    changes: tuple[str, ...]


def _decoded(
    images: Images,
    layout: Layout,
    kept: list[int],
    quarantined: list[dict[str, str]],
    converted: Counter[str],
    bar: tqdm,
    workers: int,
) -> Iterator[Row]:
    """Decode every image, ``_CHUNK`` images at a time.

    The places of readable images are added to ``kept``, unreadable images to ``quarantined``.
    ``_survey`` has counted the changes of these, which are taken out of ``converted``.
    """

    def prepare(item: tuple[AnyImage, int, str]) -> Row | Omitted:
        image, label, source = item
        try:
            return _row(image, layout, label, source)
        except Unreadable as error:
            return Omitted(source, str(error), _surveyed_changes(image, layout))

    items, start = iter(images), 0
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        # Pillow decodes outside the interpreter lock. Threads pay for large images; small images
        # take twice as long in threads.
        map_images = pool.map if layout.encoding == "encoded" else map
        while chunk := list(itertools.islice(items, _CHUNK)):
            for place, result in enumerate(map_images(prepare, chunk), start):
                if isinstance(result, Row):
                    kept.append(place)
                    yield result
                else:
                    log.warning("left out %s: %s", result.source, result.reason)
                    quarantined.append({"source": result.source, "reason": result.reason})
                    converted.subtract(result.changes)
            start += len(chunk)
            bar.update(len(chunk))


def _surveyed_changes(image: AnyImage, layout: Layout) -> tuple[str, ...]:
    """Return the changes that ``_survey`` has counted for an image."""
    try:
        header = read_header(image)
    except Unreadable:
        return ()
    return header.changes + (("grey",) if header.channels < layout.channels else ())


def _row(image: AnyImage, layout: Layout, label: int, source: str) -> Row:
    if layout.encoding == "raw":
        pixels = decode(image, layout.channels)
        stored = pixels.tobytes()
        same = pixels.shape == layout.shape
    else:
        stored, pixels = encode(image)
        same = pixels.shape[2] <= layout.channels
    if not same:
        raise Unreadable("the file has changed since its header was read")
    height, width = pixels.shape[:2]
    return Row(stored, label, source, height, width)


def _write_split(path: Path, layout: Layout, rows: Iterator[Row]) -> Written:
    labels, digests = array.array("q"), bytearray()
    low: tuple[float, float] = math.inf, math.inf
    high = 0, 0
    with SplitWriter(path, layout) as writer:
        for row in rows:
            writer.add(row.image, row.label, row.source)
            labels.append(row.label)
            digests += hashlib.blake2b(row.image, digest_size=8).digest()
            low = min(low[0], row.height), min(low[1], row.width)
            high = max(high[0], row.height), max(high[1], row.width)
    return Written(
        path,
        np.array(labels, np.int64),
        np.frombuffer(digests, "<u8"),
        height=(low[0], high[0]),
        width=(low[1], high[1]),
    )


def _transform_split(path: Path, layout: Layout, transform: str, seed: int, split: str) -> Written:
    """Replace the file of a split by its out-of-distribution variant."""
    reader, part = SplitReader(path), path.with_suffix(".part")
    variants = enumerate(transformed(reader, transform, seed, split))
    rows = (_row(pixels, layout, NO_LABEL, reader.source(row)) for row, pixels in variants)
    written = _write_split(part, layout, rows)
    os.replace(part, path)
    return replace(written, path=path)


def _check_written(classes: tuple[str, ...] | None, written: Mapping[str, Written]) -> None:
    """Raise ``UserError`` where no image of a split, or of a class in train, could be read."""
    for split, facts in written.items():
        if not len(facts.labels):
            raise UserError(f"no image of split {split!r} can be read")
    if classes and "train" in written:
        counts = np.bincount(written["train"].labels, minlength=len(classes))
        if not counts.all():
            raise UserError(f"no image of class {classes[counts.argmin()]!r} in train can be read")
