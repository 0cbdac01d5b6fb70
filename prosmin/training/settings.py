"""How a model is trained: settings with defaults and ranges, and schedules. Loads no torch."""

from dataclasses import dataclass
from typing import Annotated, Literal

from prosmin.common.settings import (
    Epochs,
    Flag,
    NonNegative,
    Pixels,
    Positive,
    Probability,
    Range,
    Refused,
    Several,
    Width,
)
from prosmin.training.schedules import cosine, warmup_cosine
from prosmin.views.settings import Views


@dataclass(frozen=True, kw_only=True)
class Target:
    """The target network. momentum: of its moving average, at the first and at the last step."""

    momentum: tuple[Probability, Probability] = (0.0, 1.0)


STOPPED = "stopped early"  # begins the message of a run that was hopeless


@dataclass(frozen=True, kw_only=True)
class StopBelow:
    """When a run is hopeless: a diagnostic that is below ``value`` from ``epoch`` on."""

    metric: Literal["knn_accuracy", "probe_accuracy", "rankme", "feature_std"]
    value: Positive
    epoch: Epochs


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Settings of ``prosmin.training.loop.pretrain``.

    image_size: pixels a side of the two global views.
    epochs: passes over the images.
    batch_size: images per step, over all processes.
    lr: highest learning rate of AdamW, reached at the end of the warm-up.
    weight_decay, weight_decay_end: at the first and at the last step; ``None``: constant.
    warmup_epochs: in which the learning rate rises linearly.
    decay_epochs: the last epochs, in which learning rate, momentum of the target and weight decay
        go to their ends; before, they stay where they are. ``None``: the whole run.
    clip_norm: largest norm of the gradient; ``None``: no limit.
    accumulate: parts in which the encoder takes a batch.
    channels_last: memory layout of the encoder's convolutions.
    compile: the encoder, and on a GPU the views, by torch.compile.
    stop_below: ends a hopeless run; ``None``: never.
    """

    image_size: Pixels
    epochs: Epochs
    batch_size: Several
    lr: Annotated[float, Range(above=0, most=1000)]
    target: Target = Target()
    views: Views = Views()
    weight_decay: NonNegative = 0.05
    weight_decay_end: NonNegative | None = None
    warmup_epochs: NonNegative = 5
    decay_epochs: Epochs | None = None
    clip_norm: Positive | None = 3.0
    accumulate: Width = 1
    channels_last: Flag = False
    compile: Flag = False
    stop_below: StopBelow | None = None

    def __post_init__(self) -> None:
        if self.decay_epochs and self.warmup_epochs + self.decay_epochs > self.epochs:
            allowed = f"with warmup_epochs {self.warmup_epochs} it is more than all {self.epochs}"
            raise Refused("decay_epochs", self.decay_epochs, f"{allowed} epochs")


@dataclass(frozen=True)
class Schedules:
    """The schedules of a run.

    steps, warmup: of the run and of its warm-up.
    begin: the step from which all of them move to their ends. Up to it, nothing depends on the
        number of epochs where ``decay_epochs`` is set.
    """

    settings: TrainSettings
    steps: int
    warmup: int
    begin: int

    @classmethod
    def of(cls, settings: TrainSettings, steps_per_epoch: int) -> "Schedules":
        """The schedules of a run with so many steps in an epoch."""
        steps = steps_per_epoch * settings.epochs
        warmup = round(settings.warmup_epochs * steps_per_epoch)
        if settings.decay_epochs is None:
            return cls(settings, steps, min(warmup, steps // 2), 0)
        begin = steps - settings.decay_epochs * steps_per_epoch
        return cls(settings, steps, min(warmup, begin), begin)

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        return warmup_cosine(self.settings.lr, step, self.steps, self.warmup, self.begin)

    def momentum(self, step: int) -> float:
        """Momentum of the target network after a step."""
        return cosine(*self.settings.target.momentum, step, self.steps, self.begin)

    def decay(self, step: int) -> float:
        """Weight decay of a step."""
        start, end = self.settings.weight_decay, self.settings.weight_decay_end
        return cosine(start, start if end is None else end, step, self.steps, self.begin)
