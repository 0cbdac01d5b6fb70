"""Probabilistic self-supervised learning by scoring-rule minimisation.

The library behind the pipeline. It knows tensors, files and numbers, and nothing of DVC, Prefect or
``params.yaml``. Importing it costs nothing: import the modules you need (``prosmin.scoring``).
``prosmin.load(folder).predict(images)`` uses an exported model.

More than 12 entries, because every room is a part of the method by itself.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from prosmin.predicting.model import Model

__version__ = "0.1.0"


def load(folder: "str | Path", device: str | None = None) -> "Model":
    """Load an exported model; see ``prosmin.predicting.model.load``."""
    from prosmin.predicting import model

    return model.load(folder, device)
