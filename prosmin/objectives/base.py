"""What every objective has: the interface that the training loop, the monitor and ``stages.embed`` rely on.

An objective owns the encoder and whatever else its loss needs. Letters in shapes: B images, C channels, S pixels a side,
F features, D dimensions of the projection, N images over all processes.

Views: the first two are global, [B, C, S, S]; further, local ones are [B, C, s, s], of one size or several. A target network sees
the global ones alone; every online view is held against every global view but itself.
"""

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from prosmin.models.networks import Encoder, momentum_copy, update_momentum


class Objective(nn.Module):
    """``forward(views, generator)`` returns the scalar loss of this process, ready for ``backward``; what is minimised is
    its mean over processes. ``generator`` is for the draws of the loss."""

    encoder: Encoder

    # Where a distribution is predicted: the clamp of its log sigma.
    sigma_range: tuple[float, float] | None = None

    def describe(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """images [B, C, S, S] -> features [B, F] and the predicted log sigma [B, D], None where none is predicted."""
        return self.encoder(images), None

    def momentum_update(self, momentum: float) -> None:
        """Called after the optimiser's step; for an objective with a target network."""

    def prepare_encoders(self, parts: int, channels_last: bool, compiled: bool) -> None:
        """Set how the encoders run, that of a target network included.

        parts: in which each of them takes a batch.
        channels_last: memory layout of convolutions.
        compiled: by torch.compile.

        Raises ``ConfigError`` for several parts of an encoder with batch normalisation.
        """
        for encoder in (module for module in self.modules() if isinstance(module, Encoder)):
            encoder.in_parts(parts)
            encoder.channels_last = channels_last
            if compiled:
                encoder.compile(dynamic=False)
        if channels_last:
            self.to(memory_format=torch.channels_last)

    def check_batch(self, batch_size: int) -> None:
        """Raise ``ConfigError`` for a batch, over all processes, that cannot work."""


class Projecting(Objective):
    """An encoder and a projector."""

    def __init__(self, encoder: Encoder, projector: nn.Module):
        super().__init__()
        self.encoder = encoder
        self.projector = projector

    def project(self, images: Tensor) -> Tensor:
        """images [B, C, S, S] -> projection [B, D] by the online network."""
        return self.projector(self.encoder(images))


class Distilling(Projecting):
    """An online network and a target network that follows it as a moving average and takes no gradient."""

    def follow(self, *modules: nn.Module) -> None:
        """Make the target network: copies of ``modules``, which are applied one after the other."""
        self.target = momentum_copy(*modules)
        self._online = tuple(modules)  # a tuple, so that they are not registered a second time

    @torch.no_grad()
    def targets(self, images: Tensor) -> Tensor:
        """images [B, C, S, S] -> what the target network makes of them [B, D]."""
        for module in self.target:
            images = module(images)
        return images

    def momentum_update(self, momentum: float) -> None:
        update_momentum(self.target, self._online, momentum)


def together(views: Sequence[Tensor]) -> list[Tensor]:
    """What goes through a network in one pass each: the two global views, and the local ones of a size."""
    local = [
        list(same) for _, same in itertools.groupby(views[2:], key=lambda view: view.shape[-1])
    ]
    return [torch.cat(each) for each in (list(views[:2]), *local)]


def each_view(network: Callable[[Tensor], Tensor], views: Sequence[Tensor]) -> list[Tensor]:
    """float32 [B, D] of each view, in as few passes of the network as there are sizes of them."""
    return [
        part for batch in together(views) for part in network(batch).float().split(len(views[0]))
    ]


def full_precision(like: Tensor) -> torch.autocast:
    """A context without autocast: losses and statistics are differences of near-equal terms."""
    return torch.autocast(like.device.type, enabled=False)


def pairs(count: int) -> list[tuple[int, int]]:
    """(online view, global target view) of ``count`` views."""
    return [(online, target) for online in range(count) for target in range(2) if online != target]


def unordered_pairs(count: int) -> list[tuple[int, int]]:
    """The same without a direction: each two views of which one is global, once."""
    return [(first, second) for first in range(2) for second in range(first + 1, count)]
