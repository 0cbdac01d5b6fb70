"""Write a source as a dataset: Arrow files by split, and a manifest of their contents."""

import logging
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prosmin.common.errors import UserError
from prosmin.common.files import write_arrays
from prosmin.common.progress import Progress
from prosmin.data.arrow import HUMAN_LABELS, NO_LABEL, RAW_SIDE, Layout, SplitReader
from prosmin.data.shards import Shard, begin, key_of, name_shards, read_complete, write_shards
from prosmin.data.storing import LARGE, Omitted, Row, Survey, Workers, to_row
from prosmin.fetching.listing import by_ending, escape_unprintable
from prosmin.fetching.manifest import EXAMPLES, Written, describe
from prosmin.fetching.sources import Images, Source
from prosmin.fetching.splits import check_classes, check_human_labels, divide
from prosmin.fetching.variants import transformed, transformed_layout
from prosmin.training import fingerprint

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
    short_side: int | None = None,
    human_labels: NDArray[np.float32] | None = None,
    workers: int = 1,
    keep: Path | None = None,
) -> dict[str, Any]:
    """Write the files of every split into ``folder``.

    val_fraction, test_fraction, limit: as for ``prosmin.fetching.splits.divide``.
    max_unreadable: share of the images that may be left out because they cannot be decoded.
    transform: as for ``prosmin.fetching.variants.transformed``; ``none`` writes the images.
    short_side: larger images are resized to it, in pixels, and stored as JPEG; None keeps them.
    human_labels: share of people that chose each class, [M, C], by the rows of the split of the
        source that the test images are from. They are written beside the test images, row by row.
    workers: number of images decoded at a time.
    keep: folder for the finished shards of a large set until all of it is written; a later call
        with the same images and arguments goes on behind them.

    Returns: the manifest.
    Raises ``UserError`` for images that make no sensible dataset.
    """
    splits = divide(source, seed, val_fraction, test_fraction, limit or {})
    check_classes(source.classes, splits)
    if human_labels is not None:
        check_human_labels(human_labels, source, splits, transform)
    total = sum(map(len, splits.values()))
    written: dict[str, Written] = {}
    with Workers(workers, total) as pool:
        layout, converted, identity = _survey(splits, max_unreadable, pool)
        decisive = {"short_side": short_side, "layout": asdict(layout), "images": identity}
        decisive["counts"] = {split: len(images) for split, images in splits.items()}
        place = _place(folder, keep, total, decisive)
        complete = {split: read_complete(place, split) for split in splits if place != folder}
        done = sum(shards[-1].end for shards in complete.values() if shards)
        if done:
            log.info(
                "goes on behind the first %d of %d images, which an earlier run wrote", done, total
            )
        with Progress("images", total, done) as progress:
            for split, images in splits.items():

                def rows(start: int, images: Images = images) -> Iterator[Row | Omitted]:
                    rest = images.take(np.arange(start, len(images))) if start else images
                    for row in pool.rows(rest, layout, short_side):
                        if isinstance(row, Omitted):
                            log.warning("left out %s: %s", row.source, row.reason)
                        progress.add(1)
                        yield row

                shards = write_shards(place, split, layout, rows, complete.get(split))
                written[split] = _written(folder, split, shards)
    parts = [shard for facts in written.values() for shard in facts.shards]
    quarantined = [image for shard in parts for image in shard.omitted]
    for shard in parts:
        converted.update(shard.converted)
    _check_unreadable(quarantined, total, max_unreadable)
    _check_written(source.classes, written)
    for split, facts in written.items():
        name_shards(facts.shards, folder, split)
    if place != folder:
        shutil.rmtree(place, ignore_errors=True)
    classes = source.classes
    if transform != "none":
        classes, layout = None, transformed_layout(layout, transform)
        written = {
            split: _transform_split(folder, split, facts.shards, layout, transform, seed)
            for split, facts in written.items()
        }
    people = {}
    if human_labels is not None:
        kept = np.concatenate([shard.places for shard in written["test"].shards])
        shares = human_labels[splits["test"].rows[kept]]
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


def cautions(source: Source, test_fraction: float) -> list[str]:
    """Return sentences about possible mistakes, before anything is written."""
    notes = list(source.notes)
    if {"train", "val"} == set(source.splits) and test_fraction > 0:
        notes.append(
            f"there is no test split, so {test_fraction:g} of train is held out as one, though "
            "there is a val split: if that is the test set (as for ImageNet), say so under splits "
            "or files ({train: …, test: …})"
        )
    if "test" not in source.splits and not ("train" in source.splits and test_fraction > 0):
        notes.append(
            "there are no test images, which all evaluations need, also those without labels: "
            "set test_fraction above 0, or name them under splits or files"
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


def _survey(
    splits: Mapping[str, Images], max_unreadable: float, pool: Workers
) -> tuple[Layout, Counter[str], str]:
    """Read the headers of all images.

    If one image is RGB, all images become RGB. Images without a readable header do not count.

    Returns: the layout of the files, the number of images by the change that decoding makes, and a
        checksum of the images or their files.
    """
    seen, total = Survey(), sum(map(len, splits.values()))
    with Progress("headers", total) as progress:
        for images in splits.values():
            for count, facts in pool.surveys(images):
                seen.add(facts)
                progress.add(count)
    _check_unreadable(seen.unreadable, total, max_unreadable)
    if not seen.channels:
        raise UserError("no image can be read")
    channels, converted = max(seen.channels), seen.changes
    if len(seen.channels) > 1:
        converted["grey"] = seen.channels[1]
    height, width = max(seen.sizes)
    if len(seen.sizes) > 1 or max(height, width) > RAW_SIDE:
        return Layout("encoded", channels), converted, seen.identity
    return Layout("raw", channels, height, width), converted, seen.identity


# --- writing --------------------------------------------------------------------------------------


def _place(folder: Path, keep: Path | None, total: int, decisive: dict[str, Any]) -> Path:
    """Return the folder in which shards are written.

    Those of a large set are kept in ``keep``, so that a later run goes on after a kill.

    decisive: all that decides the shards, beside the code.
    """
    if keep is None or total < LARGE:
        return folder
    begin(keep, key_of(**decisive, code=fingerprint.code(__name__)))
    return keep


def _written(folder: Path, split: str, shards: list[Shard]) -> Written:
    return Written(
        folder / f"{split}.arrow",
        np.concatenate([shard.labels for shard in shards]),
        np.concatenate([shard.digests for shard in shards]),
        height=_ends([shard.height for shard in shards]),
        width=_ends([shard.width for shard in shards]),
        shards=shards,
    )


def _ends(sizes: list[tuple[int, int]]) -> tuple[int, int]:
    return min(low for low, _ in sizes), max(high for _, high in sizes)


def _transform_split(
    folder: Path, split: str, shards: list[Shard], layout: Layout, transform: str, seed: int
) -> Written:
    """Replace the files of a split by its out-of-distribution variant."""
    reader = SplitReader(folder / f"{split}.arrow")

    def rows(start: int) -> Iterator[Row]:
        for row, pixels in enumerate(transformed(reader, transform, seed, split)):
            yield to_row(pixels, layout, NO_LABEL, reader.source(row))

    changed = write_shards(folder, split, layout, rows)
    for shard in shards:
        shard.path.unlink()  # the reader still maps it
    name_shards(changed, folder, split)
    return _written(folder, split, changed)


def _check_written(classes: tuple[str, ...] | None, written: Mapping[str, Written]) -> None:
    """Raise ``UserError`` where no image of a split, or of a class in train, could be read."""
    for split, facts in written.items():
        if not len(facts.labels):
            raise UserError(f"no image of split {split!r} can be read")
    if classes and "train" in written:
        counts = np.bincount(written["train"].labels, minlength=len(classes))
        if not counts.all():
            raise UserError(f"no image of class {classes[counts.argmin()]!r} in train can be read")
