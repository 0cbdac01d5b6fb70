"""Corruptions against imagecorruptions (ImageNet-C), SciPy, scikit-image, OpenCV and Pillow on real photographs."""

import io

import cv2
import imagecorruptions
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from imagecorruptions.corruptions import disk, plasma_fractal
from PIL import Image
from scipy.ndimage import affine_transform
from skimage.color import hsv2rgb, rgb2hsv
from skimage.filters import gaussian
from sklearn.datasets import load_digits, load_sample_images

from prosmin import corruptions

NOISE = ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise")
RANDOM = (*NOISE, "fog")
EXACT = sorted(set(corruptions.TYPES) - {*RANDOM, "zoom_blur"})
every_type = pytest.mark.parametrize("name", corruptions.TYPES)
every_severity = pytest.mark.parametrize("severity", corruptions.SEVERITIES)


def crops(size):
    """Four crops [4,H,W,3] of scikit-learn's two photographs; small ones from every seventh pixel, to hold a scene."""
    step = 1 if size > 64 else 420 // size
    photographs = load_sample_images().images
    return np.stack([p[top::step, left::step][:size, :size] for p in photographs for top, left in ((0, 0), (7, 200))])


@pytest.fixture(scope="module")
def large():
    return crops(224)


@pytest.fixture(scope="module")
def small():
    return crops(32)


def batch(images):
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def ours(images, name, severity, seed=0):
    return corruptions.corrupt(batch(images), name, severity, seed).numpy().transpose(0, 2, 3, 1)


def digits():
    """[360,1,8,8] uint8, real images of the smallest size that the pipeline is run on."""
    return torch.from_numpy((load_digits().images[:360] / 16 * 255).round().astype(np.uint8))[:, None]


def change(before, after):
    return (after.astype(np.float64) - before).ravel()


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
    found = ours(large, "zoom_blur", severity)
    assert np.abs(found.astype(int) - expected).mean() < 0.2 * np.abs(change(large, expected)).mean()
    assert np.abs(change(large, found)).mean() == pytest.approx(np.abs(change(large, expected)).mean(), rel=0.03)


@every_severity
@pytest.mark.parametrize("name", NOISE)
def test_noise_changes_pixels_as_much_as_the_benchmarks(large, name, severity):
    np.random.seed(0)
    expected = change(large, np.stack([imagecorruptions.corrupt(image, severity, name) for image in large]))
    found = change(large, ours(large, name, severity))
    assert found.mean() == pytest.approx(expected.mean() + 0.5, abs=0.75)  # truncation costs half a level
    # The oracle draws its impulse noise from a generator that cannot be seeded.
    tolerance = 0.05 if name == "impulse_noise" else 0.02
    assert np.abs(found).mean() == pytest.approx(np.abs(expected).mean(), rel=tolerance)
    assert found.std() == pytest.approx(expected.std(), rel=tolerance)


@every_severity
def test_fog_changes_pixels_as_much_as_the_benchmarks(large, severity):
    """Fog differs much from draw to draw: 60 draws for one image; the tolerance is about three standard errors."""
    np.random.seed(0)
    image = np.repeat(large[:1], 60, axis=0)
    expected = np.stack([imagecorruptions.corrupt(each, severity, "fog") for each in image]).astype(np.float64)
    found = ours(image, "fog", severity).astype(np.float64)
    assert found.mean() == pytest.approx(expected.mean(), abs=6)
    assert np.abs(found - image).mean() == pytest.approx(np.abs(expected - image).mean(), rel=0.1)
    assert found.std(axis=(1, 2, 3)).mean() == pytest.approx(expected.std(axis=(1, 2, 3)).mean(), rel=0.08)


@pytest.mark.parametrize("decay", [3, 2, 1.4])
def test_the_fractal_map_has_the_benchmarks_statistics(decay):
    np.random.seed(0)
    expected = np.stack([plasma_fractal(64, decay) for _ in range(300)])
    found = corruptions._plasma(300, 64, decay, torch.Generator().manual_seed(0), torch.device("cpu")).numpy()
    assert found.min(axis=(1, 2)).max() == 0 and found.max(axis=(1, 2)).min() == 1
    for statistic in (
        lambda maps: maps.mean(),
        lambda maps: maps.std(axis=(1, 2)).mean(),
        lambda maps: np.abs(np.diff(maps, axis=1)).mean(),
        lambda maps: np.abs(np.diff(maps, axis=2)).mean(),
        lambda maps: np.abs(maps - np.roll(maps, 16, axis=2)).mean(),
    ):
        assert statistic(found) == pytest.approx(statistic(expected), rel=0.05)


# --- small images: CIFAR-10-C, whose constants no library holds -----------------------------------


def pillow_jpeg(image, quality):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


def pillow_pixelate(image, scale):
    return np.asarray(Image.fromarray(image).resize((int(32 * scale),) * 2, Image.BOX).resize((32, 32), Image.BOX))


def enlarged(image, factor):
    offset = 15.5 - 15.5 / factor
    return affine_transform(image / 255, [1 / factor, 1 / factor, 1], [offset, offset, 0], order=1)


def zoom_mean(image, factors):
    return 255 * np.mean([image / 255, *(enlarged(image, factor) for factor in factors)], axis=0)


def in_hsv(image, alter):
    hsv = rgb2hsv(image / 255)
    return 255 * hsv2rgb(np.stack(alter(*np.moveaxis(hsv, 2, 0)), axis=2))


def paler(image, factor, addition):
    return in_hsv(image, lambda h, s, v: (h, np.clip(s * factor + addition, 0, 1), v))


def contrasted(image, factor):
    return image.mean((0, 1)) + factor * (image - image.mean((0, 1)))


CIFAR_C = {
    "gaussian_blur": (lambda x, c: 255 * gaussian(x / 255, c, channel_axis=-1), [0.4, 0.6, 0.7, 0.8, 1]),
    "defocus_blur": (
        lambda x, c: cv2.filter2D(x.astype(np.float64), -1, disk(*c)),
        [(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)],
    ),
    # np.arange(1, 1.06, 0.01) and so on, which for some ends holds the end itself
    "zoom_blur": (lambda x, c: zoom_mean(x, np.arange(1, c, 0.01)), [1.06, 1.11, 1.16, 1.21, 1.26]),
    "brightness": (
        lambda x, c: in_hsv(x, lambda h, s, v: (h, s, np.clip(v + c, 0, 1))),
        [0.05, 0.1, 0.15, 0.2, 0.3],
    ),
    "contrast": (contrasted, [0.75, 0.5, 0.4, 0.3, 0.15]),
    "saturate": (lambda x, c: paler(x, *c), [(0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)]),
    "pixelate": (pillow_pixelate, [0.95, 0.9, 0.85, 0.75, 0.65]),
    "jpeg_compression": (pillow_jpeg, [80, 65, 58, 50, 40]),
}


@every_severity
@pytest.mark.parametrize("name", CIFAR_C)
def test_types_without_randomness_on_small_images_are_the_benchmarks(small, name, severity):
    function, constants = CIFAR_C[name]
    expected = np.stack([function(image, constants[severity - 1]) for image in small]).astype(np.float64)
    assert np.abs(ours(small, name, severity) - expected.clip(0, 255)).max() <= 1


@pytest.mark.parametrize(
    ("name", "value", "deviations"),
    [
        ("gaussian_noise", 128, [255 * c for c in (0.04, 0.06, 0.08, 0.09, 0.10)]),
        ("speckle_noise", 128, [128 * c for c in (0.06, 0.1, 0.12, 0.16, 0.2)]),
        # Poisson of mean and variance v * c, over c: variance v / c with v = 128/255
        ("shot_noise", 128, [255 * np.sqrt(128 / 255 / c) for c in (500, 250, 100, 75, 50)]),
        # salt at 255 and pepper at 0, c/2 each: 255^2 (1/2)^2 c but for the odd half level
        ("impulse_noise", 128, [255 / 2 * np.sqrt(c) for c in (0.01, 0.02, 0.03, 0.05, 0.07)]),
    ],
)
def test_noise_on_small_grey_images_has_the_spread_of_its_formula(name, value, deviations):
    flat = torch.full((256, 1, 32, 32), value, dtype=torch.uint8)
    for severity, deviation in zip(corruptions.SEVERITIES, deviations, strict=True):
        noisy = corruptions.corrupt(flat, name, severity, 0).double()
        assert noisy.std().item() == pytest.approx(deviation, rel=0.02)
        assert noisy.mean().item() == pytest.approx(value, abs=0.3)


def test_impulse_noise_leaves_all_other_values_alone():
    flat = torch.full((64, 3, 32, 32), 100, dtype=torch.uint8)
    noisy = corruptions.corrupt(flat, "impulse_noise", 5, 0)
    assert noisy.unique().tolist() == [0, 100, 255]
    assert (noisy == 0).double().mean().item() == pytest.approx(0.035, abs=0.002)
    assert (noisy == 255).double().mean().item() == pytest.approx(0.035, abs=0.002)


@pytest.mark.parametrize("size", [64, 65])
def test_constants_change_above_64_pixels(size):
    """Contrast on half black, half white: the distance to the mean is the factor itself."""
    image = torch.zeros(1, 1, size, size, dtype=torch.uint8)
    image[..., : size // 2] = 255
    image[..., size - size % 2 :] = 127
    spread = corruptions.corrupt(image, "contrast", 5, 0)
    factor = (int(spread.max()) - int(spread.min())) / 255
    assert factor == pytest.approx(0.15 if size == 64 else 0.05, abs=0.005)


def test_contrast_by_hand():
    """Mean (0 + 200) / 2 = 100; at severity 2 of small images half of each distance is left."""
    image = torch.tensor([[[[0, 200], [200, 0]]]], dtype=torch.uint8)
    assert corruptions.corrupt(image, "contrast", 2, 0).tolist() == [[[[50, 150], [150, 50]]]]


def test_pixelate_by_hand():
    """Four pixels at 0.65 become two: means of neighbours, repeated."""
    image = torch.tensor([[[[0, 100, 40, 80]] * 4]], dtype=torch.uint8)
    assert corruptions.corrupt(image, "pixelate", 5, 0)[0, 0].tolist() == [[50, 50, 60, 60]] * 4


# --- every type -----------------------------------------------------------------------------------


@every_type
def test_the_damage_grows_with_severity(name, small, large):
    for images in (small, large):
        if name == "fog":  # which differs much from draw to draw
            images = images.repeat(12, axis=0)
        damage = [np.abs(change(images, ours(images, name, severity))).mean() for severity in corruptions.SEVERITIES]
        if name == "saturate":  # two severities of paling, three of the opposite
            assert 0 < damage[0] < damage[1] and 0 < damage[2] < damage[3] < damage[4]
        else:
            assert damage[0] > 0 and all(low < high for low, high in zip(damage, damage[1:], strict=False))


@every_type
def test_digits_of_8_pixels_are_damaged_more_at_higher_severity(name):
    """Saturation is nothing to grey. Pixelate rounds to 7, 7, 6, 6 and 5 pixels, of which 6 fit the strokes worst."""
    images = digits()
    damage = [
        (corruptions.corrupt(images, name, severity, 0).double() - images).abs().mean().item()
        for severity in corruptions.SEVERITIES
    ]
    if name == "saturate":
        assert damage == [0] * 5
    else:
        compared = damage[:4] if name == "pixelate" else damage
        assert damage[0] > 0 and compared == sorted(compared) and damage[4] > 1.3 * damage[0]


@every_type
@given(
    height=st.integers(2, 20), width=st.integers(2, 20), channels=st.sampled_from([1, 3]),
    severity=st.sampled_from(corruptions.SEVERITIES), fill=st.sampled_from([None, 0, 1, 255]),
)  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_shape_and_type_are_kept_at_any_size_and_value(name, height, width, channels, severity, fill):
    images = torch.randint(0, 256, (2, channels, height, width), dtype=torch.uint8)
    images = images if fill is None else torch.full_like(images, fill)
    before = images.clone()
    found = corruptions.corrupt(images, name, severity, 0)
    assert found.shape == images.shape and found.dtype == torch.uint8 and found.is_contiguous()
    assert images.equal(before)


@pytest.mark.parametrize("name", sorted({*EXACT, "zoom_blur", "fog"} - {"saturate", "jpeg_compression"}))
def test_a_grey_image_fares_as_its_rgb_copy(name):
    images = digits()[:70]
    alone, threefold = (corruptions.corrupt(each, name, 3, 0) for each in (images, images.repeat(1, 3, 1, 1)))
    assert threefold.equal(alone.repeat(1, 3, 1, 1))


@pytest.mark.parametrize("name", RANDOM)
def test_noise_differs_between_channels_images_chunks_severities_and_seeds(name):
    flat = torch.full((2 * corruptions.CHUNK, 3, 16, 16), 128, dtype=torch.uint8)
    found = corruptions.corrupt(flat, name, 3, 0)
    assert not found[0].equal(found[1])
    assert not found[: corruptions.CHUNK].equal(found[corruptions.CHUNK :])
    assert found[:, 0].equal(found[:, 1]) == (name == "fog")  # fog has no colour
    assert not found.equal(corruptions.corrupt(flat, name, 3, 1))
    assert not found.equal(corruptions.corrupt(flat, name, 4, 0))


@every_type
def test_a_cell_depends_on_nothing_but_its_seed_and_the_images_place(name, small):
    images = batch(small).repeat(20, 1, 1, 1)  # 80: more than a chunk
    torch.manual_seed(0)
    first = corruptions.corrupt(images, name, 2, 7)
    torch.manual_seed(1)
    corruptions.corrupt(images, "gaussian_noise", 1, 3)
    assert corruptions.corrupt(images, name, 2, 7).equal(first)
    assert corruptions.corrupt(images[: corruptions.CHUNK], name, 2, 7).equal(first[: corruptions.CHUNK])


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
        corruptions.corrupt(images, "contrast", severity, 0)
