"""Corruptions of real photographs against independent implementations.

They are imagecorruptions (ImageNet-C), SciPy, scikit-image, OpenCV and Pillow.
"""

import imagecorruptions
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prosmin import corruptions
from prosmin.corruptions.apply import TYPES, block, corrupt
from tests.prosmin.corruptions.conftest import batch, change, crops, digits, every_severity, ours

NOISE = ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise")
RANDOM = (
    *NOISE,
    "glass_blur",
    "motion_blur",
    "snow",
    "frost",
    "fog",
    "elastic_transform",
    "spatter",
)
EXACT = sorted(set(TYPES) - {*RANDOM, "zoom_blur"})
every_type = pytest.mark.parametrize("name", TYPES)


# --- large images: ImageNet-C ---------------------------------------------------------------------


@every_severity
@pytest.mark.parametrize("name", EXACT)
def test_types_without_randomness_are_the_benchmarks_to_one_grey_level(large, name, severity):
    """One level, because the benchmark truncates where we round."""
    expected = np.stack([imagecorruptions.corrupt(image, severity, name) for image in large])
    difference = np.abs(ours(large, name, severity).astype(int) - expected)
    assert difference.max() <= 1


@every_severity
def test_zoom_blur_is_the_benchmarks_but_for_its_rounding_to_whole_pixels(large, severity):
    expected = np.stack([imagecorruptions.corrupt(image, severity, "zoom_blur") for image in large])
    corrupted = ours(large, "zoom_blur", severity)
    assert (
        np.abs(corrupted.astype(int) - expected).mean()
        < 0.2 * np.abs(change(large, expected)).mean()
    )
    assert np.abs(change(large, corrupted)).mean() == pytest.approx(
        np.abs(change(large, expected)).mean(), rel=0.03
    )


@every_severity
@pytest.mark.parametrize("name", NOISE)
def test_noise_changes_pixels_as_much_as_the_benchmarks(large, name, severity):
    np.random.seed(0)
    expected = change(
        large, np.stack([imagecorruptions.corrupt(image, severity, name) for image in large])
    )
    changes = change(large, ours(large, name, severity))
    assert changes.mean() == pytest.approx(
        expected.mean() + 0.5, abs=0.75
    )  # truncation costs half a level
    # The oracle draws its impulse noise from a generator that cannot be seeded.
    tolerance = 0.05 if name == "impulse_noise" else 0.02
    assert np.abs(changes).mean() == pytest.approx(np.abs(expected).mean(), rel=tolerance)
    assert changes.std() == pytest.approx(expected.std(), rel=tolerance)


# --- every type -----------------------------------------------------------------------------------


def damage(images, name):
    return [
        (corrupt(images, name, severity, 0).double() - images).abs().mean().item()
        for severity in corruptions.SEVERITIES
    ]


# Types whose severities differ in kind (paler or garish, water or mud, few large drops or many
# small drops), so that a higher severity need not change pixels more.
UNEVEN = ("saturate", "spatter", "snow", "elastic_transform", "glass_blur")


@every_type
def test_the_damage_grows_with_severity(name, small, large):
    for images in (small, large):
        if name in ("fog", "frost"):  # which differ much from draw to draw
            images = images.repeat(16 if len(images[0]) == 32 else 4, axis=0)
        changes = damage(batch(images), name)
        assert min(changes) > 0
        if name == "saturate":  # two severities of paling, three of the opposite
            assert changes[0] < changes[1] and changes[2] < changes[3] < changes[4]
        elif name in ("fog", "frost"):
            assert changes[0] < changes[4]
        elif name not in UNEVEN:
            assert all(low < high for low, high in zip(changes, changes[1:], strict=False))


@every_type
def test_digits_of_8_pixels_are_damaged_more_at_higher_severity(name):
    """Grey has no saturation. Pixelate rounds to 7, 7, 6, 6, 5 pixels; 6 fit the strokes worst."""
    changes = damage(digits(), name)
    if name == "saturate":
        assert changes == [0] * 5
    elif name in (*UNEVEN, "frost"):
        assert min(changes) > 0 and changes[4] > 0.5 * changes[0]
    else:
        compared = changes[:4] if name == "pixelate" else changes
        assert changes[0] > 0 and compared == sorted(compared) and changes[4] > 1.3 * changes[0]


@every_type
@given(
    height=st.integers(2, 20), width=st.integers(2, 20), channels=st.sampled_from([1, 3]),
    severity=st.sampled_from(corruptions.SEVERITIES), fill=st.sampled_from([None, 0, 1, 255]),
)  # fmt: skip
@settings(max_examples=15, deadline=None)
def test_shape_and_type_are_kept_at_any_size_and_value(
    name, height, width, channels, severity, fill
):
    images = torch.randint(0, 256, (2, channels, height, width), dtype=torch.uint8)
    images = images if fill is None else torch.full_like(images, fill)
    before = images.clone()
    corrupted = corrupt(images, name, severity, 0)
    assert (
        corrupted.shape == images.shape
        and corrupted.dtype == torch.uint8
        and corrupted.is_contiguous()
    )
    assert images.equal(before)


@pytest.mark.parametrize(
    "name",
    sorted(set(TYPES) - {*NOISE, "saturate", "jpeg_compression", "frost", "spatter"}),
)
def test_a_grey_image_fares_as_its_rgb_copy(name):
    images = digits()[:70]
    alone, threefold = (corrupt(part, name, 3, 0) for part in (images, images.repeat(1, 3, 1, 1)))
    assert threefold.equal(alone.repeat(1, 3, 1, 1))


@pytest.mark.parametrize("name", RANDOM)
def test_draws_differ_between_images_blocks_severities_and_seeds(name):
    size = block(64, 64)
    same = batch(crops(64)[:1]).repeat(2 * size, 1, 1, 1)
    corrupted = corrupt(same, name, 3, 0)
    assert not corrupted[0].equal(corrupted[1])
    assert not corrupted[:size].equal(corrupted[size:])
    assert not corrupted.equal(corrupt(same, name, 3, 1))
    assert not corrupted.equal(corrupt(same, name, 4, 0))


@pytest.mark.parametrize("name", NOISE)
def test_noise_differs_between_channels(name):
    corrupted = corrupt(torch.full((4, 3, 16, 16), 128, dtype=torch.uint8), name, 3, 0)
    assert not corrupted[:, 0].equal(corrupted[:, 1])


@every_type
def test_a_cell_depends_on_nothing_but_its_seed_and_the_images_place(name):
    size = block(48, 48)
    images = batch(crops(48)).repeat(size, 1, 1, 1)[: 2 * size + 20]
    torch.manual_seed(0)
    first = corrupt(images, name, 2, 7)
    torch.manual_seed(1)
    corrupt(images[:3], "gaussian_noise", 1, 3)
    assert corrupt(images, name, 2, 7).equal(first)
    parts = [corrupt(part, name, 2, 7, first=size * k) for k, part in enumerate(images.split(size))]
    assert torch.cat(parts).equal(first)


def test_threads_change_no_pixel():
    images = batch(crops(64)).repeat(40, 1, 1, 1)
    alone = {
        name: corrupt(images, name, 4, 0) for name in ("snow", "jpeg_compression", "gaussian_blur")
    }
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for name, expected in alone.items():
            assert corrupt(images, name, 4, 0).equal(expected)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_part_starts_at_a_block():
    with pytest.raises(ValueError, match="first is 7; it must be a multiple of the block, 256"):
        corrupt(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), "fog", 1, 0, first=7)


def test_the_types_are_those_of_the_library_in_its_order():
    assert list(corruptions.BENCHMARK) == imagecorruptions.get_corruption_names("common")
    assert set(corruptions.EXTRA) == set(imagecorruptions.get_corruption_names("validation"))
    assert set(TYPES) == {*corruptions.BENCHMARK, *corruptions.EXTRA}


@pytest.mark.parametrize(
    ("images", "severity"),
    [
        (torch.zeros(2, 3, 8, 8), 1),
        (torch.zeros(2, 2, 8, 8, dtype=torch.uint8), 1),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), 1),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), 0),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), 6),
    ],
)
def test_other_images_and_severities_are_refused(images, severity):
    with pytest.raises(ValueError, match="images are|severity is"):
        corrupt(images, "contrast", severity, 0)
