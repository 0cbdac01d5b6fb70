"""Spatter with its random numbers given: its steps against OpenCV's, drops and all."""

import cv2
import imagecorruptions
import numpy as np
import pytest
import torch
from skimage.filters import gaussian

from prosmin.corruptions import spatter
from tests.prosmin.corruptions.conftest import Fed, change, every_severity, levels, ours
from tests.reference import corruptions as reference

MEANS = {"large": [(0.65, 0.3)] * 4 + [(0.67, 0.4)]}
SMALL = [
    (0.62, 0.1, 0.7, 0.7, 0.5),
    (0.65, 0.1, 0.8, 0.7, 0.5),
    (0.65, 0.3, 1, 0.69, 0.5),
    (0.65, 0.1, 0.7, 0.69, 0.6),
    (0.65, 0.1, 0.5, 0.68, 0.6),
]


@pytest.fixture(scope="module")
def landscapes():
    """uint8 [6,96,96], flat but for hills, as the liquid is."""
    noise = np.random.default_rng(0).standard_normal((6, 96, 96))
    level = np.stack(
        [gaussian(0.65 + 0.3 * landscape, s) for landscape, s in zip(noise, (4, 3, 2, 1, 1.5, 1))]
    )
    return (np.where(level < 0.68, 0, level).clip(0, 1) * 255).astype(np.uint8)


def tensor(images):
    return torch.from_numpy(np.asarray(images))[:, None].float()


def test_edges_are_opencvs(landscapes):
    expected = np.stack([cv2.Canny(landscape, 50, 150) > 0 for landscape in landscapes])
    result = spatter._edges(tensor(landscapes), 50, 150)[:, 0].numpy()
    assert 0.01 < expected.mean() < 0.5 and (result != expected).mean() < 1e-3


def test_edges_of_a_gentle_landscape_are_followed_from_steep_places():
    ramp = np.clip(
        np.outer(np.linspace(0, 1, 64), np.r_[np.zeros(30), np.ones(34) * 120]), 0, 255
    ).astype(np.uint8)
    expected = cv2.Canny(ramp, 50, 150) > 0
    weak = cv2.Canny(ramp, 149.9, 150) > 0
    assert expected.sum() > weak.sum() > 0  # the chain goes on below the upper threshold
    assert (spatter._edges(tensor([ramp]), 50, 150)[0, 0].numpy() == expected).all()


def test_distances_are_opencvs(landscapes):
    edges = np.stack([cv2.Canny(landscape, 50, 150) for landscape in landscapes])
    expected = np.stack(
        [cv2.distanceTransform(255 - landscape, cv2.DIST_L2, 5) for landscape in edges]
    ).clip(max=20)
    result = spatter._distance(tensor(edges) == 0)[:, 0].clamp(max=20).numpy()
    assert np.abs(result - expected).max() < 0.01


def test_equalisation_is_opencvs(landscapes):
    expected = np.stack(
        [cv2.equalizeHist(landscape) for landscape in [*landscapes, np.full((96, 96), 7, np.uint8)]]
    )
    result = spatter._equalised(tensor([*landscapes, np.full((96, 96), 7, np.uint8)]))
    assert (result[:, 0].numpy() == expected).all()


@every_severity
def test_spatter_with_the_benchmarks_landscape(large, severity, monkeypatch):
    noise = np.random.default_rng(severity).standard_normal((len(large), 224, 224))
    mean, deviation = MEANS["large"][severity - 1]
    monkeypatch.setattr(np.random, "normal", Fed(*(mean + deviation * noise)))
    expected = np.stack([imagecorruptions.corrupt(image, severity, "spatter") for image in large])
    monkeypatch.setattr(spatter, "normal", Fed(torch.from_numpy(noise[:, None]).float()))
    result = ours(large, "spatter", severity)
    assert (np.abs(result.astype(int) - expected) > 2).mean() < 0.005
    assert change(large, result).std() == pytest.approx(change(large, expected).std(), rel=0.02)


@every_severity
def test_spatter_on_small_images(small, severity, monkeypatch):
    noise = np.random.default_rng(severity).standard_normal((len(small), 32, 32))
    monkeypatch.setattr(spatter, "normal", Fed(torch.from_numpy(noise[:, None]).float()))
    wet = reference.watered if severity < 4 else reference.muddied
    expected = np.stack(
        [wet(image / 255, *SMALL[severity - 1], draw) for image, draw in zip(small, noise)]
    )
    result = ours(small, "spatter", severity)
    assert np.abs(change(small, result)).mean() > 0.02
    assert (np.abs(result - levels(expected)) > 2).mean() < 0.01


def test_without_liquid_the_image_is_dry():
    assert spatter.water(torch.zeros(2, 1, 16, 16), 0.7).abs().max() == 0
