"""Time two views per image, against torchvision and kornia: ``python -m benchmarks.speed.views``.

``--rounds``: number of rounds, 5 by default.

The recipe of SimCLR (crop, flip, jitter, grey, blur at 224 pixels) on photographs of 32 and of 256
pixels, the latter cropped to 224:

- torchvision: its PIL transforms, image by image, in a DataLoader with two workers that collates
  float batches, as in most training code
- kornia: its augmentations on the whole batch, random per image
- ours: ``prosmin.views.make.make_views`` on the whole batch, from uint8

All from the same images in memory to float batches, on two cores: torchvision with two workers of
one thread, the others with two threads. Needs torchvision; kornia (``pip install kornia``) is left
out where it is missing.
"""

import argparse
import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.record import record
from benchmarks.speed.turns import figures, in_turns
from prosmin.common.startup import keep_freed_memory
from prosmin.views.make import make_views
from prosmin.views.settings import ViewSettings

SIZES = {32: (32, 512, 8), 224: (256, 64, 4)}  # view: (side of the images, images a batch, batches)


def pictures(side: int, count: int) -> Tensor:
    """Cut uint8 [count, 3, side, side] out of scikit-learn's two photographs."""
    whole = [
        torch.from_numpy(image.copy()).permute(2, 0, 1) for image in load_sample_images().images
    ]
    step = 1 if side > 64 else 3
    crops = [
        photograph[:, top::step, left::step][:, :side, :side]
        for photograph in whole
        for top in range(0, 160, 10)
        for left in range(0, 300, 20)
    ]
    return torch.stack([crops[place % len(crops)] for place in range(count)])


class Pairs(Dataset):
    """Two views of each image by torchvision's PIL transforms."""

    def __init__(self, images: Tensor, settings: ViewSettings):
        self.images = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
        jitter = transforms.ColorJitter(
            settings.brightness, settings.contrast, settings.saturation, settings.hue
        )
        steps = [
            transforms.RandomResizedCrop(settings.size, settings.scale, settings.ratio),
            transforms.RandomHorizontalFlip(settings.flip),
            transforms.RandomApply([jitter], settings.jitter),
            transforms.RandomGrayscale(settings.grayscale),
        ]
        if settings.blur:
            kernel = settings.size // 20 * 2 + 1
            steps.append(
                transforms.RandomApply([transforms.GaussianBlur(kernel, (0.1, 2.0))], settings.blur)
            )
        self.view = transforms.Compose([*steps, transforms.ToTensor()])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        return self.view(self.images[place]), self.view(self.images[place])


def by_kornia(settings: ViewSettings) -> Callable[[Tensor], Tensor]:
    from kornia import augmentation as K

    steps = [
        K.RandomResizedCrop((settings.size,) * 2, settings.scale, settings.ratio),
        K.RandomHorizontalFlip(settings.flip),
        K.ColorJitter(
            settings.brightness,
            settings.contrast,
            settings.saturation,
            settings.hue,
            p=settings.jitter,
        ),
        K.RandomGrayscale(p=settings.grayscale),
    ]
    if settings.blur:
        kernel = settings.size // 20 * 2 + 1
        steps.append(K.RandomGaussianBlur((kernel, kernel), (0.1, 2.0), p=settings.blur))
    return torch.nn.Sequential(*steps)


def measure(size: int, rounds: int) -> dict[str, Any]:
    side, batch, batches = SIZES[size]
    settings = ViewSettings(size=size, blur=0.5 if size > 64 else 0.0, solarize=0.0)
    images = pictures(side, batch * batches)
    # The workers stay from round to round, so that their start does not count.
    loader = DataLoader(Pairs(images, settings), batch, num_workers=2, persistent_workers=True)

    def theirs() -> None:
        for _ in loader:
            pass

    def ours() -> None:
        for place, part in enumerate(images.split(batch)):
            make_views(part, [settings] * 2, 0, 0, place)

    work = {"torchvision": theirs, "ours": ours}
    if find_spec("kornia"):
        augment = by_kornia(settings)

        def kornias() -> None:
            for part in images.split(batch):
                augment(part.float() / 255)
                augment(part.float() / 255)

        work["kornia"] = kornias
    for run in work.values():
        run()
    seconds = in_turns(rounds, **work)
    result: dict[str, Any] = {"images": len(images), "side": side, "batch": batch}
    for name in work.keys() - {"ours"}:
        result[name] = figures({key: seconds[key] for key in (name, "ours")}, name, "ours")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed.views", description="Two views of each image."
    )
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    packages = ["torch", "torchvision", "pillow"] + (["kornia"] if find_spec("kornia") else [])
    record("views", packages, {f"{size}_pixels": measure(size, given.rounds) for size in SIZES})


if __name__ == "__main__":
    main()
