"""Real photographs, and comparisons of our batches with a library that works image by image."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, load_sample_images

from prosmin import corruptions
from prosmin.corruptions.apply import corrupt

every_severity = pytest.mark.parametrize("severity", corruptions.SEVERITIES)


def crops(size):
    """Cut four crops [4, H, W, 3] out of scikit-learn's two photographs.

    Small crops take every few pixels, so that they show a scene.
    """
    step = 1 if size > 64 else 420 // size
    photographs = load_sample_images().images
    return np.stack(
        [
            p[top::step, left::step][:size, :size]
            for p in photographs
            for top, left in ((0, 0), (7, 200))
        ]
    )


@pytest.fixture(scope="session")
def large():
    return crops(224)


@pytest.fixture(scope="session")
def small():
    return crops(32)


def batch(images):
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def ours(images, name, severity, seed=0, **options):
    return corrupt(batch(images), name, severity, seed, **options).numpy().transpose(0, 2, 3, 1)


def digits():
    """Return uint8 [360, 1, 8, 8], real images of the smallest size in use."""
    return torch.from_numpy((load_digits().images[:360] / 16 * 255).round().astype(np.uint8))[
        :, None
    ]


def change(before, after):
    return (after.astype(np.float64) - before).ravel()


def levels(images):
    """Return grey levels as floats. The benchmark's files cut them to whole levels."""
    return 255 * images.clip(0, 1)


class Fed:
    """Prepared draws, returned in turn in place of a random function of ours or of NumPy."""

    def __init__(self, *draws):
        self.draws = list(draws)

    def __call__(self, *arguments, **settings):
        return self.draws.pop(0)
