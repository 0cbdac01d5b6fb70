"""Elastic transforms with their random numbers given."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_images

from prosmin.corruptions import digital
from tests.prosmin.corruptions.conftest import Fed, change, every_severity, levels, ours
from tests.reference import corruptions as reference

# Amplitude, smoothing and reach of the affine map, in pixels: for 224 of them, and for 32.
LARGE = [
    (488, 170.8, 24.4),
    (488, 19.52, 48.8),
    (12.2, 2.44, 4.88),
    (17.08, 2.44, 4.88),
    (29.28, 2.44, 4.88),
]
SMALL = [(0, 0, 2.56), (1.6, 6.4, 2.24), (2.56, 1.92, 1.92), (3.2, 1.28, 1.6), (3.2, 0.96, 0.96)]


def stretched(images, constants, seed):
    """By the reference, and the draws that it was given."""
    amplitude, smoothing, reach = constants
    rng, side = np.random.default_rng(seed), images.shape[1]
    shifts, field = (
        rng.uniform(-reach, reach, (len(images), 3, 2)),
        rng.uniform(-1, 1, (len(images), 2, side, side)),
    )
    moved = [
        reference.stretched(image / 255, amplitude, smoothing, *draw)
        for image, *draw in zip(images, shifts, field)
    ]
    return levels(np.stack(moved)), [torch.from_numpy(shifts), torch.from_numpy(field).float()]


@every_severity
@pytest.mark.parametrize("constants", [LARGE, SMALL], ids=["large", "small"])
def test_elastic_with_the_same_draws(large, small, constants, severity, monkeypatch):
    """OpenCV rounds places of the affine map to 1/32 of a pixel, so that results are near."""
    images = large if constants is LARGE else small
    expected, draws = stretched(images, constants[severity - 1], severity)
    monkeypatch.setattr(digital, "uniform", Fed(*draws))
    difference = np.abs(ours(images, "elastic_transform", severity) - expected)
    assert difference.mean() < 1 and (difference > 6).mean() < 0.01


@every_severity
def test_large_images_change_as_much_as_the_benchmarks(severity):
    """Root mean square in grey levels over eight crops of two photographs, of other draws each."""
    images = load_sample_images().images
    crops = [
        image[top : top + 224, left : left + 224]
        for image in images
        for top in (0, 200)
        for left in (0, 400)
    ]
    crops = np.stack(crops).repeat(6, axis=0)
    result = np.sqrt(np.square(change(crops, ours(crops, "elastic_transform", severity))).mean())
    expected = np.sqrt(
        np.square(change(crops, stretched(crops, LARGE[severity - 1], severity)[0])).mean()
    )
    assert result == pytest.approx(expected, rel=0.08)
    assert result == pytest.approx(
        [41.2, 51.2, 23.6, 25.0, 25.2][severity - 1], rel=0.08
    )  # of the benchmark's script


def test_the_field_grows_with_the_image(large, monkeypatch):
    """On half the side every length is half: an image is moved as its enlargement is."""
    halves = large[:, :112, :112]
    expected, draws = stretched(halves, [share / 2 for share in LARGE[1]], 0)
    monkeypatch.setattr(digital, "uniform", Fed(*draws))
    assert np.abs(ours(halves, "elastic_transform", 2) - expected).mean() < 1


def test_the_affine_map_by_hand():
    """Three points move two pixels to the right, the image follows, its border is reflected."""
    images = torch.arange(16.0).expand(1, 1, 16, 16)
    moved = digital._affine(images, torch.tensor([[[2.0, 0.0]] * 3]))
    assert moved[0, 0, 5].tolist() == pytest.approx([2, 1, 0, *range(1, 14)], abs=1e-4)
