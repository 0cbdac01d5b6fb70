"""Weights that training starts from: those of a timm encoder, or an earlier run with its heads."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from prosmin.common import files
from prosmin.common.errors import ConfigError
from prosmin.models import store
from prosmin.models.store import ModelSettings
from prosmin.objectives.base import Objective
from prosmin.predicting import parts
from prosmin.training.weights.external import Weights, load_backbone


@dataclass(frozen=True)
class Initial:
    """Weights of an encoder and, from an earlier run, its whole network.

    weights: of the encoder; its ``config`` says how the input was normalised and cut.
    settings, network: of the earlier run; ``None`` for weights of an encoder alone.
    """

    weights: Weights
    settings: ModelSettings | None = None
    network: Objective | None = None

    def place(self, model: Objective, settings: ModelSettings) -> bool:
        """Give ``model``, as ``settings`` describe it, these weights.

        The heads of an earlier run are taken where both runs have the same objective and projector.
        Other heads keep their weights. A target network becomes a copy of the online network.

        Returns: whether the heads were taken.

        Raises ``ConfigError`` or ``UserError`` for weights of another encoder.
        """
        state: Mapping[str, Tensor] | None = None
        if self.network is not None:
            state = self.network.encoder.backbone.state_dict()
        backbone = load_backbone(self.weights, settings, state)
        model.encoder.backbone.load_state_dict(backbone.state_dict())
        alike = self.settings is not None and _heads(self.settings) == _heads(settings)
        if alike and self.network is not None:
            others = (parts.OF_ENCODER, parts.OF_TARGET)
            heads = {
                name: tensor
                for name, tensor in self.network.state_dict().items()
                if not name.startswith(others)
            }
            model.load_state_dict(heads, strict=False)  # encoder and target are in place
        model.reset_target()
        return alike


def from_run(path: str | Path, key: str, sha256: str | None = None) -> Initial:
    """The model of an earlier run: a folder with its training results, or its export.

    key: the setting that holds ``path`` and ``sha256``, for messages.
    sha256: that ``model.safetensors`` of the folder must have; ``None``: any.

    Raises ``ConfigError`` for a folder without a model, and ``UserError`` where a file is missing,
    damaged or of another version.
    """
    folder = Path(path).expanduser()
    described = [name for name in (store.DESCRIPTION, parts.INDEX) if (folder / name).is_file()]
    if described and not (folder / parts.ENCODER).is_file():
        missing = f"there is {described[0]}, but no {parts.ENCODER} beside it"
        raise ConfigError(f"{key}.path", str(path), missing)
    if (folder / store.DESCRIPTION).is_file():
        settings, trained = store.load_description(folder)
        network, dataset = store.load_model(folder), trained.get("dataset")
    elif (folder / parts.ENCODER).is_file():
        index = parts.read_index(folder)
        with files.decoding(folder / parts.INDEX, parts.EXPORT, "does not describe a model"):
            settings, dataset = ModelSettings(**index["model"]), index["dataset"]
            names = (parts.ENCODER, parts.HEADS)
            content = {name: parts.read_part(folder, name, index) for name in names}
        network = parts.networks(settings, content, folder)
    else:
        raise ConfigError(
            f"{key}.path",
            str(path),
            f"it holds no model of a run: it has neither {store.DESCRIPTION} nor {parts.INDEX}",
        )
    weights = Weights(folder / parts.ENCODER, f"an earlier run on {dataset}", _config(settings))
    weights.check(key, sha256)
    return Initial(weights, settings, network)


def _config(settings: ModelSettings) -> dict[str, Any]:
    """What timm's ``config.json`` says of an encoder and its input."""
    return {
        "architecture": settings.encoder,
        "mean": list(settings.mean),
        "std": list(settings.std),
        "crop_pct": settings.crop_pct,
        "interpolation": settings.interpolation,
    }


def _heads(settings: ModelSettings) -> Any:
    """The settings of all that is not the encoder, as JSON has them."""
    content = asdict(settings)
    return json.loads(json.dumps([content[key] for key in ("hidden_dim", "dim", "objective")]))
