"""From a source to the files of a dataset: splits, checks, Arrow files and a manifest of what they hold."""

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
from tqdm import tqdm

from prosmin.common.errors import ConfigError, UserError
from prosmin.common.seeds import generator
from prosmin.data.arrow import NO_LABEL, RAW_SIDE, SPLITS, Layout, SplitReader, SplitWriter
from prosmin.data.picture import AnyImage, Unreadable, decode, encode, read_header
from prosmin.fetching.listing import by_ending, printable
from prosmin.fetching.manifest import LISTED, Written, describe
from prosmin.fetching.sources import Images, Source
from prosmin.fetching.splits import balanced_subset, hold_out
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
    workers: int = 1,
) -> dict[str, Any]:
    """Write ``<split>.arrow`` for every split into ``folder`` and return the manifest of what they hold.

    val_fraction, test_fraction: of the images of train, held out by class when the source lacks that split; with a
        test_fraction of 1 the images of a source without splits are all test images;
    limit: the most images of a split, as evenly from the classes as can be;
    max_unreadable: share of the images that may be left out because they cannot be decoded;
    transform: see ``prosmin.fetching.variants``;
    workers: how many images are decoded at a time.

    Raise ``UserError`` for images that make no sensible dataset.
    """
    splits = divide(source, seed, val_fraction, test_fraction, limit or {})
    _check_classes(source.classes, splits)
    layout, converted = _survey(splits, max_unreadable)
    total = sum(map(len, splits.values()))
    quarantined: list[dict[str, str]] = []
    with tqdm(total=total, unit=" images", disable=None) as bar:
        written = {
            split: _write_split(
                _file(folder, split),
                layout,
                _decoded(images, layout, quarantined, converted, bar, workers),
            )
            for split, images in splits.items()
        }
    _check_unreadable(quarantined, total, max_unreadable)
    _check_written(source.classes, written)
    classes = source.classes
    if transform != "none":
        classes, layout = None, transformed_layout(layout, transform)
        written = {
            split: _transform_split(_file(folder, split), layout, transform, seed, split)
            for split in splits
        }
    return {
        **describe(layout, classes, written),
        "converted": {name: count for name, count in sorted(converted.items()) if count},
        "quarantined": quarantined,
        "not_read": {
            "endings": by_ending(source.not_read),
            "examples": [printable(file) for file in source.not_read[:LISTED]],
        },
    }


def _file(folder: Path, split: str) -> Path:
    return folder / f"{split}.arrow"


def divide(
    source: Source, seed: int, val_fraction: float, test_fraction: float, limit: Mapping[str, int]
) -> dict[str, Images]:
    """The splits of a source, those it lacks held out of train, in the order train, val, test."""
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
        if split not in splits:
            raise ConfigError(
                f"limit.{split}", count, f"there is no such split; there are: {', '.join(splits)}"
            )
        if source.classes and count < len(source.classes):
            raise ConfigError(
                f"limit.{split}",
                count,
                f"must be at least the number of classes, {len(source.classes)}",
            )
        rows = balanced_subset(splits[split].labels, count, generator(seed, f"limit.{split}"))
        splits[split] = splits[split].take(rows)
    return {split: splits[split] for split in SPLITS if split in splits}


def cautions(source: Source, test_fraction: float) -> list[str]:
    """Sentences on what looks like a slip, before anything is written."""
    notes = list(source.notes)
    if {"train", "val"} == set(source.splits) and test_fraction > 0:
        notes.append(
            f"there is no test split, so {test_fraction:g} of train is held out as one, though there is "
            "a val split: if that is the test set (as for ImageNet), say so under splits or files "
            "({train: …, test: …})"
        )
    return notes


def _check_classes(classes: tuple[str, ...] | None, splits: Mapping[str, Images]) -> None:
    if classes is None:
        return
    if twice := [name for name, count in Counter(classes).items() if count > 1]:
        raise UserError(f"{Counter(classes)[twice[0]]} classes are named {twice[0]!r}; rename them")
    if "train" not in splits:
        return
    present = {split: set(images.labels.tolist()) for split, images in splits.items()}
    for split, found in present.items():
        if extra := sorted(found - present["train"]):
            raise UserError(
                f"{split} has images of class {classes[extra[0]]!r}, but train has none"
            )
    if missing := sorted(present["train"] - present.get("test", present["train"])):
        raise UserError(f"train has images of class {classes[missing[0]]!r}, but test has none")
    if absent := sorted(set(range(len(classes))) - present["train"]):
        raise UserError(f"class {classes[absent[0]]!r} has no images in train")


# --- unreadable images ----------------------------------------------------------------------------


def _check_unreadable(unreadable: list[dict[str, str]], total: int, max_unreadable: float) -> None:
    if len(unreadable) > max_unreadable * total:
        first = unreadable[0]
        raise UserError(
            f"{len(unreadable)} of {total} images cannot be read, more than max_unreadable ({max_unreadable:g}) "
            f"allows; the first is {first['source']} ({first['reason']})"
        )


def _survey(splits: Mapping[str, Images], max_unreadable: float) -> tuple[Layout, Counter[str]]:
    """Choose the layout from the headers of all images, and count those that decoding changes.

    Where any image is RGB all become it. Images without a readable header do not count.
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
class Left:
    """One image that is left out. changes: as in ``prosmin.data.picture.Header``."""

    source: str
    reason: str
    changes: tuple[str, ...]


def _decoded(
    images: Images,
    layout: Layout,
    quarantined: list[dict[str, str]],
    converted: Counter[str],
    bar: tqdm,
    workers: int,
) -> Iterator[Row]:
    """Decode every image, in a bounded window; list in ``quarantined`` those that cannot be.

    What the survey has counted of these is taken out of ``converted`` again.
    """

    def prepare(item: tuple[AnyImage, int, str]) -> Row | Left:
        image, label, source = item
        try:
            return _row(image, layout, label, source)
        except Unreadable as error:
            return Left(source, str(error), _changes(image, layout))

    items = iter(images)
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        # Pillow decodes outside the interpreter lock: that pays for large images, small ones take twice as long.
        each = pool.map if layout.encoding == "encoded" else map
        while chunk := list(itertools.islice(items, _CHUNK)):
            for result in each(prepare, chunk):
                if isinstance(result, Row):
                    yield result
                else:
                    log.warning("left out %s: %s", result.source, result.reason)
                    quarantined.append({"source": result.source, "reason": result.reason})
                    converted.subtract(result.changes)
            bar.update(len(chunk))


def _changes(image: AnyImage, layout: Layout) -> tuple[str, ...]:
    """What the survey has counted of an image that turned out to be unreadable."""
    try:
        header = read_header(image)
    except Unreadable:
        return ()
    return header.changes + (("grey",) if header.channels < layout.channels else ())


def _row(image: AnyImage, layout: Layout, label: int, source: str) -> Row:
    if layout.encoding == "raw":
        pixels = decode(image, layout.channels)
        stored = pixels.tobytes()
        same = pixels.shape == (layout.height, layout.width, layout.channels)
    else:
        stored, pixels = encode(image)
        same = pixels.shape[2] <= layout.channels
    if not same:
        raise Unreadable("the file has changed since its header was read")
    return Row(stored, label, source, *pixels.shape[:2])


def _write_split(path: Path, layout: Layout, rows: Iterator[Row]) -> Written:
    labels, digests = array.array("q"), bytearray()
    low, high = (math.inf, math.inf), (0, 0)
    with SplitWriter(path, layout) as writer:
        for row in rows:
            writer.add(row.image, row.label, row.source)
            labels.append(row.label)
            digests += hashlib.blake2b(row.image, digest_size=8).digest()
            low = min(low[0], row.height), min(low[1], row.width)
            high = max(high[0], row.height), max(high[1], row.width)
    return Written(path, np.array(labels, np.int64), np.frombuffer(digests, "<u8"), *zip(low, high))


def _transform_split(path: Path, layout: Layout, transform: str, seed: int, split: str) -> Written:
    """Replace the file of a split by its out-of-distribution variant."""
    reader, part = SplitReader(path), path.with_suffix(".part")
    variants = enumerate(transformed(reader, transform, seed, split))
    rows = (_row(pixels, layout, NO_LABEL, reader.source(row)) for row, pixels in variants)
    written = _write_split(part, layout, rows)
    os.replace(part, path)
    return replace(written, path=path)


def _check_written(classes: tuple[str, ...] | None, written: Mapping[str, Written]) -> None:
    """What was left out as unreadable must not have emptied a split or a class."""
    for split, facts in written.items():
        if not len(facts.labels):
            raise UserError(f"no image of split {split!r} can be read")
    if classes and "train" in written:
        counts = np.bincount(written["train"].labels, minlength=len(classes))
        if not counts.all():
            raise UserError(f"no image of class {classes[counts.argmin()]!r} in train can be read")
