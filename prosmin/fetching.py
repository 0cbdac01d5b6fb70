"""From a source to the files of a dataset: splits, checks, Arrow files and a manifest of what they hold."""

import array
import concurrent.futures
import hashlib
import itertools
import logging
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from prosmin.arrow import NO_LABEL, RAW_SIDE, SPLITS, Layout, SplitReader, SplitWriter
from prosmin.draws import generator
from prosmin.errors import ConfigError, UserError
from prosmin.images import AnyImage, Unreadable, decode, encode, read_header
from prosmin.manifest import Written, describe
from prosmin.sources import Images, Source
from prosmin.splits import balanced_subset, hold_out
from prosmin.transforms import transformed, transformed_layout

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
) -> dict[str, Any]:
    """Write ``<split>.arrow`` for every split into ``folder`` and return the manifest of what they hold.

    val_fraction, test_fraction: of the images of train, held out by class when the source lacks that split; with a
        test_fraction of 1 the images of a source without splits are all test images;
    limit: the most images of a split, as evenly from the classes as can be;
    max_unreadable: share of the images that may be left out because they cannot be decoded;
    transform: see ``prosmin.transforms``.

    Raise ``UserError`` for images that make no sensible dataset.
    """
    splits = divide(source, seed, val_fraction, test_fraction, limit or {})
    _check_classes(source.classes, splits)
    layout = _survey(splits, max_unreadable)
    total = sum(map(len, splits.values()))
    quarantined: list[dict[str, str]] = []
    with tqdm(total=total, unit=" images", disable=None) as bar:
        written = {
            split: _write_split(_file(folder, split), layout, _decoded(images, layout, quarantined, bar))
            for split, images in splits.items()
        }
    _check_unreadable(quarantined, total, max_unreadable)
    _check_written(source.classes, written)
    classes = source.classes
    if transform != "none":
        classes, layout = None, transformed_layout(layout, transform)
        written = {split: _transform_split(_file(folder, split), layout, transform, seed, split) for split in splits}
    return {**describe(layout, classes, written), "quarantined": quarantined}


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
            kept, held = hold_out(train.labels, fraction, generator(seed, split), split, source.classes)
            splits["train"], splits[split] = train.take(kept), train.take(held)
    for split, count in limit.items():
        if split not in splits:
            raise ConfigError(f"limit.{split}", count, f"there is no such split; there are: {', '.join(splits)}")
        if source.classes and count < len(source.classes):
            raise ConfigError(f"limit.{split}", count, f"must be at least the number of classes, {len(source.classes)}")
        rows = balanced_subset(splits[split].labels, count, generator(seed, f"limit.{split}"))
        splits[split] = splits[split].take(rows)
    return {split: splits[split] for split in SPLITS if split in splits}


def _check_classes(classes: tuple[str, ...] | None, splits: Mapping[str, Images]) -> None:
    if classes is None or "train" not in splits:
        return
    present = {split: set(images.labels.tolist()) for split, images in splits.items()}
    for split, found in present.items():
        if extra := sorted(found - present["train"]):
            raise UserError(f"{split} has images of class {classes[extra[0]]!r}, but train has none")
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


def _survey(splits: Mapping[str, Images], max_unreadable: float) -> Layout:
    """Choose the layout from the headers of all images; those without a readable one do not count."""
    unreadable: list[dict[str, str]] = []
    examples: dict[int, str] = {}
    counts: dict[int, int] = {}
    sizes: set[tuple[int, int]] = set()
    for images in splits.values():
        for image, _, source in images:
            try:
                header = read_header(image)
            except Unreadable as error:
                unreadable.append({"source": source, "reason": str(error)})
                continue
            examples.setdefault(header.channels, source)
            counts[header.channels] = counts.get(header.channels, 0) + 1
            if len(sizes) < 2:
                sizes.add((header.height, header.width))
    _check_unreadable(unreadable, sum(map(len, splits.values())), max_unreadable)
    if not counts:
        raise UserError("no image can be read")
    if len(counts) > 1:
        raise UserError(
            f"grey and RGB images are mixed: {counts[1]} grey (such as {examples[1]}), {counts[3]} RGB "
            f"(such as {examples[3]}); convert them to one kind"
        )
    (channels,) = counts
    height, width = sizes.pop()
    if sizes or max(height, width) > RAW_SIDE:
        return Layout("encoded", channels)
    return Layout("raw", channels, height, width)


# --- writing --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One image as it is stored; height and width in pixels."""

    image: bytes
    label: int
    source: str
    height: int
    width: int


def _decoded(images: Images, layout: Layout, quarantined: list[dict[str, str]], bar: tqdm) -> Iterator[Row]:
    """Decode every image, in a bounded window; list in ``quarantined`` those that cannot be."""

    def prepare(item: tuple[AnyImage, int, str]) -> Row | dict[str, str]:
        image, label, source = item
        try:
            return _row(image, layout, label, source)
        except Unreadable as error:
            return {"source": source, "reason": str(error)}

    items = iter(images)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        # Pillow decodes outside the interpreter lock: that pays for large images, small ones take twice as long.
        each = pool.map if layout.encoding == "encoded" else map
        while chunk := list(itertools.islice(items, _CHUNK)):
            for result in each(prepare, chunk):
                if isinstance(result, Row):
                    yield result
                else:
                    log.warning("left out %s: %s", result["source"], result["reason"])
                    quarantined.append(result)
            bar.update(len(chunk))


def _row(image: AnyImage, layout: Layout, label: int, source: str) -> Row:
    if layout.encoding == "raw":
        pixels = decode(image)
        stored = pixels.tobytes()
    else:
        stored, pixels = encode(image)
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
