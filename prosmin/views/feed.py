"""Where the views of a training step come from: images that live on the device, or encoded ones that are decoded on the way.

Either is a pure function of (seed, epoch, step, rank), whatever the number of workers and wherever a run goes on.
Letters in shapes: B images a step in this process, C channels, S pixels a side.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from prosmin.common.errors import UserError
from prosmin.data.arrow import SplitReader
from prosmin.data.dataset import read_manifest
from prosmin.data.picture import decode, open_picture, orientation, upright_size
from prosmin.models import light_imports
from prosmin.training.checkpoint import checksum
from prosmin.views.settings import ViewSettings
from prosmin.views.streams import crop_boxes, finish_views, make_views

REDUCTIONS = (8, 4, 2)  # by which a JPEG can be decoded smaller, from its lower frequencies alone
AHEAD = 2  # batches that each worker prepares while the network is at work


class Feed(Protocol):
    def __len__(self) -> int: ...

    def facts(self) -> Any:
        """What identifies the images, as JSON."""

    def to(self, device: torch.device) -> None:
        """Where the views are wanted."""

    def views(
        self,
        rows: Tensor,
        settings: Sequence[ViewSettings],
        seed: int,
        epoch: int,
        first: int,
        rank: int,
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
        self,
        rows: Tensor,
        settings: Sequence[ViewSettings],
        seed: int,
        epoch: int,
        first: int,
        rank: int,
    ) -> Iterator[list[Tensor]]:
        for step, chosen in enumerate(rows.to(self.images.device), first):
            yield make_views(self.images[chosen], settings, seed, epoch, step, rank)


class Streamed:
    """Images that stay encoded in the files of a dataset, of any size, in bounded memory.

    Crops are cut out of the whole image while it is decoded, at a reduced scale where that is enough for every crop, by ``workers``
    processes (0: in this one) that work ahead of the network.
    """

    def __init__(self, folder: str | Path, splits: Sequence[str], channels: int, workers: int = 0):
        self.folder, self.splits, self.channels, self.workers = (
            Path(folder),
            tuple(splits),
            channels,
            workers,
        )
        manifest = read_manifest(self.folder)
        if manifest["encoding"] != "encoded":
            raise UserError(
                f"the images of {self.folder} are kept as pixels, small enough for the device; set pretrain.stream to false"
            )
        self._facts = [[split, manifest["splits"][split]["sha256"]] for split in self.splits]
        self.length = sum(manifest["splits"][split]["count"] for split in self.splits)
        self.device = torch.device("cpu")
        light_imports.torchvision_io()  # here, not in each worker

    def __len__(self) -> int:
        return self.length

    def facts(self) -> Any:
        return self._facts

    def to(self, device: torch.device) -> None:
        self.device = device

    def views(
        self,
        rows: Tensor,
        settings: Sequence[ViewSettings],
        seed: int,
        epoch: int,
        first: int,
        rank: int,
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
    """The crops of some steps, a step an item: uint8 [B, C, S, S] for each view, channels last in memory. where: seed, epoch and rank."""

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
        self.channels, self.settings, self.where, self.steps = (
            channels,
            list(settings),
            where,
            steps,
        )
        self._readers: list[SplitReader] | None = None  # each process maps the files itself

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, place: int) -> list[Tensor]:
        step, rows = self.steps[place]
        seed, epoch, rank = self.where
        images = [Encoded(self.content(row)) for row in rows]
        sizes = torch.tensor([image.size for image in images], dtype=torch.float32)
        boxes, flips = crop_boxes(sizes[:, 0], sizes[:, 1], self.settings, seed, epoch, step, rank)
        # Channels last, as resampling leaves them.
        crops = [
            _room((len(rows), each.size, each.size, self.channels)).permute(0, 3, 1, 2)
            for each in self.settings
        ]
        for index, (image, mine, flipped) in enumerate(
            zip(images, boxes.transpose(0, 1), flips.T.tolist(), strict=True)
        ):
            for view, crop in enumerate(image.cut(mine, self.settings, self.channels)):
                crops[view][index] = crop.flip(-1) if flipped[view] else crop
        return crops

    def content(self, row: int) -> bytes:
        if self._readers is None:
            self._readers = [SplitReader(path) for path in self.paths]
        for reader in self._readers:
            if row < len(reader):
                return reader.image(row).to_pybytes()
            row -= len(reader)
        raise IndexError("there is no such image")


def _room(shape: tuple[int, ...]) -> Tensor:
    """For uint8 of this shape: in a worker in memory that it shares with the main process, to which they would be copied otherwise."""
    if get_worker_info() is None:
        return torch.empty(shape, dtype=torch.uint8)
    return torch.empty(0, dtype=torch.uint8).set_(
        torch.UntypedStorage._new_shared(math.prod(shape)), 0, shape
    )


class Encoded:
    """An encoded image of which the header alone has been read. size: height and width, as its EXIF orientation turns it."""

    def __init__(self, content: bytes):
        self.content, self.picture = content, open_picture(content)
        self.size = upright_size(self.picture)
        self.upright = orientation(self.picture) == 1

    def cut(self, boxes: Tensor, settings: Sequence[ViewSettings], channels: int) -> list[Tensor]:
        """A box for each view, resized with antialiasing: uint8 [C, S, S] each.

        boxes: [views, 4] top, left, height, width in pixels of the upright image. A JPEG is decoded at the least of its scales (1, 1/2, 1/4,
        1/8) at which no box is smaller than its view. The edges of a box are rounded to whole pixels at that scale.
        """
        drawn = boxes.tolist()
        image = self.pixels(
            channels,
            min(min(box[2:]) / each.size for box, each in zip(drawn, settings, strict=True)),
        )
        down, across = (now / whole for now, whole in zip(image.shape[2:], self.size, strict=True))
        crops = []
        for (top, left, height, width), each in zip(drawn, settings, strict=True):
            rows = _edges(top * down, (top + height) * down, image.shape[2])
            columns = _edges(left * across, (left + width) * across, image.shape[3])
            # Resampling is half as fast again with what it reads in one piece.
            box = image[:, :, rows, columns].contiguous(memory_format=torch.channels_last)
            size = (each.size,) * 2
            crops.append(
                F.interpolate(
                    box, size=size, mode=each.interpolation, antialias=True, align_corners=False
                )[0]
            )
        return crops

    def pixels(self, channels: int, spare: float) -> Tensor:
        """uint8 [1, C, H, W], upright, of a JPEG at the least scale that is not below 1 / ``spare``."""
        jpeg = self.picture.format in ("JPEG", "MPO")
        factor = next((each for each in REDUCTIONS if jpeg and spare >= each), 1)
        picture = self.picture
        if not self.upright:
            pixels = decode(self.content)
            picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        elif jpeg and factor == 1 and channels == 3 and picture.mode == "RGB":
            content = torch.frombuffer(bytearray(self.content), dtype=torch.uint8)
            return light_imports.torchvision_io().decode_jpeg(content)[
                None
            ]  # as Pillow, in two thirds of its time
        elif jpeg:
            picture.draft(
                "L" if channels == 1 else None, (self.size[1] // factor, self.size[0] // factor)
            )
        mode = "L" if channels == 1 else "RGB"
        pixels = np.array(picture if picture.mode == mode else picture.convert(mode))
        return torch.from_numpy(pixels).view(*pixels.shape[:2], -1).permute(2, 0, 1)[None]


def _edges(start: float, end: float, side: int) -> slice:
    """Whole pixels of a line, one at least."""
    first = round(start)
    return slice(min(first, side - 1), max(first + 1, round(end)))
