import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as reference
from sklearn.datasets import load_sample_images

from prosmin import views

LEVEL = 1 / 255


@pytest.fixture(scope="module")
def images():
    """Six 48x64 cuts of real photographs, float [6, 3, 48, 64]."""
    photographs = [torch.tensor(np.array(image)).permute(2, 0, 1) for image in load_sample_images().images]
    cuts = [image[:, top : top + 48, top : top + 64] for image in photographs for top in (40, 150, 300)]
    return torch.stack(cuts).float() / 255


def close(ours, theirs, tolerance=LEVEL):
    assert (ours - theirs).abs().max() <= tolerance


FACTORS = torch.tensor([0.0, 0.3, 0.9, 1.0, 1.4, 2.0])


@pytest.mark.parametrize("name", ["adjust_brightness", "adjust_contrast", "adjust_saturation"])
def test_colour_operation_equals_torchvision_image_by_image(images, name):
    ours = getattr(views, name)(images, FACTORS)
    for image, found, factor in zip(images, ours, FACTORS):
        close(found, getattr(reference, name)(image, float(factor)))


def test_hue_equals_torchvision_image_by_image(images):
    shifts = torch.tensor([-0.5, -0.2, 0.0, 0.07, 0.3, 0.5])
    ours = views.adjust_hue(images, shifts)
    for image, found, shift in zip(images, ours, shifts):
        close(found, reference.adjust_hue(image, float(shift)))


def test_grey_and_solarize_equal_torchvision(images):
    close(views.grey(images), reference.rgb_to_grayscale(images, num_output_channels=3))
    close(views.solarize(images), reference.solarize(images, 0.5))


def test_blur_equals_torchvision_with_the_same_kernel(images):
    sigmas = torch.tensor([0.1, 0.5, 0.8, 1.0, 1.5, 2.0])
    ours = views.gaussian_blur(images, sigmas)
    for image, found, sigma in zip(images, ours, sigmas):
        close(found, reference.gaussian_blur(image, [5, 5], [float(sigma)] * 2))


@pytest.mark.parametrize("flipped", [False, True])
def test_crop_of_a_whole_pixel_box_equals_torchvision_resized_crop(images, flipped):
    boxes = [(0, 0, 48, 64), (3, 5, 20, 30), (10, 0, 8, 8), (40, 56, 8, 8), (1, 1, 47, 1), (7, 9, 33, 17)]
    ours = views.crop(
        images,
        tuple(torch.tensor(column, dtype=torch.float32) for column in zip(*boxes)),
        32,
        torch.full((6,), flipped),
        torch.zeros(6),
    )
    for image, found, (top, left, height, width) in zip(images, ours, boxes):
        # no antialiasing: for a box larger than the view torchvision's filter would widen
        theirs = reference.resized_crop(image, top, left, height, width, [32, 32], antialias=False)
        close(found, theirs.flip(-1) if flipped else theirs)


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("size", [5, 16, 32])
def test_bicubic_crop_equals_torchvision_with_antialiasing(images, flipped, size):
    boxes = [(0, 0, 48, 64), (3, 5, 20, 30), (10, 0, 8, 8), (40, 56, 8, 8), (1, 1, 47, 1), (7, 9, 33, 17)]
    columns = tuple(torch.tensor(column, dtype=torch.float32) for column in zip(*boxes))
    ours = views.bicubic_crop(images, columns, size, torch.full((6,), flipped))
    for image, found, (top, left, height, width) in zip(images, ours, boxes):
        theirs = reference.resized_crop(
            image, top, left, height, width, [size, size], reference.InterpolationMode.BICUBIC, antialias=True
        ).clamp(0, 1)
        close(found, theirs.flip(-1) if flipped else theirs)


def test_a_bicubic_box_between_pixels_moves_with_it(images):
    """A line that rises evenly is reproduced by the cubic, away from the ends of the box."""
    ramp = (torch.arange(64.0) / 100).expand(1, 3, 48, 64)
    box = tuple(torch.tensor([value]) for value in (3.3, 5.7, 30.0, 40.0))
    found = views.bicubic_crop(ramp, box, 40, torch.zeros(1, dtype=torch.bool))[0, 0, 20]
    expected = (5.7 + torch.arange(40.0)) / 100
    torch.testing.assert_close(found[3:-3], expected[3:-3], atol=1e-4, rtol=0)


def test_interpolation_is_a_setting_of_the_view(images):
    batch = (images * 255).byte()
    drawn = {"scale": (0.2, 0.5), "flip": 0.5}
    bilinear, bicubic = (
        views.random_view(batch, settings(**drawn, interpolation=name), torch.Generator().manual_seed(3))
        for name in ("bilinear", "bicubic")
    )
    assert not torch.equal(bilinear, bicubic) and (bilinear - bicubic).abs().mean() < 0.05  # the same boxes and flips


def test_rotation_by_a_quarter_turn_is_exact(images):
    square = images[..., :48]
    whole = tuple(torch.full((6,), value) for value in (0.0, 0.0, 48.0, 48.0))
    turned = views.crop(square, whole, 48, torch.zeros(6, dtype=torch.bool), torch.full((6,), 90.0))
    close(turned, reference.rotate(square, 90.0), 1e-4)


def settings(**changes):
    plain = {"flip": 0.0, "jitter": 0.0, "grayscale": 0.0, "blur": 0.0, "solarize": 0.0}
    return views.ViewSettings(size=32, **{**plain, **changes})


def test_boxes_have_the_asked_areas_and_ratios_and_lie_inside():
    draw = views._Draw(20_000, torch.Generator().manual_seed(0))
    top, left, height, width = views.draw_boxes(draw, 60, 60, (0.2, 0.6), (0.8, 1.25))
    area, ratio = height * width / 3600, width / height
    assert (top >= 0).all() and (left >= 0).all() and (top + height <= 60.001).all() and (left + width <= 60.001).all()
    assert float(area.min()) >= 0.199 and float(area.max()) <= 0.601
    assert float(area.mean()) == pytest.approx(0.4, abs=0.01)
    assert float(ratio.log().mean()) == pytest.approx(0, abs=0.01)


def test_probabilities_are_met_over_many_images(images):
    many = (images[:1] * 255).byte().expand(1000, -1, -1, -1)
    whole = {"scale": (1.0, 1.0), "ratio": (1.3333, 1.3333)}
    plain = views.random_view(many, settings(**whole), torch.Generator().manual_seed(0))
    changed = {
        "flip": {"flip": 0.3},
        "grayscale": {"grayscale": 0.3},
        "blur": {"blur": 0.3},
        "solarize": {"solarize": 0.3},
        "jitter": {"jitter": 0.3},
    }
    for name, change in changed.items():
        view = views.random_view(many, settings(**whole, **change), torch.Generator().manual_seed(0))
        share = float(((view - plain).abs().amax((1, 2, 3)) > 1e-4).float().mean())
        assert share == pytest.approx(0.3, abs=0.05), name


def test_a_view_depends_on_the_generator_alone_and_stays_in_range(images):
    batch = (images * 255).byte()
    everything = views.ViewSettings(size=24, rotate=20.0)
    first, again = (views.random_view(batch, everything, torch.Generator().manual_seed(5)) for _ in range(2))
    other = views.random_view(batch, everything, torch.Generator().manual_seed(6))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.shape == (6, 3, 24, 24) and float(first.min()) >= 0 and float(first.max()) <= 1


def test_grey_images_keep_one_channel(images):
    view = views.random_view((images[:, :1] * 255).byte(), views.ViewSettings(size=16), torch.Generator())
    assert view.shape == (6, 1, 16, 16)
