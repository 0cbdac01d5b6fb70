"""Digits to train on, and a folder for checkpoints."""

import pytest
import torch
from sklearn.datasets import load_digits

from prosmin.training.checkpoint import Checkpoints


@pytest.fixture(scope="module")
def digits():
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images / 16 * 255).round().byte().view(-1, 1, 8, 8)[:256], torch.tensor(
        labels
    )[:256]


@pytest.fixture
def every_step(tmp_path):
    return Checkpoints(tmp_path, "a" * 16, every=0)
