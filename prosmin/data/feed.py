"""Feeds: where the views of a training step come from.

``Resident`` holds small images on the device. ``Streamed`` leaves images encoded in the files of a
dataset and decodes them during training. Views of both are a pure function of (seed, epoch, step,
rank), whatever the number of workers and wherever a run resumes.

Letters in shapes: B images per step in this process, C channels, H height, W width, S pixels a side
of a view, V views.
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
from prosmin.data.dataset import checksum, read_manifest
from prosmin.data.picture import decode, open_picture, orientation, upright_size
from prosmin.data.tensors import decode_jpeg
from prosmin.models import light_imports
from prosmin.views.make import crop_boxes, finish_views, make_views
from prosmin.views.settings import ViewSettings

REDUCTIONS = (8, 4, 2)  # factors by which a JPEG can be decoded smaller, from its low frequencies
AHEAD = 2  # batches that each worker prepares while the network is at work


class Feed(Protocol):
    """Images, and the views that training makes of them."""

    def __len__(self) -> int: ...

    def facts(self) -> Any:
        """Return JSON that identifies the images."""

    def to(self, device: torch.device) -> None:
        """Choose the device on which the views are wanted."""

    def views(
        self,
        rows: Tensor,
        settings: Sequence[ViewSettings],
        seed: int,
        epoch: int,
        first: int,
        rank: int,
    ) -> Iterator[list[Tensor]]:
        """Yield the views of each step, float [B, C, S, S] per view, on the device.

        rows: row numbers of images, [steps, B].
        first: number of the first of these steps in the epoch.
        """


class Resident:
    """Images that live on the device.

    images: uint8 [N, C, H, W].
    """

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

    def batches(self, rows: np.ndarray, size: int) -> Iterator[Tensor]:
        """Yield the images of ``rows`` [n] without augmentation, uint8 [B, C, H, W]."""
        for part in torch.split(torch.from_numpy(rows), size):
            first, last = int(part[0]), int(part[-1])
            run = bool((part.diff() == 1).all())  # of which nothing is copied
            yield self.images[first : last + 1] if run else self.images[part]


class Streamed:
    """Images of any size that stay encoded in the files of a dataset, in bounded memory.

    Worker processes cut the crops out of the whole image while they decode it, and work ahead of
    the network. They decode at a reduced scale where that is enough for every crop.

    folder: of the dataset. splits: whose images are read. channels: of the views, 1 or 3.
    workers: number of processes; 0 decodes in this process.

    Raises ``UserError`` where the dataset keeps its images as pixels.
    """

    def __init__(self, folder: str | Path, splits: Sequence[str], channels: int, workers: int = 0):
        self.folder, self.splits = Path(folder), tuple(splits)
        self.channels, self.workers = channels, workers
        manifest = read_manifest(self.folder)
        if manifest["encoding"] != "encoded":
            raise UserError(
                f"the images of {self.folder} are kept as pixels, small enough for the device; "
                "set pretrain.stream to false"
            )
        self._facts = [[split, manifest["splits"][split]["sha256"]] for split in self.splits]
        self.length: int = sum(manifest["splits"][split]["count"] for split in self.splits)
        self.device = torch.device("cpu")
        light_imports.torchvision_io()  # here, so that no worker has to load it

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
            moved = [crop.to(self.device, non_blocking=True) for crop in batch]
            yield finish_views(moved, settings, seed, epoch, step, rank)


class Crops(Dataset[list[Tensor]]):
    """The crops of some steps; an item holds one step: per view, uint8 [B, C, S, S], channels last.

    where: seed, epoch and rank.
    steps: number of the step, and the row numbers of its images.
    """

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
        self.channels, self.settings = channels, list(settings)
        self.where, self.steps = where, steps
        self._readers: list[SplitReader] | None = None  # every process maps the files itself

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, place: int) -> list[Tensor]:
        step, rows = self.steps[place]
        seed, epoch, rank = self.where
        images = [Encoded(self.content(row)) for row in rows]
        sizes = torch.tensor([image.size for image in images], dtype=torch.float32)
        boxes, flips = crop_boxes(sizes[:, 0], sizes[:, 1], self.settings, seed, epoch, step, rank)
        # Channels last, because resampling returns crops in this order.
        batch = [
            _empty((len(rows), view.size, view.size, self.channels)).permute(0, 3, 1, 2)
            for view in self.settings
        ]
        for index, (image, image_boxes, flipped) in enumerate(
            zip(images, boxes.transpose(0, 1), flips.T.tolist(), strict=True)
        ):
            for view, crop in enumerate(image.cut(image_boxes, self.settings, self.channels)):
                batch[view][index] = crop.flip(-1) if flipped[view] else crop
        return batch

    def content(self, row: int) -> bytes:
        """Return the encoded image of a row, counted over all splits."""
        if self._readers is None:
            self._readers = [SplitReader(path) for path in self.paths]
        for reader in self._readers:
            if row < len(reader):
                content: bytes = reader.image(row).to_pybytes()
                return content
            row -= len(reader)
        raise IndexError("there is no such image")


def _empty(shape: tuple[int, ...]) -> Tensor:
    """Allocate uint8 of this shape; in a worker, in memory that it shares with the main process.

    Without shared memory every batch would be copied on its way to the main process.
    """
    if get_worker_info() is None:
        return torch.empty(shape, dtype=torch.uint8)
    size = math.prod(shape)
    storage = torch.UntypedStorage._new_shared(size)  # type: ignore[no-untyped-call]  # no public name
    return torch.empty(0, dtype=torch.uint8).set_(storage, 0, shape, _strides(shape))


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[place + 1 :]) for place in range(len(shape)))


class Encoded:
    """An encoded image whose header alone has been read.

    size: height and width in pixels, upright, as its EXIF orientation says.
    """

    def __init__(self, content: bytes):
        self.content, self.picture = content, open_picture(content)
        self.size = upright_size(self.picture)
        self.upright = orientation(self.picture) == 1

    def cut(self, boxes: Tensor, settings: Sequence[ViewSettings], channels: int) -> list[Tensor]:
        """Cut one box per view and resize it with antialiasing.

        A JPEG is decoded at the smallest of its scales (1, 1/2, 1/4, 1/8) at which no box is
        smaller than its view. The edges of a box are rounded to whole pixels at that scale.

        boxes: [V, 4] top, left, height, width in pixels of the upright image.

        Returns: per view, uint8 [C, S, S].
        """
        drawn = boxes.tolist()
        spare = min(min(box[2:]) / view.size for box, view in zip(drawn, settings, strict=True))
        image = self.pixels(channels, spare)
        down, across = (now / whole for now, whole in zip(image.shape[2:], self.size, strict=True))
        crops = []
        for (top, left, height, width), view in zip(drawn, settings, strict=True):
            rows = _pixel_range(top * down, (top + height) * down, image.shape[2])
            columns = _pixel_range(left * across, (left + width) * across, image.shape[3])
            # Resampling takes two thirds of the time where its input is contiguous.
            box = image[:, :, rows, columns].contiguous(memory_format=torch.channels_last)
            crop = F.interpolate(
                box,
                size=(view.size, view.size),
                mode=view.interpolation,
                antialias=True,
                align_corners=False,
            )
            crops.append(crop[0])
        return crops

    def pixels(self, channels: int, spare: float) -> Tensor:
        """Decode the image upright, a JPEG at its smallest scale that is at least 1 / ``spare``.

        Returns: uint8 [1, C, H, W].
        """
        jpeg = self.picture.format in ("JPEG", "MPO")
        factor = next((factor for factor in REDUCTIONS if jpeg and spare >= factor), 1)
        picture: Image.Image = self.picture
        if not self.upright:
            pixels = decode(self.content)
            picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        elif jpeg and factor == 1 and channels == 3 and picture.mode == "RGB":
            # The same pixels as from Pillow, in two thirds of its time.
            return decode_jpeg(self.content)[None]
        elif jpeg:
            size = self.size[1] // factor, self.size[0] // factor
            picture.draft("L" if channels == 1 else None, size)
        mode = "L" if channels == 1 else "RGB"
        pixels = np.array(picture if picture.mode == mode else picture.convert(mode))
        return torch.from_numpy(pixels).view(*pixels.shape[:2], -1).permute(2, 0, 1)[None]


def _pixel_range(start: float, end: float, side: int) -> slice:
    """Round a stretch of a line to whole pixels, at least one."""
    first = round(start)
    return slice(min(first, side - 1), max(first + 1, round(end)))
