from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms.v2.functional as reference
from scipy.stats import ks_2samp, kstest
from sklearn.datasets import load_sample_images
from torchvision.transforms import RandomResizedCrop

from prosmin.views import augment

LEVEL = 1 / 255


@pytest.fixture(scope="module")
def images():
    """Six 48x64 cuts of real photographs, float [6, 3, 48, 64]."""
    photographs = [
        torch.tensor(np.array(image)).permute(2, 0, 1) for image in load_sample_images().images
    ]
    cuts = [
        image[:, top : top + 48, top : top + 64] for image in photographs for top in (40, 150, 300)
    ]
    return torch.stack(cuts).float() / 255


def close(ours, theirs, tolerance=LEVEL):
    assert (ours - theirs).abs().max() <= tolerance


FACTORS = torch.tensor([0.0, 0.3, 0.9, 1.0, 1.4, 2.0])


@pytest.mark.parametrize("name", ["adjust_brightness", "adjust_contrast", "adjust_saturation"])
def test_colour_operation_equals_torchvision_image_by_image(images, name):
    ours = getattr(augment, name)(images, FACTORS)
    for image, found, factor in zip(images, ours, FACTORS):
        close(found, getattr(reference, name)(image, float(factor)))


def test_hue_equals_torchvision_image_by_image(images):
    shifts = torch.tensor([-0.5, -0.2, 0.0, 0.07, 0.3, 0.5])
    ours = augment.adjust_hue(images, shifts)
    for image, found, shift in zip(images, ours, shifts):
        close(found, reference.adjust_hue(image, float(shift)))


def test_grey_and_solarize_equal_torchvision(images):
    close(augment.grey(images), reference.rgb_to_grayscale(images, num_output_channels=3))
    close(augment.solarize(images), reference.solarize(images, 0.5))


def test_blur_equals_torchvision_with_the_same_kernel(images):
    sigmas = torch.tensor([0.1, 0.5, 0.8, 1.0, 1.5, 2.0])
    ours = augment.gaussian_blur(images, sigmas)
    for image, found, sigma in zip(images, ours, sigmas):
        close(found, reference.gaussian_blur(image, [5, 5], [float(sigma)] * 2))


@pytest.mark.parametrize("flipped", [False, True])
def test_crop_of_a_whole_pixel_box_equals_torchvision_resized_crop(images, flipped):
    boxes = [
        (0, 0, 48, 64),
        (3, 5, 20, 30),
        (10, 0, 8, 8),
        (40, 56, 8, 8),
        (1, 1, 47, 1),
        (7, 9, 33, 17),
    ]
    ours = augment.crop(
        images,
        tuple(torch.tensor(column, dtype=torch.float32) for column in zip(*boxes)),
        32,
        torch.full((6,), flipped),
        None,
    )
    for image, found, (top, left, height, width) in zip(images, ours, boxes):
        # no antialiasing: for a box larger than the view torchvision's filter would widen
        theirs = reference.resized_crop(image, top, left, height, width, [32, 32], antialias=False)
        close(found, theirs.flip(-1) if flipped else theirs)


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("size", [5, 16, 32])
def test_bicubic_crop_equals_torchvision_with_antialiasing(images, flipped, size):
    boxes = [
        (0, 0, 48, 64),
        (3, 5, 20, 30),
        (10, 0, 8, 8),
        (40, 56, 8, 8),
        (1, 1, 47, 1),
        (7, 9, 33, 17),
    ]
    columns = tuple(torch.tensor(column, dtype=torch.float32) for column in zip(*boxes))
    ours = augment.bicubic_crop(images, columns, size, torch.full((6,), flipped))
    for image, found, (top, left, height, width) in zip(images, ours, boxes):
        theirs = reference.resized_crop(
            image,
            top,
            left,
            height,
            width,
            [size, size],
            reference.InterpolationMode.BICUBIC,
            antialias=True,
        ).clamp(0, 1)
        close(found, theirs.flip(-1) if flipped else theirs)


def test_a_bicubic_box_between_pixels_moves_with_it(images):
    """A line that rises evenly is reproduced by the cubic, away from the ends of the box."""
    ramp = (torch.arange(64.0) / 100).expand(1, 3, 48, 64)
    box = tuple(torch.tensor([value]) for value in (3.3, 5.7, 30.0, 40.0))
    found = augment.bicubic_crop(ramp, box, 40, torch.zeros(1, dtype=torch.bool))[0, 0, 20]
    expected = (5.7 + torch.arange(40.0)) / 100
    torch.testing.assert_close(found[3:-3], expected[3:-3], atol=1e-4, rtol=0)


def test_interpolation_is_a_setting_of_the_view(images):
    batch = (images * 255).byte()
    drawn = {"scale": (0.2, 0.5), "flip": 0.5}
    bilinear, bicubic = (
        augment.random_view(
            batch, settings(**drawn, interpolation=name), torch.Generator().manual_seed(3)
        )
        for name in ("bilinear", "bicubic")
    )
    assert (
        not torch.equal(bilinear, bicubic) and (bilinear - bicubic).abs().mean() < 0.05
    )  # the same boxes and flips


def test_rotation_by_a_quarter_turn_is_exact(images):
    square = images[..., :48]
    whole = tuple(torch.full((6,), value) for value in (0.0, 0.0, 48.0, 48.0))
    turned = augment.crop(
        square, whole, 48, torch.zeros(6, dtype=torch.bool), torch.full((6,), 90.0)
    )
    close(turned, reference.rotate(square, 90.0), 1e-4)


def settings(**changes):
    plain = {"flip": 0.0, "jitter": 0.0, "grayscale": 0.0, "blur": 0.0, "solarize": 0.0}
    return augment.ViewSettings(size=32, **{**plain, **changes})


def uniform(values, low, high):
    """Do all the values, and as many of each size, lie between the bounds? By Kolmogorov and Smirnov, at 0.1 %."""
    assert kstest(np.asarray(values, np.float64), "uniform", (low, high - low)).pvalue > 1e-3


def test_boxes_are_uniform_in_area_logarithm_of_the_ratio_and_place():
    draw = augment.Draw(5000, torch.Generator().manual_seed(0))
    top, left, height, width = augment.draw_boxes(draw, 6000, 8000, (0.2, 0.5), (0.8, 1.25))
    uniform(height * width / 48e6, 0.2, 0.5)
    uniform((width / height).log(), np.log(0.8), np.log(1.25))
    uniform(top / (6000 - height), 0, 1)
    uniform(left / (8000 - width), 0, 1)


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
    draw = augment.Draw(count, torch.Generator().manual_seed(1))
    ours = torch.stack(augment.draw_boxes(draw, height, width, scale, ratio), 1)
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
    draw, heights = (
        augment.Draw(3000, torch.Generator().manual_seed(3)),
        torch.tensor([375.0, 30.0, 64.0]).repeat(1000),
    )
    widths = torch.tensor([500.0, 200.0, 64.0]).repeat(1000)
    boxes = torch.stack(augment.draw_boxes(draw, heights, widths, (0.2, 1.0), (3 / 4, 4 / 3)), 1)
    torch.manual_seed(4)
    for place in range(3):
        image = torch.empty(1, int(heights[place]), int(widths[place]))
        theirs = [
            RandomResizedCrop.get_params(image, [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(1000)
        ]
        for column, expected in enumerate(zip(*theirs)):
            assert ks_2samp(boxes[place::3, column], expected, method="asymp").pvalue > 1e-3


# What was drawn, read off views of images that show it: pixels [3, 32, 32], settings, from views [N, 3, 32, 32] to the values, their bounds.
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
    uniform(read(augment.random_view(many, whole, torch.Generator().manual_seed(1))), *bounds)


def test_probabilities_are_met_over_many_images(images):
    many = (images[:1] * 255).byte().expand(4000, -1, -1, -1)
    whole = {"scale": (1.0, 1.0), "ratio": (1.3333, 1.3333)}
    plain = augment.random_view(many, settings(**whole), torch.Generator().manual_seed(0))
    changed = {
        "flip": {"flip": 0.3},
        "grayscale": {"grayscale": 0.3},
        "blur": {"blur": 0.3},
        "solarize": {"solarize": 0.3},
        "jitter": {"jitter": 0.3},
    }
    for name, change in changed.items():
        view = augment.random_view(
            many, settings(**whole, **change), torch.Generator().manual_seed(0)
        )
        share = float(((view - plain).abs().amax((1, 2, 3)) > 1e-4).float().mean())
        assert share == pytest.approx(0.3, abs=0.05), name


def test_a_view_depends_on_the_generator_alone_and_stays_in_range(images):
    batch = (images * 255).byte()
    everything = augment.ViewSettings(size=24, rotate=20.0)
    first, again = (
        augment.random_view(batch, everything, torch.Generator().manual_seed(5)) for _ in range(2)
    )
    other = augment.random_view(batch, everything, torch.Generator().manual_seed(6))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.shape == (6, 3, 24, 24) and float(first.min()) >= 0 and float(first.max()) <= 1


def test_grey_images_keep_one_channel(images):
    view = augment.random_view(
        (images[:, :1] * 255).byte(), augment.ViewSettings(size=16), torch.Generator()
    )
    assert view.shape == (6, 1, 16, 16)


def on(device, drawn):
    """What was drawn, on another device."""
    if isinstance(drawn, torch.Tensor):
        return drawn.to(device)
    if isinstance(drawn, tuple):
        return tuple(on(device, each) for each in drawn)
    if is_dataclass(drawn):
        return replace(
            drawn, **{field.name: on(device, getattr(drawn, field.name)) for field in fields(drawn)}
        )
    return drawn


@pytest.mark.gpu
@pytest.mark.parametrize("bicubic", [False, True])
def test_a_gpu_makes_the_views_that_a_cpu_makes_of_the_same_draws(images, bicubic):
    draw = augment.Draw(6, torch.Generator().manual_seed(4))
    angle = None if bicubic else draw.uniform(-20, 20)
    shape = augment.Shape(
        augment.draw_boxes(draw, 48, 64, (0.2, 1.0), (0.75, 1.33)), draw.coin(0.5), angle, bicubic
    )
    colours = augment.draw_colours(draw, augment.ViewSettings(size=24, solarize=0.3), 3)
    here = augment.recolour(augment.cut(images, 24, shape), colours)
    there = augment.recolour(augment.cut(images.cuda(), 24, on("cuda", shape)), on("cuda", colours))
    close(here, there.cpu())
