"""Time JPEG files to batches of two crops of 224 pixels: ``python -m benchmarks.speed.input``.

Photographs of 500 x 375 pixels are cut from scikit-learn's two photographs; and of 1000 x 750
pixels, because only larger JPEGs gain from a reduced scale. Two worker processes of one thread make
crops of 20 to 100 % of the area and flip them at random:

- torchvision: ImageFolder in a DataLoader; RandomResizedCrop crops every sample twice
- ours: ``prosmin.data.feed.Streamed`` over the Arrow file of a fetched dataset, float on the
  device (here the CPU)

Both deliver float batches [B, 3, 224, 224] in [0, 1]. They take turns; the result is the median of
the ratios.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from benchmarks.record import record
from benchmarks.speed.turns import figures, in_turns
from prosmin.common.files import write_json
from prosmin.common.startup import keep_freed_memory
from prosmin.data.feed import Streamed
from prosmin.fetching.folders import folder as from_folder
from prosmin.fetching.writing import write_dataset
from prosmin.views.settings import ViewSettings

COUNT, BATCH, WORKERS = 2048, 32, 2
VIEW = ViewSettings(size=224, scale=(0.2, 1.0), jitter=0.0, grayscale=0.0, blur=0.0, solarize=0.0)


class Twice:
    def __init__(self, view: Any):
        self.view = view

    def __call__(self, picture: Image.Image) -> tuple[torch.Tensor, torch.Tensor]:
        return self.view(picture), self.view(picture)


def photographs(folder: Path, width: int, height: int, count: int) -> None:
    """Write JPEGs of this size, different cuts of the photographs, one folder per photograph."""
    rng = np.random.default_rng(0)
    for label, picture in enumerate(map(Image.fromarray, load_sample_images().images)):
        (folder / "train" / str(label)).mkdir(parents=True)
        for place in range(count // 2):
            across = float(rng.uniform(400, 560))
            left, top = (
                float(rng.uniform(0, 640 - across)),
                float(rng.uniform(0, 427 - across * 0.75)),
            )
            box = (left, top, left + across, top + across * 0.75)
            cut = picture.resize((width, height), Image.Resampling.BICUBIC, box)
            cut.save(folder / "train" / str(label) / f"{place:04d}.jpg", quality=90)


def dataset(scratch: Path, width: int, height: int, count: int) -> tuple[Path, Path]:
    """Write photographs as files and as a fetched dataset; return both folders."""
    files, out = scratch / "files", scratch / "data"
    photographs(files, width, height, count)
    out.mkdir()
    manifest = write_dataset(out, from_folder(str(files)), seed=0, val_fraction=0, test_fraction=0)
    write_json(out / "manifest.json", manifest)
    return files, out


def measure(width: int, height: int, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        files, out = dataset(Path(scratch), width, height, COUNT)
        steps = [
            transforms.RandomResizedCrop(VIEW.size, VIEW.scale, VIEW.ratio),
            transforms.RandomHorizontalFlip(VIEW.flip),
            transforms.ToTensor(),
        ]
        images = ImageFolder(str(files / "train"), Twice(transforms.Compose(steps)))
        # Both start their workers anew in every epoch.
        loader = DataLoader(images, BATCH, shuffle=True, num_workers=WORKERS)
        feed = Streamed(out, ["train"], 3, WORKERS)
        order = torch.randperm(COUNT).view(-1, BATCH)

        def theirs() -> None:
            for _ in loader:
                pass

        def ours() -> None:
            for _ in feed.views(order, [VIEW] * 2, 0, 0, 0, 0):
                pass

        theirs(), ours()
        found = figures(in_turns(rounds, torchvision=theirs, ours=ours), "torchvision", "ours")
    best = min(found["seconds"]["ours"])
    return found | {"images": COUNT, "images_per_second": round(COUNT / best, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed.input", description="From JPEG files to crops."
    )
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    sizes = ((500, 375), (1000, 750))
    found = {f"{width}x{height}": measure(width, height, given.rounds) for width, height in sizes}
    record("input", ["torch", "torchvision", "pillow"], found)


if __name__ == "__main__":
    main()
