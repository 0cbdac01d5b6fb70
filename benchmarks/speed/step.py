"""Where the time of a training step goes: ``python -m benchmarks.speed.step``.

The network of recipes/cifar10.yaml (32-pixel images, batches of 128, two views, bf16,
ProSMIN with whitened targets), the same in fp32, and the same with a ResNet-18, on random images,
in turns:

- step: all of ``prosmin.training.loop``, views and optimiser included
- encoder: the encoder alone on views made before: forward and backward pass of the online encoder,
  forward pass of the target encoder

The figure is the share of the encoder, encoder / step. The rest is views, projector, heads, score,
optimiser and target update.
"""

import argparse

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from benchmarks.cifar10 import recipe
from benchmarks.record import record
from benchmarks.speed.turns import figures, in_turns
from prosmin.common.startup import keep_freed_memory
from prosmin.models import store
from prosmin.objectives.settings import ProSMIN
from prosmin.training import loop
from prosmin.training.settings import TrainSettings
from prosmin.views.make import make_views
from prosmin.views.settings import Views

ENCODER = dict(recipe().pretrain.encoder.kwargs)
# Keywords of the encoder, precision, and share of the steps: on a CPU one step of a ResNet-18 takes
# as long as twenty of the others.
CASES = {
    "the recipe": (ENCODER, "bf16", 1.0),
    "in fp32": (ENCODER, "no", 1.0),
    "a ResNet-18": ({"zero_init_last": False}, "bf16", 0.25),
}
VIEWS = Views(saturation=0.4, blur=0.0, solarize=0.0)


def measure(kwargs: dict, precision: str, batch: int, steps: int, rounds: int) -> dict:
    AcceleratorState._reset_state(reset_partial_state=True)
    settings = store.ModelSettings(
        encoder="resnet18",
        image_size=32,
        channels=3,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        hidden_dim=512,
        dim=64,
        cifar_stem=True,
        kwargs=kwargs,
        objective=ProSMIN(shrinkage=0.01),
    )
    images = torch.randint(
        0,
        256,
        (steps * batch, 3, 32, 32),
        dtype=torch.uint8,
        generator=torch.Generator().manual_seed(0),
    )
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision=precision)
    asked = TrainSettings(
        image_size=32,
        epochs=1,
        batch_size=batch,
        lr=0.002,
        views=VIEWS,
        warmup_epochs=0,
        channels_last=True,
    )

    def whole() -> None:
        loop.pretrain(store.build_model(settings), images, asked, 0, accelerator)

    model = (
        store.build_model(settings)
        .to(accelerator.device, memory_format=torch.channels_last)
        .train()
    )
    views = torch.cat(make_views(images[:batch].to(accelerator.device), VIEWS.every(32), 0, 0, 0))
    slope = torch.randn(2 * batch, model.encoder.num_features, device=accelerator.device)
    target: nn.Module = model.target[0]
    model.encoder.channels_last = target.channels_last = True

    def encoder() -> None:
        for _ in range(steps):
            with accelerator.autocast():
                with torch.no_grad():
                    target(views)
                features = model.encoder(views)
            features.float().backward(slope)
            model.zero_grad(set_to_none=True)
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    whole(), encoder()
    found = figures(in_turns(rounds, encoder=encoder, step=whole), "encoder", "step")
    return {
        "share_of_the_encoder": found["ratio"],
        "steps": steps,
        "batch": batch,
        "seconds": found["seconds"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed.step", description="Where the time of a step goes."
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(given.threads)
    found = {
        name: measure(
            kwargs, precision, given.batch, max(1, round(given.steps * share)), given.rounds
        )
        for name, (kwargs, precision, share) in CASES.items()
    }
    device = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"cpu, {given.threads} threads"
    )
    record("step", ["torch", "timm", "accelerate"], {"device": device, **found})


if __name__ == "__main__":
    main()
