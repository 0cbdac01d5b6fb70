"""Photographs that several tests of views share."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_images


@pytest.fixture(scope="package")
def images():
    """Six 48x64 cuts of real photographs, float [6, 3, 48, 64]."""
    photographs = [
        torch.tensor(np.array(image)).permute(2, 0, 1) for image in load_sample_images().images
    ]
    cuts = [
        image[:, top : top + 48, top : top + 64] for image in photographs for top in (40, 150, 300)
    ]
    return torch.stack(cuts).float() / 255
