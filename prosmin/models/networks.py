"""Encoder, projector, Gaussian predictor and width, and the momentum copy of the first two.

Letters in shapes: B images, C channels, S pixels a side, F features, D dimensions of the
projection.
"""

import copy
import math
from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from prosmin.common.errors import ConfigError

CACHED_PIXELS = 2**16  # of a part of a batch in evaluation on a CPU
CACHED_IMAGES = 8  # fewest images of such a part; matrix products of fewer images are slow
WIDTHS = (0.1, 1.0)  # least and largest of ``WidthHead``, of targets of length 1


class Encoder(nn.Module):
    """A timm backbone behind the normalisation of its input.

    Maps float [B, C, S, S] in [0, 1] to features [B, F]. In evaluation mode on a CPU, a batch goes
    through the backbone in parts whose activations stay in the cache, channels last. This is up to
    three times faster.

    mean, std: per channel, of the training images in [0, 1]. They are settings (stored in
        ``model.json``), not weights.
    parts: see ``in_parts``.
    channels_last: memory layout of the images.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.backbone = backbone
        self.num_features = cast(int, backbone.num_features)
        self.parts, self.channels_last = 1, False
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        images = (images - self.mean) / self.std
        # An exported graph has one path for batches of any size.
        in_cache = not (
            self.training or images.device.type != "cpu" or torch.compiler.is_exporting()
        )
        if self.channels_last or in_cache:
            images = images.contiguous(memory_format=torch.channels_last)
        if in_cache:
            count = max(CACHED_IMAGES, CACHED_PIXELS // images.shape[-2:].numel())
            return torch.cat([self.backbone(part) for part in torch.split(images, count)])
        if self.parts == 1 or not self.training:
            features: Tensor = self.backbone(images)
            return features
        parts = images.chunk(self.parts)
        if not torch.is_grad_enabled():
            return torch.cat([self.backbone(part) for part in parts])
        return torch.cat([checkpoint(self.backbone, part, use_reentrant=False) for part in parts])

    def in_parts(self, count: int) -> None:
        """Pass training batches through the backbone in ``count`` parts, one after the other.

        Memory holds the activations of one part; they are computed again for the gradient (Chen et
        al. 2016, arXiv 1604.06174). The layers after the encoder see the whole batch, so that a
        loss equals the loss without parts up to rounding.

        Raises ``ConfigError`` for a backbone with batch normalisation, which would see one part.
        """
        if count > 1 and any(
            isinstance(module, nn.modules.batchnorm._BatchNorm) for module in self.modules()
        ):
            raise ConfigError(
                "accumulate",
                count,
                "the encoder normalises by the batch, of which it would see a part; it must be 1, "
                "or the encoder one without batch normalisation (a ViT, a ConvNeXt)",
            )
        self.parts = count


class Projector(nn.Sequential):
    """One hidden layer with batch normalisation: [B, F] -> [B, D].

    The last layer is linear, so that the target normalisation alone sets the scale of the targets.
    """

    def __init__(self, features: int, hidden_dim: int, dim: int):
        super().__init__(
            nn.Linear(features, hidden_dim, bias=False),
            nn.BatchNorm1d(hidden_dim),
            nn.ReLU(inplace=True),
            nn.Linear(hidden_dim, dim),
        )


class GaussianHead(nn.Module):
    """Two linear maps: [B, D] -> (mu [B, D], log sigma [B, D]).

    Linear heads did better than an MLP predictor at every scale tried (docs/method.md).

    log_sigma: lowest and highest log sigma; values beyond them are clamped.
    """

    def __init__(self, dim: int, log_sigma: tuple[float, float]):
        super().__init__()
        self.mu = nn.Linear(dim, dim)
        self.log_sigma = nn.Linear(dim, dim)
        self.range = log_sigma

    def forward(self, projection: Tensor) -> tuple[Tensor, Tensor]:
        return self.mu(projection), self.log_sigma(projection).clamp(*self.range)


class WidthHead(nn.Module):
    """Log width of an isotropic density, one per image: [B, D] -> float32 [B].

    A predicted and a constant width stay between the two ``WIDTHS`` and approach them smoothly. At
    a hard clamp, and at widths for which all targets are alike, no gradient would bring a width
    back, and none would train the encoder.

    how: ``predicted``: a linear map of the projection; ``constant``: one learned number for all
        images; ``fixed``: the initial width throughout.
    initial: width at the start; that of ``predicted`` varies a little around it, by random weights.
    """

    def __init__(self, dim: int, how: str, initial: float):
        super().__init__()
        self.linear = nn.Linear(dim, 1) if how == "predicted" else None
        low, high = (math.log(width) for width in WIDTHS)
        self.low, self.span = low, high - low
        self.is_fixed = how == "fixed"
        share = (math.log(initial) - low) / self.span
        start = math.log(initial if self.is_fixed else share / (1.0 - share))
        bias = torch.full((1,), start)
        if self.linear is not None:
            # The optimiser moves every weight by its rate, so the map moves by D times the rate.
            self.scale = dim**-0.5
            self.linear.bias = nn.Parameter(bias / self.scale)
        elif self.is_fixed:
            self.register_buffer("bias", bias, persistent=False)
        else:
            self.bias = nn.Parameter(bias)

    def forward(self, projection: Tensor) -> Tensor:
        with torch.autocast(projection.device.type, enabled=False):  # bf16 would round it by 1 %
            if self.linear is not None:
                value: Tensor = self.linear(projection.float()).squeeze(1) * self.scale
            else:
                value = self.bias.expand(len(projection))
            return value if self.is_fixed else self.low + self.span * torch.sigmoid(value)


def momentum_copy(*modules: nn.Module) -> nn.ModuleList:
    """Copy modules deeply; the copies take no gradient and share no storage (asserted)."""
    copies = nn.ModuleList(copy.deepcopy(module) for module in modules).requires_grad_(False)
    original = {tensor.data_ptr() for module in modules for tensor in _tensors(module)}
    shared = [tensor for tensor in _tensors(copies) if tensor.data_ptr() in original]
    assert not shared, "the target network shares storage with the online network"
    assert all(
        parameter.requires_grad for module in modules for parameter in module.parameters()
    ), "part of the online network is frozen"
    return copies


def _tensors(module: nn.Module) -> Iterable[Tensor]:
    yield from (tensor for tensor in module.parameters() if tensor.numel())
    yield from (tensor for tensor in module.buffers() if tensor.numel())


@torch.no_grad()
def update_momentum(target: nn.ModuleList, online: Sequence[nn.Module], momentum: float) -> None:
    """Set target to momentum * target + (1 - momentum) * online, for every parameter.

    Batch statistics stay, because the target network normalises by its own batch, as the online
    network does.
    """
    for copied, original in zip(target, online, strict=True):
        old: list[Tensor] = list(copied.parameters())
        new: list[Tensor] = list(original.parameters())
        torch._foreach_lerp_(old, new, 1.0 - momentum)


def decay_groups(model: nn.Module, weight_decay: float = 0.0) -> list[dict[str, Any]]:
    """Return the trained parameters in two groups for an optimiser.

    Matrices and kernels decay; biases and the parameters of normalisation do not.

    weight_decay: of the first group, which has the entry ``decays``; a schedule may change it at
        every step.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {
            "params": [parameter for parameter in trained if parameter.ndim > 1],
            "decays": True,
            "weight_decay": weight_decay,
        },
        {
            "params": [parameter for parameter in trained if parameter.ndim <= 1],
            "decays": False,
            "weight_decay": 0.0,
        },
    ]
