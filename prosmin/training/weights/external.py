"""Encoders trained elsewhere: weights of a timm model in a safetensors file or on the model hub.

Nothing is unpickled. Files of the hub are those of one commit.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from torch import Tensor, nn

from prosmin.common import files
from prosmin.common.errors import ConfigError, UserError, reason, shown
from prosmin.data.frame import SMALLEST_SHARE, Frame
from prosmin.models import light_imports
from prosmin.models.backbone import build_backbone, timm_options
from prosmin.views.settings import Interpolation

if TYPE_CHECKING:
    from prosmin.models.store import ModelSettings


@dataclass(frozen=True)
class Weights:
    """A safetensors file of a timm model.

    path: of the file.
    name: for model cards; it tells nothing about the machine.
    config: the ``config.json`` beside the file, as timm writes it, or empty.
    """

    path: Path
    name: str
    config: dict[str, Any]

    def digest(self) -> str:
        """SHA-256 of the file, in hexadecimal."""
        with open(self.path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def facts(self) -> dict[str, str]:
        """Name and SHA-256, for whoever reads a model made from them."""
        return {"weights": self.name, "sha256": self.digest()}

    def check(self, key: str, sha256: str | None) -> None:
        """Raise ``ConfigError`` for the setting ``key`` where the file has another SHA-256."""
        if sha256 is not None and sha256 != (found := self.digest()):
            raise ConfigError(f"{key}.sha256", sha256, f"the file {self.path} has {found}")

    def normalisation(self, model: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Mean and standard deviation of the input in training, per channel in [0, 1].

        The config says them, or timm for a ``model`` whose weights it knows
        (``resnet18.a1_in1k``); ``None`` where neither does.
        """
        settings = self.config.get("pretrained_cfg", self.config)
        if "mean" not in settings or "std" not in settings:
            if "." not in model or not (known := light_imports.timm().get_pretrained_cfg(model)):
                return None
            settings = {"mean": known.mean, "std": known.std}
        return tuple(map(float, settings["mean"])), tuple(map(float, settings["std"]))


def frame(
    weights: Weights,
    model: str,
    size: int,
    crop_pct: float | None = None,
    interpolation: Interpolation | None = None,
) -> Frame:
    """How an image becomes the encoder's input: as given, or as in the evaluation of its weights.

    The config beside the weights says it, or timm for a ``model`` whose weights it knows.

    size: pixels a side.

    Raises ``ConfigError`` for an interpolation that is not known here.
    """
    settings = weights.config.get("pretrained_cfg", weights.config)
    if "crop_pct" not in settings and "." in model:
        known = light_imports.timm().get_pretrained_cfg(model)
        if known is not None:
            settings = {"crop_pct": known.crop_pct, "interpolation": known.interpolation}
    name = interpolation or settings.get("interpolation", "bilinear")
    if name not in get_args(Interpolation):
        allowed = f"the weights of {weights.name} were evaluated with {shown(name)}; "
        allowed += f"choose {' or '.join(get_args(Interpolation))}"
        raise ConfigError("interpolation", interpolation, allowed)
    share = crop_pct or settings.get("crop_pct", 1.0)
    number = isinstance(share, int | float) and not isinstance(share, bool)
    if not (number and SMALLEST_SHARE <= share <= 1):
        range_ = f"[{SMALLEST_SHARE}, 1]"
        allowed = f"the weights of {weights.name} say {shown(share)}; give a number in {range_}"
        raise ConfigError("crop_pct", crop_pct, allowed)
    return Frame(size, float(share), name)


def normalisation(
    weights: Weights,
    model: str,
    channels: int,
    given: tuple[Sequence[float], Sequence[float]] | None = None,
    key: str = "external",
) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and std of an encoder's input, per channel: as ``given``, or as its weights say.

    key: the setting that may give them, for messages.

    Raises ``ConfigError`` where nobody says them, or says them for other channels.
    """
    known = given or weights.normalisation(model)
    if known is None:
        silent = f"no config.json beside the weights of {weights.name} says how their input was"
        raise ConfigError(f"{key}.mean", None, f"{silent} normalised; give mean and std")
    if len(known[0]) != channels:
        needed = f"the input of {weights.name} is normalised as {len(known[0])} channels"
        raise ConfigError("channels", channels, needed)
    return known


def from_file(path: str | Path, key: str = "external", sha256: str | None = None) -> Weights:
    """Weights in a safetensors file or in a folder with ``model.safetensors``.

    The ``config.json`` beside them is read, if there is one.

    key: the setting that holds ``path`` and ``sha256``, for messages.
    sha256: that the file must have; ``None``: any.

    Raises ``ConfigError`` where there are none.
    """
    given = Path(path).expanduser()
    file = given / "model.safetensors" if given.is_dir() else given
    if file.suffix != ".safetensors":
        raise ConfigError(
            f"{key}.path",
            str(path),
            "it must be a file named *.safetensors, or a folder with model.safetensors; pickled "
            "weights are not read",
        )
    if not file.is_file():
        raise ConfigError(f"{key}.path", str(path), f"there is no file {file}")
    weights = Weights(file, file.name, _config(file.parent / "config.json"))
    weights.check(key, sha256)
    return weights


def from_hub(repo: str, revision: str, key: str = "external") -> Weights:
    """``model.safetensors`` and ``config.json`` of a commit of the hub, or of its cache.

    key: the setting that holds ``repo`` and ``revision``, for messages.

    Raises ``ConfigError`` where the weights cannot be had.
    """
    from httpx import InvalidURL
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
    )

    try:
        path = hf_hub_download(repo, "model.safetensors", revision=revision)
    except (
        HfHubHTTPError,
        HFValidationError,
        EntryNotFoundError,
        LocalEntryNotFoundError,
        ImportError,  # a proxy of a kind that the hub's client does not know
        InvalidURL,
        ValueError,
        OSError,
    ) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"{key}.repo",
            repo,
            f"its model.safetensors cannot be had at revision {revision}: {reason}",
        ) from None
    try:
        config = _config(Path(hf_hub_download(repo, "config.json", revision=revision)))
    except (HfHubHTTPError, EntryNotFoundError, LocalEntryNotFoundError, OSError):
        config = {}  # it has none
    return Weights(Path(path), f"{repo} at {revision[:12]}", config)


def _config(path: Path) -> dict[str, Any]:
    remedy = "download it again"
    try:
        content = files.read_json(path, remedy, "is not JSON")
    except FileNotFoundError:
        return {}
    if not isinstance(content, dict):
        return {}
    for section in (content, content.get("pretrained_cfg", {})):
        if not isinstance(section, dict):
            raise files.damaged(
                path, f"pretrained_cfg is {shown(section)}, where settings are needed", remedy
            )
        for name in ("mean", "std"):
            values = section.get(name, [])
            numbers = isinstance(values, list) and all(
                isinstance(value, int | float) for value in values
            )
            if not numbers or name == "std" and not all(value > 0 for value in values):
                why = f"{name} is {shown(values)}, where a number for each channel is needed"
                raise files.damaged(path, why, remedy)
    return content


def load_backbone(
    weights: Weights, settings: "ModelSettings", state: Mapping[str, Tensor] | None = None
) -> nn.Module:
    """The backbone of ``settings`` with these weights, all of which must fit.

    state: the weights by name where they are in memory; ``None``: those of the file.

    A classifier is left out. timm interpolates position embeddings of another image size.

    Raises ``ConfigError`` or ``UserError`` for weights of another model.
    """
    name, channels = settings.encoder, settings.channels
    made_for = str(weights.config.get("architecture", name)).partition(".")[0]
    if made_for != name.partition(".")[0]:
        raise ConfigError("encoder.name", name, f"the weights of {weights.name} are of {made_for}")
    backbone = build_backbone(
        name, settings.image_size, channels, settings.cifar_stem, settings.kwargs
    )
    traits: dict[str, Any] = vars(backbone)["pretrained_cfg"]
    state = _without(_read(weights) if state is None else state, traits.get("classifier"))
    if any(name.startswith("encoder.backbone.") for name in state):
        raise UserError(
            f"{weights.path} holds an encoder with its heads, as a run writes it; give the file "
            "encoder.safetensors beside it"
        )
    first = traits.get("first_conv")
    kernel = state.get(f"{first}.weight")
    if kernel is not None and kernel.ndim == 4 and kernel.shape[1] not in (channels, 1):
        raise ConfigError(
            "channels",
            channels,
            f"the weights of {weights.name} are for images of {kernel.shape[1]} channels",
        )
    try:
        if settings.cifar_stem:  # a stem that timm does not know
            backbone.load_state_dict(state)
            return backbone
        overlay: dict[str, Any] = {
            "state_dict": state,
            "url": "",
            "file": None,
            "hf_hub_id": None,
            "source": "",
            "custom_load": False,
            "num_classes": 0,
            "label_offset": 0,
            "input_size": (channels, *traits.get("input_size", (0, 0, 0))[1:]),
        }
        options = timm_options(name, settings.image_size, settings.kwargs)
        model: nn.Module = light_imports.timm().create_model(
            name,
            pretrained=True,
            pretrained_cfg_overlay=overlay,
            num_classes=0,
            in_chans=channels,
            **options,
        )
        return model
    except Exception as error:  # timm converts many formats of weights, and fails in many ways
        why = f"do not fit {name}: {reason(error)}"
        raise UserError(f"the weights of {weights.name} {why}") from None


def _read(weights: Weights) -> dict[str, Tensor]:
    return files.read_tensors(weights.path, "download it again")


def _without(
    state: Mapping[str, Tensor], classifier: str | tuple[str, ...] | None
) -> dict[str, Tensor]:
    names = (classifier,) if isinstance(classifier, str) else classifier or ()
    return {
        key: value
        for key, value in state.items()
        if not key.startswith(tuple(f"{name}." for name in names))
    }
