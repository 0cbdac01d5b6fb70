"""Random corruptions of one image, float [H, W, 3] in [0, 1], with given random numbers.

Written from the description of the benchmark with SciPy, scikit-image, OpenCV and loops, for the
small images of CIFAR-10-C. For large images the tests compare with the package imagecorruptions,
except for elastic_transform and frost, where the package differs from the benchmark.
"""

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates, zoom
from skimage.filters import gaussian


def glass(image, deviation, reach, rounds, steps):
    """steps [rounds,2,H,W]: down and across, to the neighbour that each pixel copies."""
    pixels = np.floor(gaussian(image, deviation, channel_axis=-1) * 255 + 1e-3)
    height, width = pixels.shape[:2]
    for down, across in steps[:rounds]:
        for y in range(height - reach, reach, -1):
            for x in range(width - reach, reach, -1):
                pixels[y, x] = pixels[y + down[y, x], x + across[y, x]]
    return gaussian(pixels / 255, deviation, channel_axis=-1)


def smeared(image, radius, deviation, angle):
    """A pixel becomes a weighted sum of pixels along the angle (degrees); the border repeats."""
    weights = np.exp(-0.5 * (np.arange(2 * radius + 1) / deviation) ** 2)
    height, width = image.shape[:2]
    rows, columns = np.mgrid[:height, :width]
    total = np.zeros_like(image)
    for tap, weight in enumerate(weights / weights.sum()):
        down, across = (int(np.ceil(tap * f(np.deg2rad(angle)) - 0.5)) for f in (np.sin, np.cos))
        total += (
            weight * image[(rows + down).clip(0, height - 1), (columns + across).clip(0, width - 1)]
        )
    return total


def snowed(image, mean, deviation, factor, threshold, radius, smear, kept, noise, angle):
    """noise: the centre of a normal field, of the size that is enlarged."""
    flakes = zoom(mean + deviation * noise, factor, order=1)
    flakes = np.where(flakes < threshold, 0, flakes).clip(0, 1)
    layer = (
        np.round(255 * smeared(flakes, radius, smear, angle))[: len(image), : len(image), None]
        / 255
    )
    white = np.maximum(image, 1.5 * (image @ [0.299, 0.587, 0.114])[..., None] + 0.5)
    return kept * image + (1 - kept) * white + layer + layer[::-1, ::-1]


def stretched(image, amplitude, smoothing, shifts, field):
    """shifts [3,2]: of points of the affine map; field [2,H,W]: across and down, not smoothed."""
    side = len(image)
    middle, arm = side // 2, side // 3
    points = np.float32([[middle + arm] * 2, [middle + arm, middle - arm], [middle - arm] * 2])
    matrix = cv2.getAffineTransform(points, points + shifts.astype(np.float32))
    image = cv2.warpAffine(image, matrix, (side, side), borderMode=cv2.BORDER_REFLECT_101)
    if not amplitude:
        return image
    across, down = (
        amplitude * gaussian_filter(component, smoothing, mode="reflect", truncate=3)
        for component in field
    )
    rows, columns = np.mgrid[:side, :side]
    moved = [
        map_coordinates(
            image[..., channel], [rows + down, columns + across], order=1, mode="reflect"
        )
        for channel in range(3)
    ]
    return np.stack(moved, axis=2)


def watered(image, mean, deviation, smoothing, threshold, amount, noise):
    level = gaussian(mean + deviation * noise, smoothing)
    level = (np.where(level < threshold, 0, level).clip(0, 1) * 255).astype(np.uint8)
    distance = cv2.distanceTransform(255 - cv2.Canny(level, 50, 150), cv2.DIST_L2, 5).clip(max=20)
    depth = cv2.equalizeHist(cv2.blur(distance, (3, 3)).astype(np.uint8))
    depth = cv2.filter2D(depth, cv2.CV_8U, np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]]))
    shown = level * cv2.blur(depth, (3, 3)).astype(float)
    return (
        image + amount * (shown / max(shown.max(), 1))[..., None] * np.array([175, 238, 238]) / 255
    )


def muddied(image, mean, deviation, smoothing, threshold, softness, noise):
    cover = gaussian(
        (gaussian(mean + deviation * noise, smoothing) > threshold).astype(float), softness
    )
    cover = np.where(cover < 0.8, 0, cover)[..., None]
    return image * (1 - cover) + cover * np.array([63, 42, 20]) / 255
