"""A split on its way to the disk: shards, each of them whole or absent, and what they hold.

A shard that is complete has a note beside it, so that a run that was killed goes on behind it.
"""

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prosmin.common.errors import UserError
from prosmin.common.files import read_arrays, read_json, write_arrays, write_json
from prosmin.data.arrow import SHARD_BYTES, Layout, SplitWriter, shard_name
from prosmin.data.storing import Omitted, Row

NO_SIZE = (2**31, 0)  # lowest and highest side of no images
_ROW_BYTES = 64  # of a row in a file beside its image and source, at most
_BATCHES = 2**20  # bytes of a file beside its rows, at most


@dataclass
class Shard:
    """The content of one file.

    path: of the file.
    end: number of images of the split, from its first, that this shard and those before it have
        dealt with.
    omitted: source and reason of each unreadable image.
    converted: number of images by the change that storing has made or, below 0, has not made.
    height, width: lowest and highest, in pixels; ``NO_SIZE`` without images.
    sha256, bytes: of the file.
    labels: int64 [N]. digests: uint64 [N], checksums of the stored bytes.
    places: int64 [N], of the images in the split.
    """

    path: Path
    end: int = 0
    omitted: list[dict[str, str]] = field(default_factory=list)
    converted: Counter[str] = field(default_factory=Counter)
    height: tuple[int, int] = NO_SIZE
    width: tuple[int, int] = NO_SIZE
    sha256: str = ""
    bytes: int = 0
    labels: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    digests: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    places: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))


_ARRAYS = ("labels", "digests", "places")
_FACTS = ("end", "omitted", "converted", "height", "width", "sha256", "bytes")


class _Open:
    """A shard that is being written into ``<name>.part``."""

    def __init__(self, path: Path, layout: Layout, start: int):
        self.shard = Shard(path, end=start)
        self.part = path.with_suffix(".part")
        self.writer = SplitWriter(self.part, layout)
        self.size = _BATCHES
        self.labels: list[int] = []
        self.places: list[int] = []
        self.digests = bytearray()

    def fits(self, row: Row) -> bool:
        return not self.labels or self.size + _cost(row) <= SHARD_BYTES

    def add(self, row: Row) -> None:
        shard = self.shard
        self.writer.add(row.image, row.label, row.source)
        self.size += _cost(row)
        self.labels.append(row.label)
        self.places.append(shard.end)
        self.digests += row.digest
        shard.height = min(shard.height[0], row.height), max(shard.height[1], row.height)
        shard.width = min(shard.width[0], row.width), max(shard.width[1], row.width)
        if row.shrunk:
            shard.converted["shrunk"] += 1
        shard.end += 1

    def leave_out(self, image: Omitted) -> None:
        self.shard.omitted.append({"source": image.source, "reason": image.reason})
        self.shard.converted.subtract(image.changes)
        self.shard.end += 1

    def close(self, note: bool) -> Shard:
        """Finish the file. note: whether a later run may go on behind it."""
        shard = self.shard
        self.writer.close()
        shard.labels = np.array(self.labels, np.int64)
        shard.places = np.array(self.places, np.int64)
        shard.digests = np.frombuffer(self.digests, "<u8")
        with open(self.part, "rb") as handle:
            shard.sha256 = hashlib.file_digest(handle, "sha256").hexdigest()
            shard.bytes = os.fstat(handle.fileno()).st_size
            if note:
                os.fsync(handle.fileno())
        os.replace(self.part, shard.path)
        if note:
            arrays = {name: getattr(shard, name) for name in _ARRAYS}
            write_arrays(shard.path.with_suffix(".safetensors"), arrays)
            facts = {name: getattr(shard, name) for name in _FACTS}
            # Last, because a shard counts once it has this file.
            write_json(shard.path.with_suffix(".json"), facts)
        return shard


def _cost(row: Row) -> int:
    return len(row.image) + len(row.source.encode()) + _ROW_BYTES


def write_shards(
    folder: Path,
    split: str,
    layout: Layout,
    rows: Callable[[int], Iterator[Row | Omitted]],
    complete: list[Shard] | None = None,
) -> list[Shard]:
    """Write a split into ``folder``, behind the shards that are complete.

    rows: gives the images from a place on.
    complete: as ``read_complete`` returns them. None: no later run will go on with the shards.

    Returns: all shards, at least one; ``name_shards`` gives their files their names.
    """
    shards, note = list(complete or ()), complete is not None
    start = shards[-1].end if shards else 0
    current: _Open | None = None
    try:
        for row in rows(start):
            if current is not None and isinstance(row, Row) and not current.fits(row):
                start = current.shard.end
                shards.append(current.close(note))
                current = None
            if current is None:
                current = _Open(_unnamed(folder, split, len(shards)), layout, start)
            if isinstance(row, Row):
                current.add(row)
            else:
                current.leave_out(row)
    except BaseException:
        if current is not None:
            current.writer.abandon()
        raise
    if current is None and not shards:
        current = _Open(_unnamed(folder, split, 0), layout, 0)
    if current is not None:
        shards.append(current.close(note))
    return shards


def _unnamed(folder: Path, split: str, place: int) -> Path:
    return folder / f"{split}-{place:05d}.shard"


def read_complete(folder: Path, split: str) -> list[Shard]:
    """Read the shards of a split that an earlier run has completed, up to the first that lacks.

    A shard whose file has another length than its note says does not count.
    """
    shards: list[Shard] = []
    while True:
        path = _unnamed(folder, split, len(shards))
        try:
            facts: dict[str, Any] = read_json(path.with_suffix(".json"))
            if path.stat().st_size != facts["bytes"]:
                return shards
            arrays: dict[str, Any] = dict(read_arrays(path.with_suffix(".safetensors")))
        except (OSError, UserError):
            return shards
        facts |= {name: tuple(facts[name]) for name in ("height", "width")}
        facts["converted"] = Counter(facts["converted"])
        shards.append(Shard(path, **facts, **arrays))


def name_shards(shards: list[Shard], folder: Path, split: str) -> None:
    """Move the files of a split into ``folder``, under the names of a dataset."""
    for place, shard in enumerate(shards):
        target = folder / shard_name(split, place, len(shards))
        shutil.move(shard.path, target)
        shard.path = target


def begin(folder: Path, key: str) -> None:
    """Make ``folder`` ready for the shards of a dataset; those with another key are removed."""
    note = folder / "key.json"
    try:
        if read_json(note) == key:
            return
    except (OSError, UserError):
        pass
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_json(note, key)


def key_of(**facts: Any) -> str:
    """A checksum of everything that decides the shards."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
