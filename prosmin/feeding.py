"""Where the views of a training step come from: images that live on the device, or encoded ones that are decoded on the way.

Either is a pure function of (seed, epoch, step, rank), whatever the number of workers and wherever a run goes on.
Letters in shapes: B images a step in this process, C channels, S pixels a side.
"""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from prosmin.arrow import SplitReader
from prosmin.checkpoint import checksum
from prosmin.data import read_manifest
from prosmin.errors import UserError
from prosmin.images import decode
from prosmin.streams import crop_boxes, finish_views, make_views
from prosmin.views import ViewSettings

REDUCTIONS = (8, 4, 2)  # by which a JPEG can be decoded smaller, from its lower frequencies alone
AHEAD = 2  # batches that each worker prepares while the network is at work


class Feed(Protocol):
    def __len__(self) -> int: ...

    def facts(self) -> Any:
        """What identifies the images, as JSON."""

    def to(self, device: torch.device) -> None:
        """Where the views are wanted."""

    def views(
        self, rows: Tensor, settings: Sequence[ViewSettings], seed: int, epoch: int, first: int, rank: int
    ) -> Iterator[list[Tensor]]:
        """For each row of ``rows`` [steps, B], indices of images, the views of a step: float [B, C, S, S] each, on the device. first: the step
        in the epoch that the first row is of."""


class Resident:
    """uint8 images [N, C, H, W] that live on the device."""

    def __init__(self, images: Tensor):
        self.images = images
        self._facts: Any = None

    def __len__(self) -> int:
        return len(self.images)

    def facts(self) -> Any:
        if self._facts is None:
            self._facts = [list(self.images.shape), checksum(self.images.cpu())]
        return self._facts

    def to(self, device: torch.device) -> None:
        self.images = self.images.to(device)

    def views(
        self, rows: Tensor, settings: Sequence[ViewSettings], seed: int, epoch: int, first: int, rank: int
    ) -> Iterator[list[Tensor]]:
        for step, chosen in enumerate(rows.to(self.images.device), first):
            yield make_views(self.images[chosen], settings, seed, epoch, step, rank)


class Streamed:
    """Images that stay encoded in the files of a dataset, of any size, in bounded memory.

    Crops are cut out of the whole image while it is decoded, at a reduced scale where that is enough for every crop, by ``workers``
    processes (0: in this one) that work ahead of the network.
    """

    def __init__(self, folder: str | Path, splits: Sequence[str], channels: int, workers: int = 0):
        self.folder, self.splits, self.channels, self.workers = Path(folder), tuple(splits), channels, workers
        manifest = read_manifest(self.folder)
        if manifest["encoding"] != "encoded":
            raise UserError(
                f"the images of {self.folder} are kept as pixels, small enough for the device; set pretrain.stream to false"
            )
        self._facts = [[split, manifest["splits"][split]["sha256"]] for split in self.splits]
        self.length = sum(manifest["splits"][split]["count"] for split in self.splits)
        self.device = torch.device("cpu")

    def __len__(self) -> int:
        return self.length

    def facts(self) -> Any:
        return self._facts

    def to(self, device: torch.device) -> None:
        self.device = device

    def views(
        self, rows: Tensor, settings: Sequence[ViewSettings], seed: int, epoch: int, first: int, rank: int
    ) -> Iterator[list[Tensor]]:
        steps = [(step, chosen.tolist()) for step, chosen in enumerate(rows, first)]
        crops = Crops(self.folder, self.splits, self.channels, settings, (seed, epoch, rank), steps)
        loader = DataLoader(
            crops,
            batch_size=None,
            num_workers=min(self.workers, len(steps)),
            prefetch_factor=AHEAD if self.workers else None,
            pin_memory=self.device.type == "cuda",
        )
        for (step, _), batch in zip(steps, loader, strict=True):
            moved = [each.to(self.device, non_blocking=True) for each in batch]
            yield finish_views(moved, settings, seed, epoch, step, rank)


class Crops(Dataset):
    """The crops of some steps, a step an item: uint8 [B, C, S, S] for each view. where: seed, epoch and rank."""

    def __init__(
        self,
        folder: Path,
        splits: Sequence[str],
        channels: int,
        settings: Sequence[ViewSettings],
        where: tuple[int, int, int],
        steps: list[tuple[int, list[int]]],
    ):
        self.paths = [folder / f"{split}.arrow" for split in splits]
        self.channels, self.settings, self.where, self.steps = channels, list(settings), where, steps
        self._readers: list[SplitReader] | None = None  # each process maps the files itself

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, place: int) -> list[Tensor]:
        step, rows = self.steps[place]
        seed, epoch, rank = self.where
        contents = [self.content(row) for row in rows]
        sizes = torch.tensor([upright_size(content) for content in contents], dtype=torch.float32)
        boxes, flips = crop_boxes(sizes[:, 0], sizes[:, 1], self.settings, seed, epoch, step, rank)
        shapes = [(len(rows), self.channels, each.size, each.size) for each in self.settings]
        crops = [torch.empty(shape, dtype=torch.uint8) for shape in shapes]
        for index, content in enumerate(contents):
            for view, crop in enumerate(cut(content, boxes[:, index], self.settings, self.channels)):
                crops[view][index] = crop.flip(-1) if flips[view, index] else crop
        return crops

    def content(self, row: int) -> bytes:
        if self._readers is None:
            self._readers = [SplitReader(path) for path in self.paths]
        for reader in self._readers:
            if row < len(reader):
                return reader.image(row).to_pybytes()
            row -= len(reader)
        raise IndexError("there is no such image")


def upright_size(content: bytes) -> tuple[int, int]:
    """Height and width of an encoded image, as its EXIF orientation turns it."""
    with Image.open(io.BytesIO(content)) as picture:
        width, height = picture.size
        return (width, height) if _orientation(picture) > 4 else (height, width)


def _orientation(picture: Image.Image) -> int:
    return picture.getexif().get(0x0112, 1)


def cut(content: bytes, boxes: Tensor, settings: Sequence[ViewSettings], channels: int) -> list[Tensor]:
    """A box of an encoded image for each view, resized with antialiasing: uint8 [C, S, S] each.

    boxes: [views, 4] top, left, height, width in pixels of the upright image. A JPEG is decoded at the least of its scales (1, 1/2, 1/4, 1/8)
    at which no box is smaller than its view. The edges of a box are rounded to whole pixels at that scale.
    """
    mode = "L" if channels == 1 else "RGB"
    with Image.open(io.BytesIO(content)) as picture:
        width, height = picture.size
        if _orientation(picture) != 1:
            pixels = decode(content)
            picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
            width, height = picture.size
        elif picture.format in ("JPEG", "MPO"):
            least = min(min(box[2:]) / each.size for box, each in zip(boxes.tolist(), settings, strict=True))
            factor = next((each for each in REDUCTIONS if least >= each), 1)
            picture.draft("L" if channels == 1 else None, (width // factor, height // factor))
        scale = torch.tensor([picture.size[1] / height, picture.size[0] / width])
        pixels = np.array(picture if picture.mode == mode else picture.convert(mode))
    image = torch.from_numpy(pixels).view(*pixels.shape[:2], -1).permute(2, 0, 1)[None]
    starts, ends = boxes[:, :2] * scale, (boxes[:, :2] + boxes[:, 2:]) * scale
    return [_resized(image, *edges, each) for *edges, each in zip(starts, ends, settings, strict=True)]


def _resized(image: Tensor, start: Tensor, end: Tensor, settings: ViewSettings) -> Tensor:
    """uint8 [1, C, H, W] -> [C, S, S], of the box from ``start`` to ``end``, each down and across."""
    (top, bottom), (left, right) = (
        (min(int(first), side - 1), max(int(first) + 1, int(last)))
        for first, last, side in zip(start.round(), end.round(), image.shape[2:], strict=True)
    )
    box = image[:, :, top:bottom, left:right]
    size = (settings.size,) * 2
    return F.interpolate(box, size=size, mode=settings.interpolation, antialias=True, align_corners=False)[0]
