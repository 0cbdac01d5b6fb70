"""Changes of colour are those of torchvision, image by image."""

import pytest
import torch
import torchvision.transforms.v2.functional as reference

from prosmin.views import colour

LEVEL = 1 / 255


def assert_close(ours, theirs, tolerance=LEVEL):
    assert (ours - theirs).abs().max() <= tolerance


FACTORS = torch.tensor([0.0, 0.3, 0.9, 1.0, 1.4, 2.0])


@pytest.mark.parametrize("name", ["adjust_brightness", "adjust_contrast", "adjust_saturation"])
def test_colour_operation_equals_torchvision_image_by_image(images, name):
    ours = getattr(colour, name)(images, FACTORS)
    for image, changed, factor in zip(images, ours, FACTORS):
        assert_close(changed, getattr(reference, name)(image, float(factor)))


def test_hue_equals_torchvision_image_by_image(images):
    shifts = torch.tensor([-0.5, -0.2, 0.0, 0.07, 0.3, 0.5])
    ours = colour.adjust_hue(images, shifts)
    for image, changed, shift in zip(images, ours, shifts):
        assert_close(changed, reference.adjust_hue(image, float(shift)))


def test_grey_and_solarize_equal_torchvision(images):
    assert_close(colour.grey(images), reference.rgb_to_grayscale(images, num_output_channels=3))
    assert_close(colour.solarize(images), reference.solarize(images, 0.5))


def test_blur_equals_torchvision_with_the_same_kernel(images):
    sigmas = torch.tensor([0.1, 0.5, 0.8, 1.0, 1.5, 2.0])
    ours = colour.gaussian_blur(images, sigmas)
    for image, changed, sigma in zip(images, ours, sigmas):
        assert_close(changed, reference.gaussian_blur(image, [5, 5], [float(sigma)] * 2))
