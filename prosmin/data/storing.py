"""Images on their way into a dataset: headers surveyed and images decoded, in order, in parallel.

Large sets are handled by processes, because threads share an interpreter that keeps up with about
3600 images per second. Results come in the order of the images, whatever the number of workers.
"""

import concurrent.futures
import hashlib
import itertools
import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import TypeVar

from prosmin.data.arrow import Layout
from prosmin.data.picture import (
    AnyImage,
    Unreadable,
    decode,
    encode,
    read_header,
    shrink,
    to_jpeg,
)

LARGE = 20_000  # images from which processes pay for their start
_CHUNK = 64  # images per task
_AHEAD = 3  # tasks per worker that are under way or done

Item = tuple[AnyImage, int, str]
"""An image, its label and its source."""

Result = TypeVar("Result")


# --- headers --------------------------------------------------------------------------------------


@dataclass
class Survey:
    """Facts about images that need no decoding.

    channels: number of images by their channels.
    changes: number of images by the change that decoding makes.
    sizes: up to two different pairs of height and width in pixels.
    unreadable: source and reason of images without a readable header.
    identity: checksum of the images, or of the size and time of their files.
    """

    channels: Counter[int] = field(default_factory=Counter)
    changes: Counter[str] = field(default_factory=Counter)
    sizes: set[tuple[int, int]] = field(default_factory=set)
    unreadable: list[dict[str, str]] = field(default_factory=list)
    identity: str = ""

    def add(self, other: "Survey") -> None:
        """Add the facts about the images that follow."""
        self.channels += other.channels
        self.changes += other.changes
        self.sizes = set(itertools.islice(self.sizes | other.sizes, 2))
        self.unreadable += other.unreadable
        self.identity = hashlib.sha256((self.identity + other.identity).encode()).hexdigest()


def survey(chunk: list[Item]) -> Survey:
    """Read the headers of some images."""
    seen, digest = Survey(), hashlib.sha256()
    for image, label, source in chunk:
        digest.update(f"{source}\0{label}\0{_version(image)}\0".encode())
        try:
            header = read_header(image)
        except Unreadable as error:
            seen.unreadable.append({"source": source, "reason": str(error)})
            continue
        seen.channels[header.channels] += 1
        seen.changes.update(header.changes)
        if len(seen.sizes) < 2:
            seen.sizes.add((header.height, header.width))
    seen.identity = digest.hexdigest()
    return seen


def _version(image: AnyImage) -> str:
    """Text that changes with an image; of a file, its size and time."""
    if isinstance(image, Path):
        try:
            facts = os.stat(image)
        except OSError:
            return ""
        return f"{facts.st_size} {facts.st_mtime_ns}"
    return hashlib.blake2b(image).hexdigest() if isinstance(image, bytes) else ""


# --- images ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One image as it is stored.

    height, width: in pixels. digest: checksum of the stored bytes. shrunk: whether it was resized.
    """

    image: bytes
    label: int
    source: str
    height: int
    width: int
    digest: bytes
    shrunk: bool = False


@dataclass(frozen=True)
class Omitted:
    """One image that cannot be stored. changes: as in ``prosmin.data.picture.Header``."""

    source: str
    reason: str
    changes: tuple[str, ...]


def rows_of(
    chunk: list[Item], layout: Layout, short_side: int | None = None
) -> list[Row | Omitted]:
    """Decode some images in full, long before training, and give the bytes to store of each.

    short_side: larger images are resized to it, in pixels, and stored as JPEG.
    """
    results: list[Row | Omitted] = []
    for image, label, source in chunk:
        try:
            results.append(to_row(image, layout, label, source, short_side))
        except Unreadable as error:
            results.append(Omitted(source, str(error), _surveyed_changes(image, layout)))
    return results


def to_row(
    image: AnyImage, layout: Layout, label: int, source: str, short_side: int | None = None
) -> Row:
    """Decode one image; see ``rows_of``. Raises ``Unreadable``."""
    shrunk = False
    if layout.encoding == "raw":
        pixels = decode(image, layout.channels)
        stored = pixels.tobytes()
        same = pixels.shape == layout.shape
    else:
        stored, pixels = encode(image)
        same = pixels.shape[2] <= layout.channels
        if shrunk := short_side is not None and min(pixels.shape[:2]) > short_side:
            pixels = shrink(pixels, short_side)
            stored = to_jpeg(pixels)
    if not same:
        raise Unreadable("the file has changed since its header was read")
    height, width = pixels.shape[:2]
    digest = hashlib.blake2b(stored, digest_size=8).digest()
    return Row(stored, label, source, height, width, digest, shrunk)


def _surveyed_changes(image: AnyImage, layout: Layout) -> tuple[str, ...]:
    """Return the changes that ``survey`` has counted for an image."""
    try:
        header = read_header(image)
    except Unreadable:
        return ()
    return header.changes + (("grey",) if header.channels < layout.channels else ())


def _light_rows(chunk: list[Item], layout: Layout, short_side: int | None) -> list[Row | Omitted]:
    """As ``rows_of``, without bytes that the receiver has: a process sends nothing back twice."""
    return [
        replace(row, image=b"") if isinstance(row, Row) and row.image is item[0] else row
        for item, row in zip(chunk, rows_of(chunk, layout, short_side), strict=True)
    ]


# --- workers --------------------------------------------------------------------------------------


class Workers:
    """Processes for a large set, threads for a small one; use it in a ``with`` block.

    count: of workers. images: size of the set.
    """

    def __init__(self, count: int, images: int):
        self.count = count
        self.processes = count > 1 and images >= LARGE
        self._pool: concurrent.futures.Executor
        if self.processes:
            self._pool = concurrent.futures.ProcessPoolExecutor(
                count, multiprocessing.get_context("spawn"), _end_with_parent
            )
        else:
            self._pool = concurrent.futures.ThreadPoolExecutor(count)

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def surveys(self, items: Iterable[Item]) -> Iterator[tuple[int, Survey]]:
        """Yield the facts about some images at a time, and the number of these images."""
        # Threads do not pay: opening a file holds the interpreter.
        for chunk, facts in self._map(survey, items, self.processes):
            yield len(chunk), facts

    def rows(
        self, items: Iterable[Item], layout: Layout, short_side: int | None
    ) -> Iterator[Row | Omitted]:
        """Yield every image as it is stored, or the reason why it is not."""
        if not self.processes:
            # Pillow decodes outside the interpreter lock. Threads pay for large images; small
            # images take twice as long in threads.
            task = partial(rows_of, layout=layout, short_side=short_side)
            for _, results in self._map(task, items, layout.encoding == "encoded"):
                yield from results
            return
        task = partial(_light_rows, layout=layout, short_side=short_side)
        for chunk, results in self._map(task, items, True):
            for (image, _, _), row in zip(chunk, results, strict=True):
                if isinstance(row, Row) and not row.image and isinstance(image, bytes):
                    row = replace(row, image=image)
                yield row

    def _map(
        self, task: Callable[[list[Item]], Result], items: Iterable[Item], parallel: bool
    ) -> Iterator[tuple[list[Item], Result]]:
        """Yield chunks of items and their results, in order, in bounded memory."""
        source = iter(items)
        chunks = iter(lambda: list(itertools.islice(source, _CHUNK)), [])
        if not parallel:
            for chunk in chunks:
                yield chunk, task(chunk)
            return
        waiting: deque[tuple[list[Item], concurrent.futures.Future[Result]]] = deque()
        for chunk in chunks:
            waiting.append((chunk, self._pool.submit(task, chunk)))
            if len(waiting) > self.count * _AHEAD:
                done, future = waiting.popleft()
                yield done, future.result()
        for done, future in waiting:
            yield done, future.result()


def _end_with_parent() -> None:
    """Let the parent alone handle Ctrl-C, and end this process when the parent is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
