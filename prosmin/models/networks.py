"""Encoder, projector and Gaussian predictor, and the momentum copy of the first two.

Letters in shapes: B images, C channels, S pixels a side, F features, D dimensions of the projection.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from prosmin.common.errors import ConfigError, nearest, reason
from prosmin.models import light_imports

# Options of timm.create_model that are no choice of the user's, and why.
TAKEN = {
    "num_classes": "the encoder has no classifier",
    "in_chans": "pretrain.channels says it",
    "features_only": "the encoder gives one vector for an image",
    "out_indices": "the encoder gives one vector for an image",
    "scriptable": "the encoder is trained in plain PyTorch",
    "exportable": "the encoder is trained in plain PyTorch",
    "no_jit": "the encoder is trained in plain PyTorch",
} | dict.fromkeys(
    (
        "pretrained",
        "checkpoint_path",
        "pretrained_cfg",
        "pretrained_cfg_overlay",
        "pretrained_strict",
        "cache_dir",
    ),
    "weights of others come by pretrain.external",
)
DEEP = ("layers", "depth", "depths")
MOST_LAYERS = 1000  # to build more takes minutes
CACHED_PIXELS = 2**16  # of a part of a batch in evaluation on a CPU
CACHED_IMAGES = (
    8  # of them, at least: matrix products of fewer are slower than what the cache saves
)


class Encoder(nn.Module):
    """A timm backbone behind the normalisation of its input.

    forward: float [B, C, S, S] in [0, 1] -> features [B, F]. ``mean`` and ``std`` are per channel, of the
    training images in [0, 1]; they are settings (kept in ``model.json``), not weights.

    parts: while training, a batch goes through the backbone in so many parts, one after the other, of which activations
    are held for one alone: they are computed again for the gradient (Chen et al. 2016, arXiv 1604.06174). What comes
    after the encoder sees the whole batch, so every loss is that of one part, to rounding.

    In evaluation mode on a CPU a batch goes through in parts whose activations stay in its cache, channels last: up to three
    times faster.
    """

    def __init__(self, backbone: nn.Module, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.backbone = backbone
        self.num_features: int = backbone.num_features
        self.parts, self.channels_last = 1, False
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        images = (images - self.mean) / self.std
        in_cache = not self.training and images.device.type == "cpu"
        if self.channels_last or in_cache:
            images = images.contiguous(memory_format=torch.channels_last)
        if in_cache:
            count = max(CACHED_IMAGES, CACHED_PIXELS // images.shape[-2:].numel())
            return torch.cat([self.backbone(part) for part in images.split(count)])
        if self.parts == 1 or not self.training:
            return self.backbone(images)
        parts = images.chunk(self.parts)
        if not torch.is_grad_enabled():
            return torch.cat([self.backbone(part) for part in parts])
        return torch.cat([checkpoint(self.backbone, part, use_reentrant=False) for part in parts])

    def in_parts(self, count: int) -> None:
        """Set ``parts``. Raises ``ConfigError`` for a backbone whose batch normalisation would see a part alone."""
        if count > 1 and any(
            isinstance(module, nn.modules.batchnorm._BatchNorm) for module in self.modules()
        ):
            raise ConfigError(
                "accumulate",
                count,
                "the encoder normalises by the batch, of which it would see a part; it must be 1, or the encoder one "
                "without batch normalisation (a ViT, a ConvNeXt)",
            )
        self.parts = count


class Patches(nn.Conv2d):
    """A convolution whose kernels do not overlap, as one matrix product. As a convolution that of a ViT-S/16 took 18 of the 157 ms of a
    compiled step in bf16 (512 images, two views, one H200): cuDNN is slow at three channels."""

    def forward(self, images: Tensor) -> Tensor:
        count, channels, height, width = images.shape
        (tall, wide), features = self.kernel_size, self.out_channels
        rows, columns = height // tall, width // wide
        cut = images[:, :, : rows * tall, : columns * wide].reshape(
            count, channels, rows, tall, columns, wide
        )
        flat = cut.permute(0, 2, 4, 1, 3, 5).reshape(count, rows, columns, channels * tall * wide)
        return F.linear(flat, self.weight.view(features, -1), self.bias).permute(0, 3, 1, 2)


def multiply_patches(backbone: nn.Module) -> None:
    """Turn the convolutions of images of three channels or fewer into ``Patches`` where that is the same."""
    for module in backbone.modules():
        plain = (
            type(module) is nn.Conv2d
            and module.padding == (0, 0)
            and module.dilation == (1, 1)
            and module.groups == 1
        )
        if plain and module.kernel_size == module.stride and module.in_channels <= 3:
            module.__class__ = Patches


def build_backbone(
    name: str,
    image_size: int,
    channels: int,
    cifar_stem: bool = False,
    kwargs: Mapping[str, Any] | None = None,
) -> nn.Module:
    """A timm model without its classifier, at its initial weights (drawn from torch's global generator).

    ``cifar_stem`` gives a ResNet the stem of He et al. (CVPR 2016, sec. 4.2) for small images: a 3x3 convolution of
    stride 1 and no pooling, with the channels of timm's stem: 64, or twice ``stem_width`` in one of ``stem_type: deep``.
    Models of a fixed input size get ``img_size`` and, where they can, accept other resolutions as well (multi-crop). Raises
    ``ConfigError`` for a name, option or size that timm cannot build.
    """
    timm = light_imports.timm()

    if not timm.is_model(name):
        raise ConfigError(
            "encoder.name",
            name,
            f"it must be a model that timm {timm.__version__} knows"
            + nearest(name, timm.list_models()),
        )
    _check(kwargs or {})
    options = timm_options(name, image_size, kwargs)
    try:
        backbone = timm.create_model(
            name, pretrained=False, num_classes=0, in_chans=channels, **options
        )
    except Exception as error:  # each of its models stumbles over an odd value in a way of its own
        raise ConfigError(
            "encoder.kwargs",
            dict(kwargs or {}),
            f"timm cannot build {name} with it: {reason(error)}",
        ) from None
    patch = getattr(getattr(backbone, "patch_embed", None), "patch_size", None)
    if patch and any(image_size % side for side in patch):
        raise ConfigError(
            "image_size",
            image_size,
            f"it must be a multiple of the patch of {name}, {patch[0]} pixels",
        )
    if cifar_stem:
        convolutions = [
            each
            for each in getattr(backbone, "conv1", nn.Identity()).modules()
            if isinstance(each, nn.Conv2d)
        ]
        if not convolutions or not hasattr(backbone, "maxpool"):
            raise ConfigError(
                "encoder.cifar_stem",
                True,
                f"it needs a ResNet, which {name} is not; set it to false",
            )
        backbone.conv1 = nn.Conv2d(
            channels, convolutions[-1].out_channels, 3, stride=1, padding=1, bias=False
        )
        nn.init.kaiming_normal_(backbone.conv1.weight, mode="fan_out", nonlinearity="relu")
        backbone.maxpool = nn.Identity()
    multiply_patches(backbone)
    _try(backbone, name, image_size, channels, kwargs or {})
    return backbone


def _check(kwargs: Mapping[str, Any]) -> None:
    """Refuse options that decide what is decided elsewhere, load weights, or build for minutes."""
    for key, value in kwargs.items():
        if key in TAKEN:
            raise ConfigError(f"encoder.kwargs.{key}", value, f"it must be left out; {TAKEN[key]}")
        counts = value if isinstance(value, list | tuple) else [value]
        if (
            key in DEEP
            and sum(each for each in counts if isinstance(each, int | float)) > MOST_LAYERS
        ):
            raise ConfigError(
                f"encoder.kwargs.{key}", value, f"it must be at most {MOST_LAYERS} in all"
            )


def _try(
    backbone: nn.Module, name: str, image_size: int, channels: int, kwargs: Mapping[str, Any]
) -> None:
    """Raise ``ConfigError`` unless the backbone turns an image into a vector of features."""
    key, value = ("encoder.kwargs", dict(kwargs)) if kwargs else ("image_size", image_size)
    with torch.no_grad():
        try:
            features = backbone.eval()(torch.zeros(1, channels, image_size, image_size))
        except Exception as error:
            problem = f"{name} cannot take an image of {image_size} pixels with it: {reason(error)}"
            raise ConfigError(key, value, problem) from None
    backbone.train()
    shape = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
    if shape != [1, backbone.num_features]:
        problem = f"{name} gives {shape} for an image, where [1, {backbone.num_features}] is needed"
        raise ConfigError(key, value, problem)


def timm_options(name: str, image_size: int, kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """``kwargs`` for ``timm.create_model``, with those that a model of a fixed input size needs."""
    options = dict(kwargs or {})
    if getattr(light_imports.timm().get_pretrained_cfg(name), "fixed_input_size", False):
        options = {"img_size": image_size, "dynamic_img_size": True, **options}
    return options


class Projector(nn.Sequential):
    """[B, F] -> [B, D]: one hidden layer with batch normalisation.

    The last layer is linear, so the target normalisation alone sets the scale of what is predicted.
    """

    def __init__(self, features: int, hidden_dim: int, dim: int):
        super().__init__(
            nn.Linear(features, hidden_dim, bias=False),
            nn.BatchNorm1d(hidden_dim),
            nn.ReLU(inplace=True),
            nn.Linear(hidden_dim, dim),
        )


class GaussianHead(nn.Module):
    """[B, D] -> (mu [B, D], log sigma [B, D]), each a linear map; log sigma is clamped to ``log_sigma``.

    Purely linear heads did better than an MLP predictor at every scale tried (docs/method.md).
    """

    def __init__(self, dim: int, log_sigma: tuple[float, float]):
        super().__init__()
        self.mu = nn.Linear(dim, dim)
        self.log_sigma = nn.Linear(dim, dim)
        self.range = log_sigma

    def forward(self, projection: Tensor) -> tuple[Tensor, Tensor]:
        return self.mu(projection), self.log_sigma(projection).clamp(*self.range)


def momentum_copy(*modules: nn.Module) -> nn.ModuleList:
    """Deep copies that take no gradient and share no storage with their originals (asserted)."""
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
    """target <- momentum * target + (1 - momentum) * online, for every parameter.

    Batch statistics are left alone: the target normalises by its own batch, as the online network does.
    """
    for copied, original in zip(target, online, strict=True):
        old, new = list(copied.parameters()), list(original.parameters())
        torch._foreach_lerp_(old, new, 1.0 - momentum)


def decay_groups(model: nn.Module, weight_decay: float = 0.0) -> list[dict[str, Any]]:
    """Parameters that train, in two groups for an optimiser: matrices and kernels decay, biases and normalisation do not.

    weight_decay: of the first group, which ``decays``; a schedule may set it at each step.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {
            "params": [p for p in trained if p.ndim > 1],
            "decays": True,
            "weight_decay": weight_decay,
        },
        {"params": [p for p in trained if p.ndim <= 1], "decays": False, "weight_decay": 0.0},
    ]
