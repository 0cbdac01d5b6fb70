"""The class of every objective, by the class of its settings."""

from collections.abc import Mapping
from typing import Any

from prosmin.models.networks import Encoder
from prosmin.objectives import settings as s
from prosmin.objectives.base import Objective
from prosmin.objectives.contrastive import MoCoV3, SimCLR
from prosmin.objectives.distillation import BYOL, DINO, SimSiam, SwAV
from prosmin.objectives.external import External
from prosmin.objectives.prosmin import ProSMIN
from prosmin.objectives.published import Published
from prosmin.objectives.regularised import BarlowTwins, LeJEPA, VICReg, VISReg

CLASSES: dict[type[s.Objective], type[Objective]] = {
    s.ProSMIN: ProSMIN,
    s.Published: Published,
    s.BYOL: BYOL,
    s.SimSiam: SimSiam,
    s.DINO: DINO,
    s.SwAV: SwAV,
    s.SimCLR: SimCLR,
    s.MoCoV3: MoCoV3,
    s.VICReg: VICReg,
    s.BarlowTwins: BarlowTwins,
    s.LeJEPA: LeJEPA,
    s.VISReg: VISReg,
    s.External: External,
}


def build(
    encoder: Encoder, hidden_dim: int, dim: int, settings: s.Objective | Mapping[str, Any]
) -> Objective:
    """An objective with its heads at initial weights.

    hidden_dim, dim: units of the projector's hidden layers and of its output.
    settings: one of ``prosmin.objectives.settings``, or its keys with a ``name``.
    """
    if isinstance(settings, Mapping):
        settings = s.from_mapping(settings)
    return CLASSES[type(settings)](encoder, hidden_dim, dim, settings)
