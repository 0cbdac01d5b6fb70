"""Elastic transforms with their random numbers given."""

import imagecorruptions
import numpy as np
import pytest
import torch

from prosmin.corruptions import digital
from tests.prosmin.corruptions.conftest import Fed, every_severity, levels, ours
from tests.reference import corruptions as reference


@every_severity
def test_elastic_with_the_benchmarks_field(large, severity, monkeypatch):
    field = np.random.default_rng(severity).uniform(-1.12, 1.12, (len(large), 2, 224, 224))
    monkeypatch.setattr(np.random, "uniform", Fed(*field.reshape(-1, 224, 224)))
    expected = np.stack([imagecorruptions.corrupt(image, severity, "elastic_transform") for image in large])
    monkeypatch.setattr(digital, "uniform", Fed(torch.from_numpy(field).float()))
    assert np.abs(ours(large, "elastic_transform", severity).astype(int) - expected).max() <= 1


@every_severity
def test_elastic_on_small_images(small, severity, monkeypatch):
    """OpenCV rounds the places of the affine map to 1/32 of a pixel, so that it is near but not equal."""
    parts = [(0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)]
    amplitude, smoothing, shift = (32 * part for part in parts[severity - 1])
    rng = np.random.default_rng(severity)
    shifts, field = rng.uniform(-shift, shift, (4, 3, 2)), rng.uniform(-1, 1, (4, 2, 32, 32))
    draws = [torch.from_numpy(shifts), torch.from_numpy(field).float()]
    monkeypatch.setattr(digital, "uniform", Fed(*draws))
    expected = [
        reference.stretched(image / 255, amplitude, smoothing, *draw) for image, *draw in zip(small, shifts, field)
    ]
    difference = np.abs(ours(small, "elastic_transform", severity) - levels(np.stack(expected)))
    assert difference.mean() < 1 and (difference > 6).mean() < 0.01


def test_the_affine_map_by_hand():
    """Three points moved two pixels to the right: the image follows, and its border is reflected."""
    images = torch.arange(16.0).expand(1, 1, 16, 16)
    moved = digital._affine(images, torch.tensor([[[2.0, 0.0]] * 3]))
    assert moved[0, 0, 5].tolist() == pytest.approx([2, 1, 0, *range(1, 14)], abs=1e-4)
