"""Backbones: timm models without their classifier, checked before training starts."""

from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prosmin.common.errors import ConfigError, nearest, reason
from prosmin.models import light_imports

# Options of timm.create_model that a user must leave out, with the reason.
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
DEEP = ("layers", "depth", "depths")  # options that count layers
MOST_LAYERS = 1000  # building more takes minutes


def build_backbone(
    name: str,
    image_size: int,
    channels: int,
    cifar_stem: bool = False,
    kwargs: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build a timm model without its classifier; torch's global generator draws its weights.

    Models of a fixed input size get ``img_size`` and, where they can, accept other resolutions as
    well (multi-crop).

    name: of the model in timm.
    image_size: pixels a side.
    channels: of the images.
    cifar_stem: give a ResNet the stem of He et al. (CVPR 2016, sec. 4.2) for small images: a 3x3
        convolution of stride 1 and no pooling. It has the channels of timm's stem: 64, or twice
        ``stem_width`` for ``stem_type: deep``.
    kwargs: options for ``timm.create_model``.

    Raises ``ConfigError`` for a name, option or size that timm cannot build.
    """
    timm = light_imports.timm()

    if not timm.is_model(name):
        near = nearest(name, timm.list_models())
        allowed = f"it must be a model that timm {timm.__version__} knows{near}"
        raise ConfigError("encoder.name", name, allowed)
    _check_options(kwargs or {})
    options = timm_options(name, image_size, kwargs)
    try:
        backbone: nn.Module = timm.create_model(
            name, pretrained=False, num_classes=0, in_chans=channels, **options
        )
    except Exception as error:  # timm's models raise nearly any type for a wrong option
        problem = f"timm cannot build {name} with it: {reason(error)}"
        raise ConfigError("encoder.kwargs", dict(kwargs or {}), problem) from None
    patch = getattr(getattr(backbone, "patch_embed", None), "patch_size", None)
    if patch and any(image_size % side for side in patch):
        allowed = f"it must be a multiple of the patch of {name}, {patch[0]} pixels"
        raise ConfigError("image_size", image_size, allowed)
    if cifar_stem:
        _replace_stem(backbone, name, channels)
    multiply_patches(backbone)
    _try(backbone, name, image_size, channels, kwargs or {})
    return backbone


def timm_options(name: str, image_size: int, kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return options for ``timm.create_model``, with the size for models of a fixed input size."""
    options = dict(kwargs or {})
    if getattr(light_imports.timm().get_pretrained_cfg(name), "fixed_input_size", False):
        options = {"img_size": image_size, "dynamic_img_size": True, **options}
    return options


def _check_options(kwargs: Mapping[str, Any]) -> None:
    """Raise ``ConfigError`` for options that belong to other settings or build for minutes."""
    for key, value in kwargs.items():
        dotted = f"encoder.kwargs.{key}"
        if key in TAKEN:
            raise ConfigError(dotted, value, f"it must be left out; {TAKEN[key]}")
        counts = value if isinstance(value, list | tuple) else [value]
        layers = sum(count for count in counts if isinstance(count, int | float))
        if key in DEEP and layers > MOST_LAYERS:
            raise ConfigError(dotted, value, f"it must be at most {MOST_LAYERS} in all")


def _replace_stem(backbone: nn.Module, name: str, channels: int) -> None:
    stem = getattr(backbone, "conv1", nn.Identity())
    convolutions = [module for module in stem.modules() if isinstance(module, nn.Conv2d)]
    if not convolutions or not hasattr(backbone, "maxpool"):
        allowed = f"it needs a ResNet, which {name} is not; set it to false"
        raise ConfigError("encoder.cifar_stem", True, allowed)
    width = convolutions[-1].out_channels
    convolution = nn.Conv2d(channels, width, 3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    backbone.conv1, backbone.maxpool = convolution, nn.Identity()


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


# --- patches --------------------------------------------------------------------------------------


class Patches(nn.Conv2d):
    """A convolution whose kernels do not overlap, computed as one matrix product.

    As a convolution, the patches of a ViT-S/16 took 18 of the 157 ms of a compiled step in bf16
    (512 images, two views, one H200), because cuDNN is slow at three channels.
    """

    def forward(self, images: Tensor) -> Tensor:
        count, channels, height, width = images.shape
        (tall, wide), features = self.kernel_size, self.out_channels
        rows, columns = height // tall, width // wide
        tiles = images[:, :, : rows * tall, : columns * wide].reshape(
            count, channels, rows, tall, columns, wide
        )
        flat = tiles.permute(0, 2, 4, 1, 3, 5).reshape(count, rows, columns, channels * tall * wide)
        return F.linear(flat, self.weight.view(features, -1), self.bias).permute(0, 3, 1, 2)


def multiply_patches(backbone: nn.Module) -> None:
    """Turn convolutions without overlap, of at most three channels, into ``Patches``."""
    for module in backbone.modules():
        if type(module) is not nn.Conv2d:
            continue
        plain = module.padding == (0, 0) and module.dilation == (1, 1) and module.groups == 1
        if plain and module.kernel_size == module.stride and module.in_channels <= 3:
            cast(Any, module).__class__ = Patches
