"""Views are a function of their seed, and follow their settings over many images."""

from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import kstest

from prosmin.views.colour import change_colours
from prosmin.views.crop import crop_views
from prosmin.views.draw import CropParameters, Sampler, draw_boxes, draw_colours
from prosmin.views.make import make_views, random_view
from prosmin.views.settings import ViewSettings

VIEW = ViewSettings(size=8, flip=0.0, grayscale=0.0, solarize=0.0, blur=0.0)


def test_views_are_a_function_of_seed_epoch_step_and_rank():
    batch = torch.randint(
        0, 256, (16, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    key = (0, 3, 5, 0)
    reference = make_views(batch, [VIEW, VIEW], *key)
    again = make_views(batch, [VIEW, VIEW], *key)
    assert all(torch.equal(left, right) for left, right in zip(reference, again))
    assert not torch.equal(reference[0], reference[1])
    for place in range(4):
        other = list(key)
        other[place] += 1
        assert not torch.equal(reference[0], make_views(batch, [VIEW, VIEW], *other)[0])


def settings(**changes):
    plain = {"flip": 0.0, "jitter": 0.0, "grayscale": 0.0, "blur": 0.0, "solarize": 0.0}
    return ViewSettings(size=32, **{**plain, **changes})


def assert_uniform(values, low, high):
    """By the test of Kolmogorov and Smirnov at the level 0.1 %."""
    assert kstest(np.asarray(values, np.float64), "uniform", (low, high - low)).pvalue > 1e-3


def test_interpolation_is_a_setting_of_the_view(images):
    batch = (images * 255).byte()
    drawn = {"scale": (0.2, 0.5), "flip": 0.5}
    bilinear, bicubic = (
        random_view(batch, settings(**drawn, interpolation=name), torch.Generator().manual_seed(3))
        for name in ("bilinear", "bicubic")
    )
    assert (
        not torch.equal(bilinear, bicubic) and (bilinear - bicubic).abs().mean() < 0.05
    )  # the same boxes and flips


# Parameters that can be read off views of suitable images: the image [3, 32, 32], the settings, a
# function from views [N, 3, 32, 32] to the parameter, and the bounds of the parameter.
_FLAT = torch.full((3, 32, 32), 100.0)
_HALVES = torch.cat([torch.full((3, 32, 16), 100.0), torch.full((3, 32, 16), 150.0)], 2)
_RED = torch.tensor([200.0, 100.0, 100.0])[:, None, None].expand(3, 32, 32)
_SLOPE = (torch.arange(32.0) * 8).expand(3, 32, 32)
_POINT = F.one_hot(torch.tensor(16 * 32 + 16), 1024).view(1, 32, 32).expand(3, 32, 32) * 255.0
_ALONE = {"jitter": 1.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
DRAWN = {
    "brightness": (_FLAT, _ALONE | {"brightness": 0.4}, lambda v: v[:, 0, 9, 9] * 2.55, (0.6, 1.4)),
    "contrast": (
        _HALVES,
        _ALONE | {"contrast": 0.4},
        lambda v: (v[:, 0, 9, 25] - v[:, 0, 9, 5]) * 5.1,
        (0.6, 1.4),
    ),
    "saturation": (
        _RED,
        _ALONE | {"saturation": 0.2},
        lambda v: (v[:, 0, 9, 9] - v[:, 1, 9, 9]) * 2.55,
        (0.8, 1.2),
    ),
    "hue": (
        _RED,
        _ALONE | {"hue": 0.1},
        lambda v: (v[:, 1, 9, 9] - v[:, 2, 9, 9]) * 2.55 / 6,
        (-0.1, 0.1),
    ),
    "blur": (
        _POINT,
        {"blur": 1.0},
        lambda v: (-0.5 / (v[:, 0, 16, 15] / v[:, 0, 16, 16]).log()).sqrt(),
        (0.1, 2.0),
    ),
    "rotate": (
        _SLOPE,
        {"rotate": 20.0},
        lambda v: torch.rad2deg(
            torch.atan2(v[:, 0, 15, 16] - v[:, 0, 16, 16], v[:, 0, 16, 16] - v[:, 0, 16, 15])
        ),
        (-20.0, 20.0),
    ),
}


@pytest.mark.parametrize("name", DRAWN)
def test_strengths_are_uniform_between_their_bounds(name):
    pixels, changes, read, bounds = DRAWN[name]
    many = pixels.byte().expand(4000, -1, -1, -1)
    whole = settings(scale=(1.0, 1.0), ratio=(1.0, 1.0), **changes)
    assert_uniform(read(random_view(many, whole, torch.Generator().manual_seed(1))), *bounds)


def test_probabilities_are_met_over_many_images(images):
    many = (images[:1] * 255).byte().expand(4000, -1, -1, -1)
    whole = {"scale": (1.0, 1.0), "ratio": (1.3333, 1.3333)}
    plain = random_view(many, settings(**whole), torch.Generator().manual_seed(0))
    changed = {
        "flip": {"flip": 0.3},
        "grayscale": {"grayscale": 0.3},
        "blur": {"blur": 0.3},
        "solarize": {"solarize": 0.3},
        "jitter": {"jitter": 0.3},
    }
    for name, change in changed.items():
        view = random_view(many, settings(**whole, **change), torch.Generator().manual_seed(0))
        share = float(((view - plain).abs().amax((1, 2, 3)) > 1e-4).float().mean())
        assert share == pytest.approx(0.3, abs=0.05), name


def test_a_view_depends_on_the_generator_alone_and_stays_in_range(images):
    batch = (images * 255).byte()
    everything = ViewSettings(size=24, rotate=20.0)
    first, again = (
        random_view(batch, everything, torch.Generator().manual_seed(5)) for _ in range(2)
    )
    other = random_view(batch, everything, torch.Generator().manual_seed(6))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.shape == (6, 3, 24, 24) and float(first.min()) >= 0 and float(first.max()) <= 1


def test_grey_images_keep_one_channel(images):
    view = random_view((images[:, :1] * 255).byte(), ViewSettings(size=16), torch.Generator())
    assert view.shape == (6, 1, 16, 16)


def on(device, drawn):
    """Move parameters to another device."""
    if isinstance(drawn, torch.Tensor):
        return drawn.to(device)
    if isinstance(drawn, tuple):
        return tuple(on(device, value) for value in drawn)
    if is_dataclass(drawn):
        return replace(
            drawn, **{field.name: on(device, getattr(drawn, field.name)) for field in fields(drawn)}
        )
    return drawn


@pytest.mark.gpu
@pytest.mark.parametrize("bicubic", [False, True])
def test_a_gpu_makes_the_views_that_a_cpu_makes_of_the_same_draws(images, bicubic):
    sampler = Sampler(6, torch.Generator().manual_seed(4))
    angle = None if bicubic else sampler.uniform(-20, 20)
    shape = CropParameters(
        draw_boxes(sampler, 48, 64, (0.2, 1.0), (0.75, 1.33)), sampler.coin(0.5), angle, bicubic
    )
    colours = draw_colours(sampler, ViewSettings(size=24, solarize=0.3), 3)
    here = change_colours(crop_views(images, 24, shape), colours)
    there = change_colours(crop_views(images.cuda(), 24, on("cuda", shape)), on("cuda", colours))
    assert (here - there.cpu()).abs().max() <= 1 / 255
