"""Images per second of pretraining, end to end.

    python -m benchmarks.speed.train [--seconds 30] [--only NAME] [--jpeg 500x375]

``prosmin.training.loop.pretrain`` from uint8 images on the device to updated weights, with views,
momentum target, optimiser and checks, and the model FLOP utilisation where the peak of the device
is known. Two recipes, with and without ``pretrain.compile``: a ViT-S/16 on two views of 224
pixels (bf16, batches of 512 on a GPU) and a ResNet-18 on two views of 32 pixels. On a CPU both
are small, so that the script can be tried.

``--jpeg``: also the ViT, the faster way, from JPEG files of that size, with one decoding worker per
core.

PyTorch counts the FLOPs of one step: a multiplication and an addition are two; forward and backward
pass of the online network and forward pass of the target network.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.record import record
from benchmarks.speed.input import dataset
from prosmin.common.startup import keep_freed_memory
from prosmin.data.feed import Feed, Resident, Streamed
from prosmin.models import store
from prosmin.objectives.settings import ProSMIN
from prosmin.training import loop
from prosmin.training.settings import TrainSettings
from prosmin.views.make import make_views
from prosmin.views.settings import Views
from stages.common.threads import cores

# Dense bf16 peaks in TFLOP/s, by part of the device's name (makers' data sheets, without sparsity).
PEAKS = {"H200": 989, "H100": 989, "A100": 312, "L40S": 362, "4090": 165}
GPU = torch.cuda.is_available()

RECIPES: dict[str, dict[str, Any]] = {
    "vit_small_patch16_224": {
        "size": 224, "batch": 512 if GPU else 4, "images": 8192 if GPU else 8, "stem": False,
        "views": Views(), "channels_last": False,
    },
    "resnet18": {
        "size": 32, "batch": 1024 if GPU else 64, "images": 50_176 if GPU else 256, "stem": True,
        "views": Views(blur=0.0, solarize=0.0), "channels_last": GPU,
    },
}  # fmt: skip
JPEGS, TIMES = 1024 if GPU else 8, 16 if GPU else 1  # files, and how often each is seen in an epoch


class Repeated(Streamed):
    """The same files over and over, so that an epoch is as long as of a larger set."""

    def __len__(self) -> int:
        return TIMES * self.length

    def views(self, rows: torch.Tensor, *how: Any) -> Iterator[list[torch.Tensor]]:
        return super().views(rows % self.length, *how)


class Case:
    """One recipe, whose model stays from run to run, so that it is compiled once."""

    def __init__(self, name: str, feed: Feed | None, accelerator: Accelerator):
        self.recipe, self.accelerator = RECIPES[name], accelerator
        size, count = self.recipe["size"], self.recipe["images"]
        self.feed = feed or Resident(
            torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)
        )
        self.model = store.build_model(
            store.ModelSettings(
                encoder=name,
                image_size=size,
                channels=3,
                mean=(0.5,) * 3,
                std=(0.25,) * 3,
                hidden_dim=2048,
                dim=256,
                cifar_stem=self.recipe["stem"],
                objective=ProSMIN(shrinkage=0.01),
            )  # fmt: skip
        )
        self.settings = TrainSettings(
            image_size=size,
            epochs=1,
            batch_size=self.recipe["batch"],
            lr=1e-4,
            views=self.recipe["views"],
            warmup_epochs=0,
            channels_last=self.recipe["channels_last"],
        )

    def seconds(self, epochs: int, compiled: bool) -> float:
        """Of an epoch, on average."""
        asked = replace(self.settings, epochs=epochs, compile=compiled)
        begun = time.perf_counter()
        history = loop.pretrain(self.model, self.feed, asked, 0, self.accelerator)
        assert all(row["loss"] == row["loss"] for row in history.loss), "the loss is not a number"
        return (time.perf_counter() - begun) / epochs

    def rate(self, seconds: float, compiled: bool) -> dict[str, Any]:
        self.seconds(1, compiled)  # warms up
        each = self.seconds(1, compiled)
        epochs = max(1, min(200, round(seconds / each)))
        if GPU:
            torch.cuda.reset_peak_memory_stats()
        trained = len(self.feed) // self.settings.batch_size * self.settings.batch_size
        found = {
            "images_per_second": round(trained / self.seconds(epochs, compiled), 1),
            "epochs": epochs,
        }
        if GPU:
            found["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
        return found

    def views(self, compiled: bool = False) -> list[torch.Tensor]:
        images = self.feed.images[: self.settings.batch_size].to(self.accelerator.device)
        views = self.settings.views.every(self.settings.image_size)
        return make_views(images, [replace(view, compile=compiled) for view in views], 0, 0, 0)

    def ms_of_views(self, compiled: bool) -> float:
        """Of a step, made alone."""
        self.views(compiled)
        if GPU:
            torch.cuda.synchronize()
        begun = time.perf_counter()
        for _ in range(5):
            self.views(compiled)
        if GPU:
            torch.cuda.synchronize()
        return (time.perf_counter() - begun) * 1000 / 5

    def flops(self) -> float:
        """Of an image in a step."""
        with FlopCounterMode(display=False) as counter:
            self.model.train()(self.views()).backward()
        self.model.zero_grad(set_to_none=True)
        return counter.get_total_flops() / self.settings.batch_size


def measure(name: str, seconds: float, accelerator: Accelerator) -> dict[str, Any]:
    device = torch.cuda.get_device_name() if GPU else "cpu"
    peak = next((value for part, value in PEAKS.items() if part in device), None)
    case = Case(name, None, accelerator)
    found: dict[str, Any] = {
        "device": device,
        "batch": case.recipe["batch"],
        "size": case.recipe["size"],
    }
    for how, compiled in (("as it is", False), ("compiled", True)):
        found[how] = case.rate(seconds, compiled)
        if not compiled:
            flops = case.flops()
            found["gflop_per_image"] = round(flops / 1e9, 2)
        found[how]["ms_of_views"] = round(case.ms_of_views(compiled), 2)
        achieved = found[how]["images_per_second"] * flops / 1e12
        found[how]["tflop_per_second"] = round(achieved, 2)
        if peak:
            found[how]["model_flop_utilisation"] = round(achieved / peak, 3)
    return found


def from_jpegs(
    name: str, width: int, height: int, seconds: float, compiled: bool, accelerator: Accelerator
) -> dict:
    with tempfile.TemporaryDirectory() as scratch:
        feed = Repeated(dataset(Path(scratch), width, height, JPEGS)[1], ["train"], 3, cores())
        return {
            "workers": cores(),
            "images": len(feed),
            **Case(name, feed, accelerator).rate(seconds, compiled),
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed.train", description="Images a second of pretraining."
    )
    parser.add_argument("--seconds", type=float, default=30.0, help="about so long a measurement")
    parser.add_argument("--only", choices=RECIPES)
    parser.add_argument("--jpeg", metavar="WIDTHxHEIGHT", help="also from JPEGs of this size")
    given = parser.parse_args()
    keep_freed_memory()
    accelerator = Accelerator(cpu=not GPU, mixed_precision="bf16" if GPU else "no")
    found: dict[str, Any] = {}
    for name in [given.only] if given.only else RECIPES:
        found[name] = measure(name, given.seconds, accelerator)
        if given.jpeg and name == next(iter(RECIPES)):
            width, height = map(int, given.jpeg.split("x"))
            compiled = (
                found[name]["compiled"]["images_per_second"]
                > found[name]["as it is"]["images_per_second"]
            )
            found[name][f"JPEGs of {given.jpeg}"] = from_jpegs(
                name, width, height, given.seconds, compiled, accelerator
            )
        record("train", ["torch", "timm", "accelerate"], found)


if __name__ == "__main__":
    main()
