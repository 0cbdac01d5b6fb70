"""The pretraining loop, by Accelerate: one process or many, CPU or GPU, the same code.

Images come from ``prosmin.views.feed``; order and views are pure functions of (seed, epoch, step,
rank), the schedules of the global step alone. So the state of a run is what ``_Run.state`` returns and no more, and a
run that was killed goes on from its last checkpoint to the same weights.
"""

import logging
import math
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from prosmin.common import distributed
from prosmin.common.errors import ConfigError, UserError
from prosmin.common.seeds import epoch_order, loss_generator, seed_networks
from prosmin.models.networks import Encoder, decay_groups
from prosmin.objectives.base import Objective
from prosmin.training import checkpoint
from prosmin.training.checkpoint import Checkpoints
from prosmin.training.monitor import Monitor, observe, warn_of_collapse
from prosmin.training.schedules import cosine, warmup_cosine
from prosmin.training.settings import TrainSettings
from prosmin.views.feed import Feed, Resident

log = logging.getLogger(__name__)

PAUSE = 2.0  # seconds, about, between two checks that the loss is finite; each waits for the device


@dataclass
class History:
    """What was seen on the way: ``loss`` has a row an epoch, ``diagnostics`` a row a look, the first before step 1."""

    loss: list[dict[str, float]] = field(default_factory=list)
    diagnostics: list[dict[str, float]] = field(default_factory=list)
    images_per_second: float = math.nan


class NotFinite(Exception):
    """A loss or a gradient is NaN or infinite; the message says where, and what may help."""


def run_key(
    settings: TrainSettings,
    images: Tensor | Feed,
    seed: int,
    accelerator: Accelerator,
    monitor: Monitor | None,
    **facts: Any,
) -> str:
    """The key of a run's checkpoints: it changes with all that determines the result, the machine's part included.

    facts: what determines the model, as JSON or dataclasses.
    """
    cuda = accelerator.device.type == "cuda"
    watched = (monitor.images, monitor.labels, monitor.bank, monitor.bank_labels) if monitor else ()
    return checkpoint.key(
        **facts,
        settings=settings,
        seed=seed,
        images=[_feed(images).facts(), checkpoint.checksum(*watched)],
        processes=accelerator.num_processes,
        precision=str(accelerator.mixed_precision),
        device=torch.cuda.get_device_name(accelerator.device)
        if cuda
        else f"cpu, {torch.get_num_threads()} threads",
    )


def _feed(images: Tensor | Feed) -> Feed:
    return Resident(images) if isinstance(images, Tensor) else images


def pretrain(
    model: Objective,
    images: Tensor | Feed,
    settings: TrainSettings,
    seed: int,
    accelerator: Accelerator,
    monitor: Monitor | None = None,
    looks: int = 20,
    checkpoints: Checkpoints | None = None,
) -> History:
    """Train ``model`` in place and return what was seen on the way. images: uint8 [N, C, H, W], or where they come from.

    ``looks``: how often, about, the monitor is read over the run. ``checkpoints``: where the run is kept, and goes on
    from if it was killed; None keeps nothing. Raises ``ConfigError`` for a batch that the data or the processes cannot
    fill, ``UserError`` when the loss stops being finite, again after one return to the last checkpoint.
    """
    world = accelerator.num_processes
    if settings.batch_size > len(images):
        raise ConfigError(
            "batch_size",
            settings.batch_size,
            f"there are only {len(images)} training images; use at most that",
        )
    if settings.batch_size % world:
        raise ConfigError(
            "batch_size", settings.batch_size, f"it must be a multiple of the {world} processes"
        )
    model.check_batch(settings.batch_size)
    for encoder in (
        module for module in model.modules() if isinstance(module, Encoder)
    ):  # online and target
        encoder.in_parts(settings.accumulate)
        encoder.channels_last = settings.channels_last
        if settings.compile:
            encoder.compile(dynamic=False)
    if settings.channels_last:
        model.to(memory_format=torch.channels_last)
    devices = [accelerator.device] if accelerator.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        run = _Run(model, _feed(images), settings, seed, accelerator, monitor, looks, checkpoints)
        run.settle()
        run.resume()
        try:
            run.finish()
        except NotFinite as fault:
            if not run.resume():
                raise UserError(f"{fault}; {run.last_good()}") from None
            log.warning("%s; once more from the checkpoint of step %d", fault, run.step)
            try:
                run.finish()
            except NotFinite as again:
                raise UserError(f"{again}; {run.last_good()}") from None
    return run.history


class _Run:
    """One training on its way. step: of the whole run, done so far."""

    def __init__(
        self,
        model: Objective,
        images: Feed,
        settings: TrainSettings,
        seed: int,
        accelerator: Accelerator,
        monitor: Monitor | None,
        looks: int,
        checkpoints: Checkpoints | None,
    ):
        self.settings, self.seed, self.accelerator, self.monitor = (
            settings,
            seed,
            accelerator,
            monitor,
        )
        self.checkpoints, self.device = checkpoints, accelerator.device
        self.steps_per_epoch = len(images) // settings.batch_size
        self.steps = self.steps_per_epoch * settings.epochs
        self.warmup = min(round(settings.warmup_epochs * self.steps_per_epoch), self.steps // 2)
        self.look_every = max(1, settings.epochs // looks)
        self.view_settings = [
            replace(view, compile=settings.compile)
            for view in settings.views.every(settings.image_size)
        ]
        self.images = images
        images.to(self.device)
        distributed.synchronise_batch_norm(model, self.device)
        optimizer = torch.optim.AdamW(decay_groups(model), lr=settings.lr, fused=True)
        self.model = model
        self.trained, self.optimizer = accelerator.prepare(model, optimizer)
        self.step, self.history = 0, History()
        self.losses: list[Tensor] = []  # of the running epoch, in this process
        self.norms: list[Tensor] = []
        self.checked = 0  # steps of the running epoch known to be finite
        self.saved: int | None = None  # the step of the last good checkpoint
        self.turn = _Turn()

    # --- training ---------------------------------------------------------------------------------

    def finish(self) -> None:
        """Train from where the run stands to its end."""
        began, first = time.perf_counter(), self.step
        if self.step == 0:
            self.look()
        with tqdm(
            initial=self.step * self.settings.batch_size,
            total=self.steps * self.settings.batch_size,
            desc="pretrain",
            unit="image",
            unit_scale=True,
            disable=not self.accelerator.is_main_process,
            mininterval=0.5 if sys.stderr.isatty() else 15.0,
        ) as bar:
            while self.step < self.steps:
                self.epoch(bar)
        trained = (self.step - first) * self.settings.batch_size
        self.history.images_per_second = trained / (time.perf_counter() - began)

    def epoch(self, bar: tqdm) -> None:
        """The rest of the running epoch."""
        epoch, done = divmod(self.step, self.steps_per_epoch)
        self.trained.train()
        for place, views in enumerate(self.views(epoch, done), done):
            self.advance(views, epoch, place)
            bar.update(self.settings.batch_size)
            if self.turn.over() and place + 1 < self.steps_per_epoch and self.pause():
                self.save()
        save = self.pause()
        rate, momentum = self.schedule(self.step - 1)
        mean = float(distributed.mean(torch.stack(self.losses).mean()))
        self.history.loss.append(
            {
                "step": self.step,
                "epoch": epoch + 1,
                "loss": mean,
                "lr": rate,
                "momentum": momentum,
                "gradient_norm": float(torch.stack(self.norms).mean()),
            }
        )
        self.losses, self.norms, self.checked = [], [], 0
        bar.set_postfix(loss=f"{mean:.4f}", refresh=False)
        if (epoch + 1) % self.look_every == 0 or self.step == self.steps:
            self.look()
        if save:
            self.save()

    def views(self, epoch: int, first: int, last: int | None = None) -> Iterator[list[Tensor]]:
        """The views that this process gets of the steps from ``first`` to ``last`` (None: the end) of an epoch."""
        order = epoch_order(len(self.images), self.settings.batch_size, self.seed, epoch)[
            first:last
        ]
        rank, local = (
            self.accelerator.process_index,
            order.shape[1] // self.accelerator.num_processes,
        )
        mine = order[:, rank * local : (rank + 1) * local]
        return self.images.views(mine, self.view_settings, self.seed, epoch, first, rank)

    def schedule(self, step: int) -> tuple[float, float]:
        """Learning rate and target momentum of a step, counted from 0."""
        rate = warmup_cosine(self.settings.lr, step, self.steps, self.warmup)
        return rate, cosine(*self.settings.target.momentum, step, self.steps)

    def advance(self, views: list[Tensor], epoch: int, place: int) -> None:
        """One step."""
        rate, momentum = self.schedule(self.step)
        decay, end = self.settings.weight_decay, self.settings.weight_decay_end
        for group in self.optimizer.param_groups:
            group["lr"] = rate
            if group["decays"]:
                last = decay if end is None else end
                group["weight_decay"] = cosine(decay, last, self.step, self.steps)
        loss = self.backward(views, epoch, place)
        self.norms.append(
            _clip(self.accelerator, self.trained.parameters(), self.settings.clip_norm)
        )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.model.momentum_update(momentum)
        self.losses.append(loss)
        self.step += 1

    def backward(self, views: list[Tensor], epoch: int, place: int) -> Tensor:
        """Gradients of one batch, averaged over processes; returns the loss of this one."""
        where = (self.seed, epoch, place, self.accelerator.process_index)
        seed_networks(*where)
        with self.accelerator.autocast():
            loss = self.trained(views, loss_generator(self.device, *where))
        self.accelerator.backward(loss)
        return loss.detach()

    def settle(self) -> None:
        """A backward pass without effect, after which DistributedDataParallel has put gradients in their final groups.

        The order in which the gradients of three or more processes are added depends on the groups, and so would the last
        digits of a run that goes on in a new process.
        """
        if self.accelerator.num_processes == 1:
            return
        kept = [buffer.clone() for buffer in self.model.buffers()]
        self.trained.train()
        self.backward(next(self.views(0, 0, 1)), 0, 0)
        self.optimizer.zero_grad(set_to_none=True)
        for buffer, value in zip(self.model.buffers(), kept, strict=True):
            buffer.copy_(value)

    def look(self) -> None:
        if self.monitor is not None and self.accelerator.is_main_process:
            # Batches of other sizes than those of training, for which nothing is compiled.
            with (
                torch.compiler.set_stance("force_eager") if self.settings.compile else nullcontext()
            ):
                row = observe(self.model, self.monitor)
            self.history.diagnostics.append(
                {"step": self.step, "epoch": self.step // self.steps_per_epoch, **row}
            )
            warn_of_collapse(row, self.step)

    # --- guards and checkpoints -------------------------------------------------------------------

    def pause(self) -> bool:
        """Check the steps since the last pause; is it time to save? All processes pause at the same step and agree.

        Raises ``NotFinite``.
        """
        new = torch.stack(
            [torch.stack(self.losses[self.checked :]), torch.stack(self.norms[self.checked :])]
        )
        broken = (~new.isfinite()).any(0).nonzero()
        first = float(broken[0]) if len(broken) else math.inf
        ends = self.step % self.steps_per_epoch == 0
        due, length = math.inf, math.inf
        if self.accelerator.is_main_process:
            due = float(
                self.checkpoints is not None
                and self.step < self.steps
                and self.checkpoints.due(ends)
            )
            length = self.turn.next_length(self.checkpoints)
        first, due, length = distributed.least([first, due, length], self.device)
        if first < math.inf:
            step = self.step - new.shape[1] + int(first)
            loss, norm = new[:, int(first)].tolist()
            what = (
                f"loss is {loss}" if not math.isfinite(loss) else f"norm of the gradient is {norm}"
            )
            raise NotFinite(
                f"the {what} in epoch {step // self.steps_per_epoch + 1} "
                f"(step {step + 1}, lr {self.schedule(step)[0]:.3g}); "
                "lower pretrain.lr or set pretrain.clip_norm, or narrow pretrain.objective.log_sigma"
            )
        self.checked += new.shape[1]
        self.turn.start(int(length))
        return bool(due)

    def save(self) -> None:
        """Write what a later run needs to go on from here: called where all steps so far are finite."""
        empty = torch.empty(1, 0, device=self.device)
        losses = distributed.gather(
            torch.stack(self.losses)[None] if self.losses else empty
        )  # [world, steps]
        if not self.accelerator.is_main_process:
            return
        tensors = {f"model.{name}": each for name, each in self.model.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": each for name, each in state.items()}
        tensors["epoch.losses"] = losses
        tensors["epoch.norms"] = torch.stack(self.norms) if self.norms else empty[0]
        arrays = {name: each.detach().cpu().numpy() for name, each in tensors.items()}
        history = {"loss": self.history.loss, "diagnostics": self.history.diagnostics}
        if self.checkpoints.save(self.step, arrays, {"step": self.step, **history}):
            self.saved = self.step

    def resume(self) -> bool:
        """Go to the last checkpoint of this run, if there is one."""
        main = self.accelerator.is_main_process
        found = self.checkpoints.newest() if main and self.checkpoints is not None else None
        content = distributed.from_main(found[1] if found else None, self.device)
        if content is None:
            return False
        arrays, facts = checkpoint.parse(content)
        self.restore({name: torch.from_numpy(each) for name, each in arrays.items()}, facts)
        if found:
            log.info("goes on from step %d of %d, %s", self.step, self.steps, found[0])
        return True

    def restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        state: dict[int, dict[str, Tensor]] = {}
        weights = {}
        for name, tensor in tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "model":
                weights[rest] = tensor
            elif kind == "optimizer":
                index, _, what = rest.partition(".")
                state.setdefault(int(index), {})[what] = tensor
        self.model.load_state_dict(weights)
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        # What is kept of a parameter takes its memory layout, by which the fused kernel goes.
        for parameter, kept in self.optimizer.state.items():
            for name, value in kept.items():
                if value.shape == parameter.shape:
                    kept[name] = torch.empty_like(parameter).copy_(value)
        self.step = self.saved = facts["step"]
        self.history = History(facts["loss"], facts["diagnostics"])
        mine = tensors["epoch.losses"][self.accelerator.process_index]
        self.losses, self.norms = (
            list(each.to(self.device)) for each in (mine, tensors["epoch.norms"])
        )
        self.checked = len(self.losses)

    def last_good(self) -> str:
        if self.saved is None or self.checkpoints is None:
            return "there is no checkpoint to go back to"
        return f"the last good checkpoint is {self.checkpoints.path(self.saved)}"


class _Turn:
    """The steps from one pause to the next: as many as take about ``PAUSE`` seconds, by the pace of the last ones."""

    def __init__(self):
        self.start(1)

    def start(self, length: int) -> None:
        self.length, self.done, self.began = length, 0, time.monotonic()

    def over(self) -> bool:
        self.done += 1
        return self.done >= self.length

    def next_length(self, checkpoints: Checkpoints | None) -> int:
        pause = PAUSE if checkpoints is None else min(PAUSE, checkpoints.every)
        pace = (time.monotonic() - self.began) / max(self.done, 1)
        return max(1, min(2 * self.length, int(pause / max(pace, 1e-9))))


def _clip(
    accelerator: Accelerator, parameters: Iterable[nn.Parameter], clip_norm: float | None
) -> Tensor:
    norm = accelerator.clip_grad_norm_(parameters, math.inf if clip_norm is None else clip_norm)
    return torch.as_tensor(norm).detach()
