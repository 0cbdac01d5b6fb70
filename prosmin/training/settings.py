"""How a model is trained: the settings of the loop, with defaults and ranges. Loads no torch."""

from dataclasses import dataclass
from typing import Annotated

from prosmin.common.settings import (
    Epochs,
    Flag,
    NonNegative,
    Pixels,
    Positive,
    Probability,
    Range,
    Several,
    Width,
)
from prosmin.views.settings import Views


@dataclass(frozen=True, kw_only=True)
class Target:
    """The target network. momentum: of its moving average, at the first and at the last step."""

    momentum: tuple[Probability, Probability] = (0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Settings of ``prosmin.training.loop.pretrain``.

    image_size: pixels a side of the two global views.
    epochs: passes over the images.
    batch_size: images per step, over all processes.
    lr: highest learning rate of AdamW, reached at the end of the warm-up.
    weight_decay, weight_decay_end: at the first and at the last step; ``None``: constant.
    warmup_epochs: in which the learning rate rises linearly.
    clip_norm: largest norm of the gradient; ``None``: no limit.
    accumulate: parts in which the encoder takes a batch.
    channels_last: memory layout of the encoder's convolutions.
    compile: the encoder, and on a GPU the views, by torch.compile.
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
    clip_norm: Positive | None = 3.0
    accumulate: Width = 1
    channels_last: Flag = False
    compile: Flag = False
