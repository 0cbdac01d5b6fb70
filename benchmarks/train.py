"""Images a second of pretraining, end to end: ``python -m benchmarks.train [--seconds 60] [--only NAME]``.

``prosmin.training.pretrain`` from uint8 images on the device to updated weights: views, momentum target, optimiser and checks included, with the
model FLOP utilisation where the peak of the device is known. Two recipes: a ViT-S/16 on two views of 224 pixels (bf16, batches of 512 on a GPU)
and a ResNet-18 on two views of 32 pixels. On a CPU both are small, so that the script can be tried.

FLOPs are counted by PyTorch on one step: multiply and add are two; forward and backward of the online network and forward of the target.
"""

import argparse
import time
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.record import record
from prosmin import export, training
from prosmin.allocator import keep_pages
from prosmin.streams import make_views
from prosmin.views import ViewSettings

# Dense bf16 peaks in TFLOP/s, by part of the device's name (makers' data sheets, without sparsity).
PEAKS = {"H200": 989, "H100": 989, "A100": 312, "L40S": 362, "4090": 165}
GPU = torch.cuda.is_available()

RECIPES: dict[str, dict[str, Any]] = {
    "vit_small_patch16_224": {
        "size": 224, "batch": 512 if GPU else 4, "images": 8192 if GPU else 8, "kwargs": {}, "stem": False,
        "view": ViewSettings(size=224), "channels_last": False,
    },
    "resnet18": {
        "size": 32, "batch": 1024 if GPU else 64, "images": 50_176 if GPU else 256, "kwargs": {}, "stem": True,
        "view": ViewSettings(size=32, blur=0.0, solarize=0.0), "channels_last": GPU,
    },
}  # fmt: skip


def measure(name: str, seconds: float) -> dict[str, Any]:
    recipe = RECIPES[name]
    settings = export.ModelSettings(
        encoder=name, image_size=recipe["size"], channels=3, mean=(0.5,) * 3, std=(0.25,) * 3, hidden_dim=2048, dim=256,
        cifar_stem=recipe["stem"], kwargs=recipe["kwargs"], objective={"shrinkage": 0.01},
    )  # fmt: skip
    size, batch = recipe["size"], recipe["batch"]
    images = torch.randint(0, 256, (recipe["images"], 3, size, size), dtype=torch.uint8)
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=not GPU, mixed_precision="bf16" if GPU else "no")

    def train(epochs: int) -> float:
        asked = training.TrainSettings(
            epochs=epochs, batch_size=batch, lr=1e-4, views=[recipe["view"]] * 2, warmup_epochs=0,
            channels_last=recipe["channels_last"],
        )  # fmt: skip
        model = export.build_model(settings)
        begun = time.perf_counter()
        history = training.pretrain(model, images, asked, 0, accelerator)
        assert history.loss[-1]["loss"] == history.loss[-1]["loss"], "the loss is not a number"
        return (time.perf_counter() - begun) / epochs

    each = train(1)  # also warms up
    each = min(each, train(1))
    epochs = max(1, min(200, round(seconds / each)))
    if GPU:
        torch.cuda.reset_peak_memory_stats()
    rate = recipe["images"] // batch * batch / train(epochs)

    model = export.build_model(settings).to(accelerator.device).train()
    views = make_views(images[:batch].to(accelerator.device), [recipe["view"]] * 2, 0, 0, 0)
    with FlopCounterMode(display=False) as counter:
        model(views).backward()
    flops = counter.get_total_flops() / batch
    device = torch.cuda.get_device_name() if GPU else "cpu"
    peak = next((value for part, value in PEAKS.items() if part in device), None)
    found = {
        "device": device, "batch": batch, "size": size, "epochs": epochs, "images_per_second": round(rate, 1),
        "gflop_per_image": round(flops / 1e9, 2), "tflop_per_second": round(rate * flops / 1e12, 2),
    }  # fmt: skip
    if peak:
        found["model_flop_utilisation"] = round(rate * flops / 1e12 / peak, 3)
    if GPU:
        found["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train", description="Images a second of pretraining.")
    parser.add_argument("--seconds", type=float, default=60.0, help="about so long a recipe")
    parser.add_argument("--only", choices=RECIPES)
    given = parser.parse_args()
    keep_pages()
    names = [given.only] if given.only else list(RECIPES)
    record("train", ["torch", "timm", "accelerate"], {name: measure(name, given.seconds) for name in names})


if __name__ == "__main__":
    main()
