"""One run of training: epochs, steps, checks and checkpoints."""

import logging
import math
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, replace

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from prosmin.common import distributed
from prosmin.common.seeds import epoch_order, loss_generator, seed_networks
from prosmin.data.feed import Feed
from prosmin.models.networks import decay_groups
from prosmin.objectives.base import Objective
from prosmin.training.checkpoint import Checkpoints
from prosmin.training.interval import Interval
from prosmin.training.settings import Schedules, TrainSettings
from prosmin.training.state import History, Keeper
from prosmin.training.watch.estimate import Estimate
from prosmin.training.watch.monitor import observe, warn_of_collapse
from prosmin.training.watch.progress import Hopeless, Progress, Watch

log = logging.getLogger(__name__)


class NotFinite(Exception):
    """A loss or a gradient is NaN or infinite; the message says where, and what may help.

    step: counted from 0.
    """

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step


class Run:
    """One training run.

    watch: the monitor, about how often it observes, and who is told of every epoch.
    steps_done: of the whole run.
    suspect: the step, counted from 0, that is kept on the disk before it is made.
    """

    def __init__(
        self,
        model: Objective,
        images: Feed,
        settings: TrainSettings,
        seed: int,
        accelerator: Accelerator,
        watch: Watch,
        checkpoints: Checkpoints | None,
        trunk: Checkpoints | None,
    ):
        self.images, self.settings, self.seed = images, settings, seed
        self.accelerator, self.device, self.watch = accelerator, accelerator.device, watch
        self.steps_per_epoch = len(images) // settings.batch_size
        self.schedules = Schedules.of(settings, self.steps_per_epoch)
        self.steps = self.schedules.steps
        self.observe_every = watch.every(settings)
        views = settings.views.every(settings.image_size)
        self.view_settings = [replace(view, compile=settings.compile) for view in views]
        images.to(self.device)
        distributed.synchronise_batch_norm(model, self.device)
        optimizer = torch.optim.AdamW(decay_groups(model), lr=settings.lr, fused=True)
        self.model = model
        # Left open, accelerate loads torch.distributed.tensor, to look for tensors of it.
        both = [True, True]
        self.trained, self.optimizer = accelerator.prepare(model, optimizer, device_placement=both)
        self.keeper = Keeper(checkpoints, model, self.optimizer, accelerator, trunk)
        self.steps_done, self.history = 0, History()
        self.suspect: int | None = None
        self.losses: list[Tensor] = []  # of the running epoch, in this process
        self.norms: list[Tensor] = []
        self.checked = 0  # steps of the running epoch known to be finite
        self.interval = Interval()
        self.estimate = Estimate(self.steps, settings.batch_size, self.device)

    # --- training ---------------------------------------------------------------------------------

    def train(self) -> None:
        """Train to the end, from step 1 or from the checkpoint."""
        self.began, self.first = time.perf_counter(), self.steps_done
        if self.steps_done == 0:
            self.observe()
            self.tell()
        else:
            self.stop_if_hopeless()
        with tqdm(
            initial=self.steps_done * self.settings.batch_size,
            total=self.steps * self.settings.batch_size,
            desc="pretrain",
            unit="image",
            unit_scale=True,
            disable=not self.accelerator.is_main_process,
            mininterval=0.5 if sys.stderr.isatty() else 15.0,
        ) as bar:
            while self.steps_done < self.steps:
                self.train_epoch(bar)
        self.history.images_per_second = self.images_per_second()

    def images_per_second(self) -> float:
        """Images a second over all processes, since this process trains."""
        trained = (self.steps_done - self.first) * self.settings.batch_size
        return trained / (time.perf_counter() - self.began)

    def train_epoch(self, bar: tqdm) -> None:
        """Train to the end of the running epoch, whose first steps a checkpoint may have."""
        epoch, done = divmod(self.steps_done, self.steps_per_epoch)
        self.trained.train()
        for place, views in enumerate(self.views(epoch, done), done):
            self.step(views, epoch, place)
            bar.update(self.settings.batch_size)
            last = place + 1 == self.steps_per_epoch
            if self.interval.step_ends_it() and not last and self.check_and_agree():
                self.save()
        save = self.check_and_agree()
        rate, momentum = self.rates(self.steps_done - 1)
        loss = float(distributed.mean(torch.stack(self.losses).mean()))
        norm = float(torch.stack(self.norms).mean())
        row = {"step": self.steps_done, "epoch": epoch + 1, "loss": loss, "lr": rate}
        self.history.loss.append(row | {"momentum": momentum, "gradient_norm": norm})
        self.losses, self.norms, self.checked = [], [], 0
        bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
        if (epoch + 1) % self.observe_every == 0 or self.steps_done == self.steps:
            self.observe()
            self.stop_if_hopeless()
        self.tell()
        if save:
            self.save()
        if self.steps_done == self.schedules.begin:
            self.keeper.save_trunk(self.steps_done, self.history)

    def step(self, views: list[Tensor], epoch: int, place: int) -> None:
        """Update the weights by one batch. place: of the step in its epoch."""
        if self.steps_done == self.suspect:
            self.keep_step(views, epoch, place)
        rate, momentum = self.rates(self.steps_done)
        decay = self.schedules.decay(self.steps_done)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
            if group["decays"]:
                group["weight_decay"] = decay
        loss = self.backward(views, epoch, place)
        self.norms.append(self.clip_gradients())
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.model.momentum_update(momentum)
        self.losses.append(loss)
        self.steps_done += 1

    def backward(self, views: list[Tensor], epoch: int, place: int) -> Tensor:
        """Compute gradients, averaged over processes; returns the loss of this process, []."""
        where = (self.seed, epoch, place, self.accelerator.process_index)
        seed_networks(*where)
        with self.accelerator.autocast():
            loss: Tensor = self.trained(views, loss_generator(self.device, *where))
        self.accelerator.backward(loss)
        return loss.detach()

    def clip_gradients(self) -> Tensor:
        """Limit the norm of the gradient; returns the norm before, []."""
        self.accelerator.unscale_gradients()
        largest = math.inf if self.settings.clip_norm is None else self.settings.clip_norm
        # By torch: accelerate would look for such tensors here, too.
        return nn.utils.clip_grad_norm_(self.trained.parameters(), largest).detach()

    def views(self, epoch: int, first: int, last: int | None = None) -> Iterator[list[Tensor]]:
        """Yield the views of this process in the steps ``first`` to ``last`` of an epoch."""
        order = epoch_order(len(self.images), self.settings.batch_size, self.seed, epoch)[
            first:last
        ]
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        share = order.shape[1] // world
        rows = order[:, rank * share : (rank + 1) * share]
        return self.images.views(rows, self.view_settings, self.seed, epoch, first, rank)

    def rates(self, step: int) -> tuple[float, float]:
        """Learning rate and target momentum of a step, counted from 0."""
        return self.schedules.rate(step), self.schedules.momentum(step)

    def observe(self) -> None:
        """Add a row of diagnostics, in the first process."""
        if self.watch.monitor is None or not self.accelerator.is_main_process:
            return
        compiled = self.settings.compile  # for batches of another size than the monitor's
        with torch.compiler.set_stance("force_eager") if compiled else nullcontext():
            row = observe(self.model, self.watch.monitor)
        where = {"step": self.steps_done, "epoch": self.steps_done // self.steps_per_epoch}
        self.history.diagnostics.append({**where, **row})
        warn_of_collapse(row, self.steps_done)

    def tell(self) -> None:
        """Tell who watches how far the run is, in the first process."""
        if self.watch.tell is not None and self.accelerator.is_main_process:
            speed = self.images_per_second()
            left = (self.steps - self.steps_done) * self.settings.batch_size
            seconds = left / speed if speed else math.nan
            self.watch.tell(Progress(self.history, self.steps_done, speed, seconds))

    def stop_if_hopeless(self) -> None:
        """Raise ``Hopeless`` by the newest diagnostics; all processes call it at the same step."""
        limit = self.settings.stop_below
        if limit is None or self.steps_done == self.steps:
            return
        value, rows = math.inf, self.history.diagnostics
        if self.accelerator.is_main_process and rows and rows[-1]["epoch"] >= limit.epoch:
            value = rows[-1][limit.metric]
        value = distributed.least([value], self.device)[0]
        if value < limit.value:
            self.tell()
            self.save()
            raise Hopeless(limit, value, self.steps_done // self.steps_per_epoch)

    def warm_up_ddp(self) -> None:
        """Run a backward pass without effect, so that DDP puts gradients in their final groups.

        The order in which the gradients of three or more processes are added depends on the groups,
        and so would the last digits of a run that continues in a new process.
        """
        if self.accelerator.num_processes == 1:
            return
        kept = [buffer.clone() for buffer in self.model.buffers()]
        self.trained.train()
        self.backward(next(self.views(0, 0, 1)), 0, 0)
        self.optimizer.zero_grad(set_to_none=True)
        for buffer, value in zip(self.model.buffers(), kept, strict=True):
            buffer.copy_(value)

    # --- checks and checkpoints -------------------------------------------------------------------

    def check_and_agree(self) -> bool:
        """Check the steps since the last check; returns whether to save.

        All processes call it at the same step and get the same answer. Raises ``NotFinite``.
        """
        new = torch.stack(
            [torch.stack(self.losses[self.checked :]), torch.stack(self.norms[self.checked :])]
        )
        broken = (~new.isfinite()).any(0).nonzero()
        first = float(broken[0]) if len(broken) else math.inf
        due, length = math.inf, math.inf  # the first process decides
        if self.accelerator.is_main_process:
            ends = self.steps_done % self.steps_per_epoch == 0
            due = float(self.steps_done < self.steps and self.keeper.due(ends))
            length = self.interval.next_length(self.keeper.every)
        first, due, length = distributed.least([first, due, length], self.device)
        if first < math.inf:
            step = self.steps_done - new.shape[1] + int(first)
            raise NotFinite(self.describe_fault(step, *new[:, int(first)].tolist()), step)
        self.checked += new.shape[1]
        self.interval.start(int(length))
        if self.accelerator.is_main_process:
            self.estimate.tell(self.began, self.steps_done)
        return bool(due)

    def describe_fault(self, step: int, loss: float, norm: float) -> str:
        """Say which number of a step is not finite, and what may help."""
        fault = f"norm of the gradient is {norm}" if math.isfinite(loss) else f"loss is {loss}"
        return (
            f"the {fault} in epoch {step // self.steps_per_epoch + 1} "
            f"(step {step + 1}, lr {self.schedules.rate(step):.3g}); "
            "lower pretrain.lr or set pretrain.clip_norm, or narrow pretrain.objective.log_sigma"
        )

    def save(self) -> None:
        """Write a checkpoint. Call it where all steps so far are finite."""
        self.keeper.save(self.steps_done, self.history, self.losses, self.norms)

    def resume(self) -> bool:
        """Go to the last checkpoint of this run; returns whether there is one."""
        restored = self.keeper.restore(self.schedules.begin)
        if restored is None:
            return False
        self.steps_done, self.history = restored.step, restored.history
        self.history.thin(self.observe_every)
        self.losses, self.norms = list(restored.losses), list(restored.norms)
        self.checked = len(self.losses)
        if restored.path:
            log.info("goes on from step %d of %d, %s", restored.step, self.steps, restored.path)
        return True

    def keep_step(self, views: list[Tensor], epoch: int, place: int) -> None:
        """Write the state before a step, and the views of this process, to replay the step."""
        facts = {
            "step": self.steps_done,
            "where": [self.seed, epoch, place],
            "settings": asdict(self.settings),
            "precision": str(self.accelerator.mixed_precision),
            "processes": self.accelerator.num_processes,
            "threads": torch.get_num_threads(),
        }
        self.keeper.keep_step(self.steps_done, views, facts)
