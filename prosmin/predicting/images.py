"""Find image files, and read them in batches while others are computed."""

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from prosmin.common.errors import UserError
from prosmin.data.picture import Unreadable
from prosmin.fetching.listing import by_ending, counted, files_below, is_image

AHEAD = 2  # batches that are read ahead


@dataclass(frozen=True)
class Batch:
    """Some files.

    names: of all files, in their order.
    images: uint8 [B, channels, S, S], of the files that could be read; None where there are none.
    faults: the reasons by place in ``names``, of the files that could not be read.
    """

    names: Sequence[str]
    images: Tensor | None
    faults: dict[int, str]


def find(folder: str | Path) -> tuple[Path, list[str]]:
    """Find the images in a folder and below it.

    A file stands for itself. Returns the folder, and the paths of the images below it, sorted.
    Raises ``UserError`` where there is no such folder, or no image in it.
    """
    folder = Path(folder).expanduser()
    if folder.is_file():
        return folder.parent, [folder.name]
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder of images: it does not exist")
    names = list(files_below(folder))
    images = sorted(name for name in names if is_image(name))
    if not images:
        holds = counted(by_ending(names)) or "no files"
        raise UserError(f"{folder} holds no images, but {holds}")
    return folder, images


def batches(
    folder: Path,
    names: Sequence[str],
    read: Callable[[Path], Tensor],
    size: int,
    workers: int | None = None,
) -> Iterator[Batch]:
    """Read files in threads, in order, at most ``AHEAD`` batches ahead: memory stays bounded.

    Decoding runs outside the interpreter lock.

    read: gives uint8 [channels, S, S] of a file; raises ``Unreadable``.
    size: files of a batch.
    workers: threads; None: one per core.
    """

    def attempt(name: str) -> Tensor | str:
        try:
            return read(folder / name)
        except Unreadable as error:
            return str(error)

    waiting = iter(names)
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        try:
            pending = deque(pool.submit(attempt, name) for name in itertools.islice(waiting, size))
            for start in range(0, len(names), size):
                more = itertools.islice(waiting, (AHEAD + 1) * size - len(pending))
                pending.extend(pool.submit(attempt, name) for name in more)
                some = names[start : start + size]
                yield _batch(some, [pending.popleft().result() for _ in some])
        finally:
            pool.shutdown(cancel_futures=True)


def _batch(names: Sequence[str], results: Sequence[Tensor | str]) -> Batch:
    images = [result for result in results if isinstance(result, Tensor)]
    faults = {place: result for place, result in enumerate(results) if isinstance(result, str)}
    return Batch(names, torch.stack(images) if images else None, faults)
