"""Targets of training images, among which a network answers the question which one is its own."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prosmin.scoring import answer_logits


class Candidates(nn.Module):
    """Unit vectors [K, D]. There are none before ``set``."""

    targets: Tensor

    def __init__(self, dim: int):
        super().__init__()
        self.register_buffer("targets", torch.zeros(0, dim))

    def set(self, targets: Tensor) -> None:
        """Take targets of any length, [K, D]."""
        self.targets = F.normalize(targets.float(), dim=1).to(self.targets.device)

    def doubts(self, mean: Tensor, log_width: Tensor) -> dict[str, Tensor]:
        """The entropy of the answer p(j), in nats [B], by its name; nothing without candidates.

        p(j) is proportional to the density of candidate j, as in ``scoring.identification``.

        mean: of any length, [B, D]. log_width: [B].
        """
        if not len(self.targets):
            return {}
        unit = F.normalize(mean.float(), dim=1)
        logs = answer_logits(unit, log_width.float(), self.targets).log_softmax(1)
        return {"answer_entropy": -(logs.exp() * logs).sum(1)}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        given = state_dict.get(f"{prefix}targets")
        if given is not None and given.shape[1:] == self.targets.shape[1:]:
            self.targets = self.targets.new_empty(given.shape)  # as many as were saved
        super()._load_from_state_dict(state_dict, prefix, *others)
