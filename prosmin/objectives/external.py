"""An encoder that somebody else has trained: nothing is left to minimise."""

from collections.abc import Sequence

import torch
from torch import Tensor

from prosmin.models.networks import Encoder
from prosmin.objectives import settings as s
from prosmin.objectives.base import Objective


class External(Objective):
    """The encoder alone, so that every reader of a pretrained model can read this one too."""

    def __init__(self, encoder: Encoder, hidden_dim: int, dim: int, settings: s.External):
        super().__init__()
        self.encoder = encoder

    def forward(self, views: Sequence[Tensor], generator: torch.Generator | None = None) -> Tensor:
        raise NotImplementedError("an external encoder is not trained here")
