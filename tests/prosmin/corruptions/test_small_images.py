"""Constants of CIFAR-10-C, which no library holds, against independent implementations."""

import io

import cv2
import numpy as np
import pytest
import torch
from imagecorruptions.corruptions import disk
from PIL import Image
from scipy.ndimage import affine_transform
from skimage.color import hsv2rgb, rgb2hsv
from skimage.filters import gaussian

from prosmin import corruptions
from prosmin.corruptions.apply import corrupt
from tests.prosmin.corruptions.conftest import every_severity, ours


def pillow_jpeg(image, quality):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


def pillow_pixelate(image, scale):
    return np.asarray(
        Image.fromarray(image).resize((int(32 * scale),) * 2, Image.BOX).resize((32, 32), Image.BOX)
    )


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
    "gaussian_blur": (
        lambda x, c: 255 * gaussian(x / 255, c, channel_axis=-1),
        [0.4, 0.6, 0.7, 0.8, 1],
    ),
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
    expected = np.stack([function(image, constants[severity - 1]) for image in small]).astype(
        np.float64
    )
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
        noisy = corrupt(flat, name, severity, 0).double()
        assert noisy.std().item() == pytest.approx(deviation, rel=0.02)
        assert noisy.mean().item() == pytest.approx(value, abs=0.3)


def test_impulse_noise_leaves_all_other_values_alone():
    flat = torch.full((64, 3, 32, 32), 100, dtype=torch.uint8)
    noisy = corrupt(flat, "impulse_noise", 5, 0)
    assert noisy.unique().tolist() == [0, 100, 255]
    assert (noisy == 0).double().mean().item() == pytest.approx(0.035, abs=0.002)
    assert (noisy == 255).double().mean().item() == pytest.approx(0.035, abs=0.002)


@pytest.mark.parametrize("size", [64, 65])
def test_constants_change_above_64_pixels(size):
    """Contrast on half black, half white: the distance to the mean is the factor itself."""
    image = torch.zeros(1, 1, size, size, dtype=torch.uint8)
    image[..., : size // 2] = 255
    image[..., size - size % 2 :] = 127
    spread = corrupt(image, "contrast", 5, 0)
    factor = (int(spread.max()) - int(spread.min())) / 255
    assert factor == pytest.approx(0.15 if size == 64 else 0.05, abs=0.005)


def test_contrast_by_hand():
    """Mean (0 + 200) / 2 = 100; at severity 2 of small images half of each distance is left."""
    image = torch.tensor([[[[0, 200], [200, 0]]]], dtype=torch.uint8)
    assert corrupt(image, "contrast", 2, 0).tolist() == [[[[50, 150], [150, 50]]]]


def test_pixelate_by_hand():
    """Four pixels at 0.65 become two: means of neighbours, repeated."""
    image = torch.tensor([[[[0, 100, 40, 80]] * 4]], dtype=torch.uint8)
    assert corrupt(image, "pixelate", 5, 0)[0, 0].tolist() == [[50, 50, 60, 60]] * 4
