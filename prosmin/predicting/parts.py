"""The parts of an exported folder, their index, and the networks of two of them.

``prosmin.predicting.bundle`` has the whole folder. A program that needs the networks alone reads
them here.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from prosmin.common import files
from prosmin.common.errors import UserError, reason, shown
from prosmin.models.store import ModelSettings, build_model
from prosmin.objectives.base import Objective

FORMAT = 2  # 1 had no names of training images
INDEX = "prosmin.json"
ENCODER, HEADS = "model.safetensors", "heads.safetensors"
EXPORT = "export the model again"
# Names of weights in the state of an objective.
OF_ENCODER, OF_TARGET = "encoder.backbone.", "target."


def read_index(folder: Path) -> files.Section:
    """Read the index of a folder. Raises ``UserError`` where it is missing or of another format."""
    try:
        index = files.read_json(folder / INDEX, EXPORT, "does not describe a model")
    except FileNotFoundError:
        if (folder / ENCODER).exists():
            raise UserError(
                f"{folder} is of an older version: it has an encoder, but no {INDEX}; {EXPORT}"
            ) from None
        raise UserError(f"{folder} holds no exported model: it has no {INDEX}") from None
    except NotADirectoryError:
        raise UserError(f"{folder} is a file; the folder of an exported model is needed") from None
    version = index.get("format") if isinstance(index, files.Section) else None
    if not isinstance(index, files.Section) or version != FORMAT:
        raise UserError(
            f"{folder / INDEX} is of format {shown(version)}; this version reads format {FORMAT}; "
            f"{EXPORT}"
        )
    return index


def read_part(folder: Path, name: str, index: files.Section) -> files.Arrays:
    """Read the arrays of a part, as the index has them.

    Raises ``UserError`` where it is missing, damaged or of another export.
    """
    if Path(name).name != name:
        raise ValueError(f"{shown(name)} is no name of a file")
    path = folder / name
    try:
        arrays = files.read_arrays(path, EXPORT, files.WHOLE)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; {EXPORT}") from None
    if checksum(arrays) != index["parts"][name]:
        raise UserError(f"{path} belongs to another export than {INDEX} beside it; {EXPORT}")
    return arrays


def checksum(arrays: Mapping[str, np.ndarray]) -> str:
    """Compute the checksum by which the index knows a part."""
    return files.checksum(arrays, {})


def networks(settings: ModelSettings, parts: Mapping[str, files.Arrays], folder: Path) -> Objective:
    """Build the objective of ``settings`` with the weights of ``ENCODER`` and ``HEADS``.

    A target network keeps its initial weights. Raises ``UserError`` where parts do not fit.
    """
    try:
        model = build_model(settings)
    except Exception as error:  # the file alone decides what is built
        raise UserError(
            f"{folder / INDEX} describes no model ({reason(error)}); {EXPORT}"
        ) from None
    state = {f"{OF_ENCODER}{name}": array for name, array in parts[ENCODER].items()}
    state |= parts[HEADS]
    tensors = {name: torch.from_numpy(array) for name, array in state.items()}
    try:
        fit = model.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise unlike(folder, str(error).splitlines()[-1].strip()) from None
    odd = [name for name in fit.missing_keys if not name.startswith(OF_TARGET)]
    if odd := odd + fit.unexpected_keys:
        raise unlike(folder, f"the weight {odd[0]} is missing or unknown")
    return model


def unlike(folder: Path, why: str) -> UserError:
    """Return the error for parts that do not belong together."""
    return UserError(f"the parts of {folder} do not fit together: {why}; {EXPORT}")
