"""Parameters of views have the distributions that the settings ask for."""

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp, kstest
from torchvision.transforms import RandomResizedCrop

from prosmin.views.draw import Sampler, draw_boxes


def assert_uniform(values, low, high):
    """By the test of Kolmogorov and Smirnov at the level 0.1 %."""
    assert kstest(np.asarray(values, np.float64), "uniform", (low, high - low)).pvalue > 1e-3


def test_boxes_are_uniform_in_area_logarithm_of_the_ratio_and_place():
    sampler = Sampler(5000, torch.Generator().manual_seed(0))
    top, left, height, width = draw_boxes(sampler, 6000, 8000, (0.2, 0.5), (0.8, 1.25))
    assert_uniform(height * width / 48e6, 0.2, 0.5)
    assert_uniform((width / height).log(), np.log(0.8), np.log(1.25))
    assert_uniform(top / (6000 - height), 0, 1)
    assert_uniform(left / (8000 - width), 0, 1)


@pytest.mark.parametrize(
    ("height", "width", "scale", "ratio"),
    [
        (375, 500, (0.2, 1.0), (3 / 4, 4 / 3)),  # most large boxes do not fit the first time
        (32, 32, (0.2, 1.0), (3 / 4, 4 / 3)),
        (8, 8, (0.5, 1.0), (0.75, 1.3333)),  # sides are rounded to few values
        (30, 200, (0.6, 1.0), (0.8, 1.25)),  # none fits: the fallback
        (200, 30, (0.6, 1.0), (0.8, 1.25)),
    ],
)
def test_boxes_are_distributed_as_those_of_torchvision(height, width, scale, ratio):
    count = 4000
    sampler = Sampler(count, torch.Generator().manual_seed(1))
    ours = torch.stack(draw_boxes(sampler, height, width, scale, ratio), 1)
    assert torch.equal(ours, ours.round())
    assert (ours[:, :2] >= 0).all() and (ours[:, 2:] >= 1).all()
    assert (ours[:, :2] + ours[:, 2:] <= torch.tensor([height, width])).all()
    torch.manual_seed(2)
    image = torch.empty(1, height, width)
    theirs = torch.tensor(
        [RandomResizedCrop.get_params(image, list(scale), list(ratio)) for _ in range(count)]
    )
    for column in range(4):
        assert ks_2samp(ours[:, column], theirs[:, column], method="asymp").pvalue > 1e-3
    area, expected = (
        boxes[:, 2] * boxes[:, 3] / (height * width) for boxes in (ours, theirs.float())
    )
    assert float(area.mean()) == pytest.approx(float(expected.mean()), abs=0.015)


def test_boxes_of_images_of_several_sizes_are_those_of_each_size_alone():
    sampler, heights = (
        Sampler(3000, torch.Generator().manual_seed(3)),
        torch.tensor([375.0, 30.0, 64.0]).repeat(1000),
    )
    widths = torch.tensor([500.0, 200.0, 64.0]).repeat(1000)
    boxes = torch.stack(draw_boxes(sampler, heights, widths, (0.2, 1.0), (3 / 4, 4 / 3)), 1)
    torch.manual_seed(4)
    for place in range(3):
        image = torch.empty(1, int(heights[place]), int(widths[place]))
        theirs = [
            RandomResizedCrop.get_params(image, [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(1000)
        ]
        for column, expected in enumerate(zip(*theirs)):
            assert ks_2samp(boxes[place::3, column], expected, method="asymp").pvalue > 1e-3
