"""What every objective has: the interface for the training loop, the monitor and ``embed``.

An objective owns the encoder and everything else that its loss needs.

Letters in shapes: B images, C channels, S pixels a side, F features, D dimensions of the
projection, N images over all processes.

The first two views are global, [B, C, S, S]; the others are local, [B, C, s, s], of one size or
several. A target network sees the global views only. Every online view is compared with every
global view except itself.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from prosmin.models.networks import Encoder, momentum_copy, update_momentum
from prosmin.objectives.doubts import DOUBTS


@dataclass(frozen=True)
class Description:
    """What the networks compute from images alone.

    features: [B, F].
    log_sigma: predicted log standard deviation [B, D]; ``None`` without a predicted distribution.
    doubts: by name in ``DOUBTS``, float32 [B], high where the networks are
        unsure of an image.
    """

    features: Tensor
    log_sigma: Tensor | None = None
    doubts: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.doubts.keys() <= DOUBTS.keys(), "a score without a definition"


class Objective(nn.Module):
    """A network with a loss.

    ``forward(views, generator)`` returns the loss of this process, []; training minimises its mean
    over processes. The generator is for draws of the loss.

    sigma_range: lowest and highest predicted log sigma; ``None`` without a predicted distribution.
    """

    encoder: Encoder
    sigma_range: tuple[float, float] | None = None

    def describe(self, images: Tensor) -> Description:
        """Compute features, predicted log sigma and doubts of images [B, C, S, S]."""
        return Description(self.encoder(images))

    def set_candidates(self, images: Tensor) -> None:
        """Keep the targets of training images, where the scores of ``describe`` need them.

        images: uint8 [K, C, S, S]. Call it in evaluation mode and in one process.
        """

    def momentum_update(self, momentum: float) -> None:
        """Move the target network, if there is one. Called after every step of the optimiser."""

    def reset_target(self) -> None:
        """Make the target network, if there is one, a copy of the online network, as at first."""

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
        projection: Tensor = self.projector(self.encoder(images))
        return projection

    def predicted_mean(self, projection: Tensor) -> Tensor | None:
        """projection [B, D] -> predicted target [B, D], or ``None`` without a predictor."""
        return None

    def describe(self, images: Tensor) -> Description:
        features = self.encoder(images)
        return Description(features, doubts=self.doubts(self.projector(features)))

    def doubts(self, projection: Tensor) -> dict[str, Tensor]:
        """Scores by name, [B] each, of projections [B, D]."""
        doubts = {"projection_norm": minus_length(projection)}
        if (mean := self.predicted_mean(projection)) is not None:
            doubts["mean_norm"] = minus_length(mean)
        return doubts


class Distilling(Projecting):
    """An online network and a target network, its moving average, which takes no gradient."""

    def follow(self, *modules: nn.Module) -> None:
        """Make the target network: copies of ``modules``, applied one after the other."""
        self.target = momentum_copy(*modules)
        self._online = tuple(modules)  # in a tuple, which registers no module a second time

    def reset_target(self) -> None:
        for copied, original in zip(self.target, self._online, strict=True):
            copied.load_state_dict(original.state_dict())

    @torch.no_grad()
    def targets(self, images: Tensor) -> Tensor:
        """images [B, C, S, S] -> output of the target network [B, D]."""
        for module in self.target:
            images = module(images)
        return images

    def momentum_update(self, momentum: float) -> None:
        update_momentum(self.target, self._online, momentum)


@torch.no_grad()
def outputs_of(
    network: Callable[[Tensor], Tensor],
    images: Tensor,
    device: torch.device,
    batch_size: int = 512,
) -> Tensor:
    """The network's outputs, float32 [K, D] in memory, for uint8 images [K, C, S, S].

    device: of the network.
    """
    parts = [
        network(batch.to(device).float() / 255.0).float().cpu()
        for batch in torch.split(images, batch_size)
    ]
    return torch.cat(parts)


def minus_length(vectors: Tensor) -> Tensor:
    """Minus the Euclidean length of vectors [B, D], float32 [B]."""
    length: Tensor = vectors.float().norm(dim=1)
    return -length


def batches_by_size(views: Sequence[Tensor]) -> list[Tensor]:
    """The two global views as one batch, and the local views of every size as one batch."""
    local = [
        list(same) for _, same in itertools.groupby(views[2:], key=lambda view: view.shape[-1])
    ]
    return [torch.cat(group) for group in (list(views[:2]), *local)]


def outputs_per_view(network: Callable[[Tensor], Tensor], views: Sequence[Tensor]) -> list[Tensor]:
    """The network's output for every view, float32 [B, D], in one pass per size of views."""
    count = len(views[0])
    return [
        output
        for batch in batches_by_size(views)
        for output in torch.split(network(batch).float(), count)
    ]


def full_precision(like: Tensor) -> torch.autocast:
    """A context without autocast, for losses and statistics: differences of near-equal terms."""
    return torch.autocast(like.device.type, enabled=False)


def pairs(count: int) -> list[tuple[int, int]]:
    """(online view, global target view) of ``count`` views, without pairs of a view with itself."""
    return [(online, target) for online in range(count) for target in range(2) if online != target]


def unordered_pairs(count: int) -> list[tuple[int, int]]:
    """Two views of which one is global, every pair once."""
    return [(first, second) for first in range(2) for second in range(first + 1, count)]
