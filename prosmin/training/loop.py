"""The pretraining loop, the same code for one process or many, on CPU or GPU.

``pretrain`` checks the batch, prepares the encoders and runs ``Run.train``. Every step is

    views -> loss -> gradients -> clipped -> AdamW -> moving average of the target network

The order of the images, their views and all random draws are functions of (seed, epoch, step,
rank), learning rate and momentum functions of the step. So a checkpoint holds weights, the state of
the optimiser and the history only, and a killed run that continues ends with the same weights.

About every two seconds all processes agree on whether every loss and gradient norm is finite and
whether a checkpoint is due. A run whose loss is not finite goes back to its last checkpoint once.
"""

import logging
from contextlib import nullcontext

import torch
from accelerate import Accelerator
from torch import Tensor

from prosmin.common.errors import ConfigError, UserError
from prosmin.data.feed import Feed
from prosmin.models import light_imports
from prosmin.objectives.base import Objective
from prosmin.training.checkpoint import Checkpoints
from prosmin.training.run import NotFinite, Run
from prosmin.training.settings import TrainSettings
from prosmin.training.state import History, feed_of
from prosmin.training.watch.monitor import Monitor
from prosmin.training.watch.progress import Tell, Watch

log = logging.getLogger(__name__)


def pretrain(
    model: Objective,
    images: Tensor | Feed,
    settings: TrainSettings,
    seed: int,
    accelerator: Accelerator,
    monitor: Monitor | None = None,
    observations: int = 20,
    checkpoints: Checkpoints | None = None,
    trunk: Checkpoints | None = None,
    tell: Tell | None = None,
) -> History:
    """Train ``model`` in place.

    images: uint8 [N, C, H, W], or where they come from.
    observations: of the monitor, about, over the run.
    checkpoints: where the run is kept, and from where it continues; ``None`` keeps nothing.
    trunk: where the state before ``settings.decay_epochs`` is kept, and from where a run with more
        epochs starts.
    tell: is called after every epoch, in the first process.

    Raises ``ConfigError`` for a batch that the images or the processes cannot fill, ``Hopeless``
    below ``settings.stop_below``, and ``UserError`` when the loss stops being finite, again after
    one return to the last checkpoint.
    """
    _check_batch(model, len(images), settings.batch_size, accelerator.num_processes)
    watch = Watch(monitor, observations, tell)
    watch.check(settings.stop_below)
    model.prepare_encoders(settings.accumulate, settings.channels_last, settings.compile)
    devices = [accelerator.device] if accelerator.device.type == "cuda" else []
    light = nullcontext() if settings.compile else light_imports.without_compile()
    with torch.random.fork_rng(devices=devices), light:
        feed = feed_of(images)
        run = Run(model, feed, settings, seed, accelerator, watch, checkpoints, trunk)
        run.warm_up_ddp()
        if not run.resume():
            run.keeper.remember_start()
        try:
            run.train()
        except NotFinite as fault:
            if not run.resume():
                raise UserError(f"{fault}; {run.keeper.last_good()}") from None
            log.warning("%s; once more from the checkpoint of step %d", fault, run.steps_done)
            run.suspect = fault.step
            try:
                run.train()
            except NotFinite as again:
                raise UserError(f"{again}; {run.keeper.last_good()}") from None
            run.keeper.forget_step()
    return run.history


def _check_batch(model: Objective, images: int, batch_size: int, processes: int) -> None:
    if batch_size > images:
        allowed = f"there are only {images} training images; use at most that"
        raise ConfigError("batch_size", batch_size, allowed)
    if batch_size % processes:
        allowed = f"it must be a multiple of the {processes} processes"
        raise ConfigError("batch_size", batch_size, allowed)
    model.check_batch(batch_size)
