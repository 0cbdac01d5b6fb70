"""The random blurs with their random numbers given, and their statistics."""

import math

import imagecorruptions
import numpy as np
import pytest
import torch
from imagecorruptions import corruptions as library

from prosmin.corruptions import blur
from prosmin.corruptions.apply import corrupt
from tests.prosmin.corruptions.conftest import Fed, batch, change, every_severity, levels, ours
from tests.reference import corruptions as reference


@pytest.mark.parametrize(("reach", "rounds"), [(1, 2), (2, 3), (4, 2)])
def test_pixels_are_shuffled_as_by_the_benchmarks_loop(reach, rounds):
    """An image of distinct pixels shows the result of the library's own loop, uncompiled."""
    height, width = 19, 23
    expected = np.arange(height * width).reshape(height, width, 1)
    ours = expected.ravel().copy()
    for turn in range(rounds):
        draw = np.random.RandomState(turn)
        library._shuffle_pixels_njit_glass_blur.py_func(
            height, width, expected, (0, reach, 1), turn
        )
        steps = np.zeros((2, height, width), np.int64)
        for y in range(height - reach, reach, -1):
            for x in range(width - reach, reach, -1):
                steps[1, y, x], steps[0, y, x] = draw.randint(-reach, reach, size=2)
        ours = ours[blur.shuffled(torch.from_numpy(steps)[:, None], reach)[0].numpy().ravel()]
    assert ours.reshape(height, width).tolist() == expected[..., 0].tolist()


@every_severity
def test_glass_on_small_images(small, severity, monkeypatch):
    deviation, reach, rounds = [(0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)][
        severity - 1
    ]
    steps = np.random.default_rng(0).integers(-reach, reach, (2, rounds, 4, 32, 32))
    monkeypatch.setattr(torch, "randint", Fed(*torch.from_numpy(steps).unbind(1)))
    result = ours(small, "glass_blur", severity)
    expected = [
        reference.glass(image / 255, deviation, reach, rounds, steps[:, :, place].swapaxes(0, 1))
        for place, image in enumerate(small)
    ]
    assert (
        np.abs(result - levels(np.stack(expected))).max() <= 1.5
    )  # rounded, from levels cut off one way or the other


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_glass_changes_pixels_as_much_as_the_benchmarks(large, severity, monkeypatch):
    """On parts of 96 pixels, which also are large; uncompiled, because compiling takes longer."""
    monkeypatch.setattr(
        library, "_shuffle_pixels_njit_glass_blur", library._shuffle_pixels_njit_glass_blur.py_func
    )
    images = np.ascontiguousarray(large[:2, 60:156, 60:156])
    expected = change(
        images,
        np.stack(
            [imagecorruptions.corrupt(image, severity, "glass_blur", seed=0) for image in images]
        ),
    )
    result = change(images, ours(images, "glass_blur", severity))
    assert result.mean() == pytest.approx(expected.mean() + 0.5, abs=0.75)
    assert result.std() == pytest.approx(expected.std(), rel=0.05)


@every_severity
def test_motion_with_the_benchmarks_angles(large, severity, monkeypatch):
    angles = np.random.default_rng(severity).uniform(-45, 45, len(large))
    monkeypatch.setattr(np.random, "uniform", Fed(*angles))
    expected = np.stack(
        [imagecorruptions.corrupt(image, severity, "motion_blur") for image in large]
    )
    monkeypatch.setattr(blur, "uniform", Fed(torch.from_numpy(np.deg2rad(angles))))
    assert np.abs(ours(large, "motion_blur", severity).astype(int) - expected).max() <= 1


@every_severity
def test_motion_on_small_images(small, severity, monkeypatch):
    radius, deviation = [(6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)][severity - 1]
    angles = np.random.default_rng(severity).uniform(-45, 45, len(small))
    monkeypatch.setattr(blur, "uniform", Fed(torch.from_numpy(np.deg2rad(angles))))
    expected = [
        reference.smeared(image / 255, radius, deviation, angle)
        for image, angle in zip(small, angles)
    ]
    assert np.abs(ours(small, "motion_blur", severity) - levels(np.stack(expected))).max() <= 1


def test_motion_by_hand():
    """A bright pixel seen from up to 18 pixels to its left; the angle of the only draw is 0."""
    image = torch.zeros(1, 1, 1, 32)
    image[..., 20] = 1
    tail = blur.motion(image, 9, 2.5, torch.zeros(1))[0, 0, 0]
    weights = [math.exp(-0.5 * (tap / 2.5) ** 2) for tap in range(19)]
    for tap in range(10):
        assert tail[20 - tap].item() == pytest.approx(weights[tap] / sum(weights), abs=1e-5)
    assert tail[21:].sum() == 0


def test_angles_are_drawn_between_45_degrees_up_and_down():
    """A column of light is smeared sideways always, up or down as often."""
    image = torch.zeros(200, 1, 32, 32, dtype=torch.uint8)
    image[:, :, 16, 16] = 255
    smeared = corrupt(image, "motion_blur", 5, 0)[:, 0].float()
    above, below = (smeared[:, :16].sum((1, 2)), smeared[:, 17:].sum((1, 2)))
    assert 0.35 < (above > below).float().mean() < 0.65
    assert (smeared[:, :, :16].sum((1, 2)) > 0).all() and smeared[:, :, 17:].sum() == 0


def test_the_batch_keeps_its_order(small):
    """Images are smeared in the order of their angles; each must come back to its place."""
    images = batch(small).repeat(8, 1, 1, 1).float()
    angles = torch.linspace(-0.7, 0.7, 32)[
        torch.randperm(32, generator=torch.Generator().manual_seed(0))
    ]
    together = blur.motion(images, 6, 2, angles)
    for place in range(0, 32, 5):
        alone = blur.motion(images[place : place + 1], 6, 2, angles[place : place + 1])
        assert torch.allclose(alone[0], together[place], atol=1e-3)
