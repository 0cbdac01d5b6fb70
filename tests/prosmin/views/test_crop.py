"""Crops are those of torchvision, image by image."""

import pytest
import torch
import torchvision.transforms.v2.functional as reference

from prosmin.views import crop

LEVEL = 1 / 255


def assert_close(ours, theirs, tolerance=LEVEL):
    assert (ours - theirs).abs().max() <= tolerance


BOXES = [
    (0, 0, 48, 64),
    (3, 5, 20, 30),
    (10, 0, 8, 8),
    (40, 56, 8, 8),
    (1, 1, 47, 1),
    (7, 9, 33, 17),
]
COLUMNS = tuple(torch.tensor(column, dtype=torch.float32) for column in zip(*BOXES))


@pytest.mark.parametrize("flipped", [False, True])
def test_crop_of_a_whole_pixel_box_equals_torchvision_resized_crop(images, flipped):
    ours = crop.bilinear_crop(images, COLUMNS, 32, torch.full((6,), flipped), None)
    for image, view, (top, left, height, width) in zip(images, ours, BOXES):
        # no antialiasing: for a box larger than the view torchvision's filter would widen
        theirs = reference.resized_crop(image, top, left, height, width, [32, 32], antialias=False)
        assert_close(view, theirs.flip(-1) if flipped else theirs)


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("size", [5, 16, 32])
def test_bicubic_crop_equals_torchvision_with_antialiasing(images, flipped, size):
    mode = reference.InterpolationMode.BICUBIC
    ours = crop.bicubic_crop(images, COLUMNS, size, torch.full((6,), flipped))
    for image, view, (top, left, height, width) in zip(images, ours, BOXES):
        theirs = reference.resized_crop(
            image, top, left, height, width, [size, size], mode, antialias=True
        ).clamp(0, 1)
        assert_close(view, theirs.flip(-1) if flipped else theirs)


def test_a_bicubic_box_between_pixels_moves_with_it(images):
    """A line that rises evenly is reproduced by the cubic, away from the ends of the box."""
    ramp = (torch.arange(64.0) / 100).expand(1, 3, 48, 64)
    box = tuple(torch.tensor([value]) for value in (3.3, 5.7, 30.0, 40.0))
    view = crop.bicubic_crop(ramp, box, 40, torch.zeros(1, dtype=torch.bool))[0, 0, 20]
    expected = (5.7 + torch.arange(40.0)) / 100
    torch.testing.assert_close(view[3:-3], expected[3:-3], atol=1e-4, rtol=0)


def test_rotation_by_a_quarter_turn_is_exact(images):
    square = images[..., :48]
    whole = tuple(torch.full((6,), value) for value in (0.0, 0.0, 48.0, 48.0))
    turned = crop.bilinear_crop(
        square, whole, 48, torch.zeros(6, dtype=torch.bool), torch.full((6,), 90.0)
    )
    assert_close(turned, reference.rotate(square, 90.0), 1e-4)
