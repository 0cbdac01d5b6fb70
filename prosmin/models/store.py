"""Models on disk: weights in safetensors files, and ``model.json`` says how to rebuild the network.

Nothing is ever unpickled.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prosmin.common import files
from prosmin.common.errors import UserError, reason, shown
from prosmin.common.seeds import initial_weights
from prosmin.data.frame import Frame
from prosmin.models.backbone import build_backbone
from prosmin.models.networks import Encoder
from prosmin.objectives import settings as s
from prosmin.objectives.base import Objective
from prosmin.objectives.registry import build
from prosmin.views.settings import Interpolation

DESCRIPTION = "model.json"
FORMAT = 1
WEIGHTS = {"trained": "model.safetensors", "random": "random.safetensors"}


@dataclass(frozen=True)
class ModelSettings:
    """All that a model depends on.

    objective: its settings, or their keys with a ``name`` as ``model.json`` has them.
    crop_pct, interpolation: of the input, as in ``prosmin.data.frame.Frame``.
    """

    encoder: str
    image_size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    hidden_dim: int
    dim: int
    cifar_stem: bool = False
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    objective: s.Objective | Mapping[str, Any] = field(default_factory=s.ProSMIN)
    crop_pct: float = 1.0
    interpolation: Interpolation = "bilinear"

    @property
    def frame(self) -> Frame:
        """How an image becomes the input of the network."""
        return Frame(self.image_size, self.crop_pct, self.interpolation)


def build_model(settings: ModelSettings, seed: int = 0) -> Objective:
    """A model at its initial weights, a function of ``seed``; no global generator changes."""
    with initial_weights(seed):
        backbone = build_backbone(
            settings.encoder,
            settings.image_size,
            settings.channels,
            settings.cifar_stem,
            settings.kwargs,
        )
        encoder = Encoder(backbone, settings.mean, settings.std)
        return build(encoder, settings.hidden_dim, settings.dim, settings.objective)


def save_state(path: Path, state: Mapping[str, Tensor]) -> None:
    """A module's ``state_dict``; equal states give equal bytes."""
    files.write_arrays(
        path, {name: tensor.detach().cpu().numpy() for name, tensor in state.items()}
    )


def save_description(folder: Path, settings: ModelSettings, trained: Mapping[str, Any]) -> None:
    """Write ``model.json``.

    trained: facts about the training for readers of the folder, such as dataset and versions.
    """
    files.write_json(
        folder / DESCRIPTION,
        {
            "format": FORMAT,
            "encoder": "encoder.safetensors holds the weights of timm.create_model(model.encoder, "
            "num_classes=0, ...); its input is (image / 255 - mean) / std",
            "model": asdict(settings),
            "trained": dict(trained),
        },
    )


def load_description(folder: str | Path) -> tuple[ModelSettings, dict[str, Any]]:
    """The settings of the model in ``folder``, and the facts about its training.

    Raises ``UserError`` where ``model.json`` is missing or damaged.
    """
    path = Path(folder) / DESCRIPTION
    try:
        content = files.read_json(path, says="does not describe a model")
        if content["format"] != FORMAT:
            raise UserError(
                f"{path} is of format {content['format']}; this version reads format {FORMAT}"
            )
        trained = content["trained"]
        if not isinstance(trained, dict):
            raise TypeError(f"trained is {shown(trained)}, where facts are needed")
        settings = ModelSettings(**content["model"])
        for values in (settings.mean, settings.std):
            if len(values) != settings.channels:
                raise TypeError(
                    f"{shown(values)} is not a number for each of {settings.channels} channels"
                )
        return settings, trained
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; {files.PRETRAIN}") from None
    except UserError:
        raise
    except (TypeError, KeyError) as error:  # KeyError: of a list where sections should be
        raise UserError(f"{path} does not describe a model ({error}); {files.AGAIN}") from None


def load_model(folder: str | Path, weights: str = "trained") -> Objective:
    """The full model of a folder, target network and heads included, in evaluation mode.

    weights: a key of ``WEIGHTS``.

    Raises ``UserError`` where a file is missing, damaged or of another model.
    """
    settings, _ = load_description(folder)
    try:
        model = build_model(settings)
    except Exception as error:  # the file alone decides what is built
        raise UserError(
            f"{Path(folder) / DESCRIPTION} describes no model ({reason(error)}); {files.AGAIN}"
        ) from None
    _load_weights(model, Path(folder) / WEIGHTS[weights])
    return model.eval()


def load_encoder(folder: str | Path, weights: str = "trained") -> Encoder:
    """The online encoder of a folder in evaluation mode: [B, C, S, S] in [0, 1] -> [B, F]."""
    return load_model(folder, weights).encoder


def _load_weights(model: nn.Module, path: Path) -> None:
    try:
        arrays = files.read_arrays(path, says=files.WHOLE)
        state = {name: torch.from_numpy(array) for name, array in arrays.items()}
        model.load_state_dict(state)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; {files.PRETRAIN}") from None
    except RuntimeError as error:
        last = str(error).splitlines()[-1].strip()
        unlike = f"does not fit the model that {DESCRIPTION} beside it describes: {last}"
        raise UserError(f"{path} {unlike}; {files.AGAIN}") from None
