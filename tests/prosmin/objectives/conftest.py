"""A tiny ProSMIN and a batch for it."""

import pytest
import torch

from prosmin.models.networks import Encoder
from prosmin.objectives import settings
from prosmin.objectives.prosmin import ProSMIN


def tiny_encoder(features=6):
    backbone = torch.nn.Sequential(
        torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(16, features)
    )
    backbone.num_features = features
    return Encoder(backbone, [0.5], [0.25])


def tiny_model(**changes):
    torch.manual_seed(0)
    return ProSMIN(tiny_encoder(), 12, 4, settings.ProSMIN(**changes))


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(32, 1, 4, 4, generator=generator) for _ in range(2)]
