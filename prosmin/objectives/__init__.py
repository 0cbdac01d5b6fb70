"""What a training step minimises: ProSMIN and baselines, on the same encoder, views, optimiser and schedule.

A new one is a class of ``base.Objective`` whose keywords are its settings, and a line in ``OBJECTIVES``.
"""

from typing import Any

from prosmin.common.errors import ConfigError, nearest
from prosmin.models.networks import Encoder
from prosmin.objectives.base import Objective
from prosmin.objectives.contrastive import MoCoV3, SimCLR
from prosmin.objectives.distillation import BYOL, DINO, SimSiam
from prosmin.objectives.external import External
from prosmin.objectives.prosmin import ProSMIN
from prosmin.objectives.published import Published
from prosmin.objectives.vicreg import VICReg

OBJECTIVES: dict[str, type[Objective]] = {
    "prosmin": ProSMIN,
    "published": Published,
    "byol": BYOL,
    "simsiam": SimSiam,
    "dino": DINO,
    "simclr": SimCLR,
    "mocov3": MoCoV3,
    "vicreg": VICReg,
}

EXTERNAL = "external"


def build(
    encoder: Encoder, hidden_dim: int, dim: int, name: str = "prosmin", **settings: Any
) -> Objective:
    """An objective by its name, its heads at initial weights; ``settings`` are the keywords of its class. By the name
    ``external``, an encoder that nothing is trained of."""
    if name == EXTERNAL:
        return External(encoder)
    if name not in OBJECTIVES:
        raise ConfigError(
            "objective.name",
            name,
            f"it must be one of {', '.join(OBJECTIVES)}{nearest(name, OBJECTIVES)}",
        )
    return OBJECTIVES[name](encoder, hidden_dim, dim, **settings)
