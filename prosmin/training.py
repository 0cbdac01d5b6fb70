"""The pretraining loop, by Accelerate: one process or many, CPU or GPU, the same code.

The images of all processes live on their device as uint8; order and views are pure functions of (seed, epoch, step,
rank), the schedules of the global step alone.
"""

import logging
import math
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from prosmin import diagnostics
from prosmin.errors import ConfigError, UserError
from prosmin.objectives import ProSMIN
from prosmin.schedules import cosine, warmup_cosine
from prosmin.views import ViewSettings, random_view

log = logging.getLogger(__name__)

# What a random stream is for: part of its seed, so that no two purposes share one.
_ORDER, _VIEWS, _SCORE = 0, 1, 2


@dataclass(frozen=True)
class TrainSettings:
    """views: one entry a view, the two global ones first. momentum: of the target, first and last step."""

    epochs: int
    batch_size: int
    lr: float
    views: Sequence[ViewSettings]
    weight_decay: float = 0.05
    warmup_epochs: float = 5
    momentum: tuple[float, float] = (0.0, 1.0)
    clip_norm: float | None = 3.0


@dataclass(frozen=True)
class Monitor:
    """Images watched while training: uint8 [N, C, S, S], and, where there are labels, a bank for the online k-NN."""

    images: Tensor
    labels: Tensor | None = None
    bank: Tensor | None = None
    bank_labels: Tensor | None = None


@dataclass
class History:
    """What was seen on the way: ``loss`` has a row an epoch, ``diagnostics`` a row a look, the first before step 1."""

    loss: list[dict[str, float]] = field(default_factory=list)
    diagnostics: list[dict[str, float]] = field(default_factory=list)
    images_per_second: float = math.nan


def stream(device: torch.device, *key: int) -> torch.Generator:
    """A generator whose state is a pure function of ``key`` (non-negative integers)."""
    state = np.random.SeedSequence((len(key), *key)).generate_state(2, np.uint32)  # (0,) and (0, 0) seed alike
    return torch.Generator(device).manual_seed(int(state[0]) << 31 ^ int(state[1]))


def epoch_order(count: int, batch_size: int, seed: int, epoch: int) -> Tensor:
    """Image indices [steps, batch_size] of one epoch over all processes; the last, partial batch is dropped."""
    order = torch.randperm(count, generator=stream(torch.device("cpu"), seed, _ORDER, epoch))
    steps = count // batch_size
    return order[: steps * batch_size].view(steps, batch_size)


def make_views(
    images: Tensor, views: Sequence[ViewSettings], seed: int, epoch: int, step: int, rank: int = 0
) -> list[Tensor]:
    """The views of one batch, as the network sees them: uint8 [B, C, H, W] -> float [B, C, size, size] each."""
    generator = stream(images.device, seed, _VIEWS, epoch, step, rank)
    return [random_view(images, settings, generator) for settings in views]


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Parameters that train, in two groups: matrices and kernels decay, biases and normalisation do not."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


def pretrain(
    model: ProSMIN,
    images: Tensor,
    settings: TrainSettings,
    seed: int,
    accelerator: Accelerator,
    monitor: Monitor | None = None,
    looks: int = 20,
) -> History:
    """Train ``model`` in place on uint8 images [N, C, H, W] and return what was seen on the way.

    ``looks``: how often, about, the monitor is read over the run. Raises ``ConfigError`` for a batch that the
    data or the processes cannot fill, ``UserError`` when the loss stops being finite.
    """
    world, rank, device = accelerator.num_processes, accelerator.process_index, accelerator.device
    count = len(images)
    if settings.batch_size > count:
        raise ConfigError(
            "batch_size", settings.batch_size, f"there are only {count} training images; use at most that"
        )
    if settings.batch_size % world:
        raise ConfigError("batch_size", settings.batch_size, f"it must be a multiple of the {world} processes")
    model.check_batch(settings.batch_size)
    local = settings.batch_size // world
    steps_per_epoch = count // settings.batch_size
    steps = steps_per_epoch * settings.epochs
    warmup = min(round(settings.warmup_epochs * steps_per_epoch), steps // 2)

    images = images.to(device)
    if world > 1 and device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    optimizer = torch.optim.AdamW(decay_groups(model, settings.weight_decay), lr=settings.lr, fused=True)
    trained, optimizer = accelerator.prepare(model, optimizer)
    history = History()
    look_every = max(1, settings.epochs // looks)
    bar = tqdm(
        total=steps * settings.batch_size,
        desc="pretrain",
        unit="image",
        unit_scale=True,
        disable=not accelerator.is_main_process,
        mininterval=0.5 if sys.stderr.isatty() else 15.0,
    )

    def look(step: int, epoch: int) -> None:
        if monitor is not None and accelerator.is_main_process:
            row = observe(model, monitor)
            history.diagnostics.append({"step": step, "epoch": epoch, **row})
            warn_of_collapse(row, step)

    began = time.perf_counter()
    look(0, 0)
    with bar:
        for epoch in range(settings.epochs):
            trained.train()
            losses, norms, rate, momentum = [], [], 0.0, 0.0
            for place, batch in enumerate(epoch_order(count, settings.batch_size, seed, epoch)):
                step = epoch * steps_per_epoch + place
                rate = warmup_cosine(settings.lr, step, steps, warmup)
                momentum = cosine(*settings.momentum, step, steps)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                mine = batch[rank * local : (rank + 1) * local].to(device)
                views = make_views(images[mine], settings.views, seed, epoch, place, rank)
                with accelerator.autocast():
                    loss = trained(views, stream(device, seed, _SCORE, epoch, place, rank))
                accelerator.backward(loss)
                norms.append(_clip(accelerator, trained.parameters(), settings.clip_norm))
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                model.momentum_update(momentum)
                losses.append(loss.detach())
                bar.update(settings.batch_size)
            mean = float(accelerator.reduce(torch.stack(losses).mean(), "mean"))
            if not math.isfinite(mean):
                raise UserError(
                    f"the loss is {mean} in epoch {epoch + 1} (step {step + 1}, lr {rate:.3g}); "
                    "lower pretrain.lr or set pretrain.clip_norm, or narrow pretrain.objective.log_sigma"
                )
            history.loss.append(
                {
                    "step": step + 1,
                    "epoch": epoch + 1,
                    "loss": mean,
                    "lr": rate,
                    "momentum": momentum,
                    "gradient_norm": float(torch.stack(norms).mean()),
                }
            )
            bar.set_postfix(loss=f"{mean:.4f}", refresh=False)
            if (epoch + 1) % look_every == 0 or epoch + 1 == settings.epochs:
                look(step + 1, epoch + 1)
    history.images_per_second = steps * settings.batch_size / (time.perf_counter() - began)
    return history


def _clip(accelerator: Accelerator, parameters: Iterable[nn.Parameter], clip_norm: float | None) -> Tensor:
    norm = accelerator.clip_grad_norm_(parameters, math.inf if clip_norm is None else clip_norm)
    return torch.as_tensor(norm).detach()


@torch.no_grad()
def observe(model: ProSMIN, monitor: Monitor, batch_size: int = 512) -> dict[str, float]:
    """Diagnostics of the un-augmented monitor images, by names and definitions of ``prosmin.diagnostics``."""
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device

    def outputs(images: Tensor) -> tuple[Tensor, Tensor]:
        parts = [model.predict(batch.to(device).float() / 255.0) for batch in images.split(batch_size)]
        return torch.cat([part[0] for part in parts]), torch.cat([part[2] for part in parts])

    features, log_sigma = outputs(monitor.images)
    row = {"rankme": diagnostics.rankme(features), "feature_std": diagnostics.feature_std(features)}
    row |= diagnostics.sigma_summary(log_sigma, *model.head.range)
    if monitor.labels is not None and monitor.bank is not None and monitor.bank_labels is not None:
        bank = outputs(monitor.bank)[0]
        row["knn_accuracy"] = diagnostics.knn_accuracy(
            bank, monitor.bank_labels.to(device), features, monitor.labels.to(device)
        )
    model.train(was_training)
    return row


def warn_of_collapse(row: dict[str, float], step: int) -> None:
    """Say in the log what looks like collapse, with its likely cause. Step 0 is not judged."""
    if step == 0:
        return
    if row["rankme"] < 2 or row["feature_std"] < 0.05:
        log.warning(
            "step %d: the features collapse (RankMe %.2f, feature std %.3f); normalise the targets "
            "(pretrain.target.normalise: whiten) or raise pretrain.batch_size",
            step,
            row["rankme"],
            row["feature_std"],
        )
    if row["sigma_clamped"] > 0.5:
        log.warning(
            "step %d: %.0f %% of the predicted sigma stand at the clamp; widen pretrain.objective.log_sigma "
            "or check that pretrain.objective.lambda is near 1",
            step,
            100 * row["sigma_clamped"],
        )
