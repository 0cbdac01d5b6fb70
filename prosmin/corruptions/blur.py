"""Blurs. Their reach is in pixels, so that they are stronger for small images."""

import math

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional

from prosmin.corruptions.filters import convolve, gaussian, motion, normal_weights
from prosmin.corruptions.registry import corruption, uniform


@corruption([1, 2, 3, 4, 6], [0.4, 0.6, 0.7, 0.8, 1])
def gaussian_blur(images: Tensor, deviation: float, generator: Generator | None) -> Tensor:
    """Gaussian blur of this standard deviation in pixels, cut off after 4 standard deviations.

    The border pixels repeat.
    """
    return gaussian(images, deviation)


@corruption(
    [(3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)],
    [(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)],
)
def defocus_blur(images: Tensor, disk: tuple[float, float], generator: Generator | None) -> Tensor:
    """Blur by a disk whose edge is softened by a Gaussian blur.

    disk: radius, and standard deviation of the softening, in pixels.
    """
    radius, softness = disk
    # The softening reflects at this border, which disks of radius 8 and more touch.
    reach = max(8, int(radius))
    squares = torch.arange(-reach, reach + 1, dtype=torch.float64) ** 2
    kernel = (squares[:, None] + squares <= radius**2).double()
    soft = normal_weights(1 if radius <= 8 else 2, softness)
    kernel = convolve((kernel / kernel.sum())[None, None], soft[:, None] * soft)[0, 0]
    used = reach - int(kernel.any(dim=0).nonzero()[0])
    span = slice(reach - used, reach + used + 1)
    return convolve(images, kernel[span, span])


@corruption(
    [(0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)],
    [(0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)],
)
def glass_blur(
    images: Tensor, glass: tuple[float, int, int], generator: Generator | None
) -> Tensor:
    """Blur, copy pixels over their neighbours, blur again.

    The scripts of the benchmark mean to swap two pixels, but they swap views of the same memory. So
    the neighbour is copied and itself stays. The published images are made in this way, and so are
    these.

    glass: standard deviation and reach in pixels, and number of rounds.
    """
    deviation, reach, rounds = glass
    count, _, height, width = images.shape
    # Whole levels, as in the benchmark.
    blurred = gaussian(images, deviation).mul_(255).add_(1e-3).floor_().div_(255)
    for _ in range(rounds):
        steps = torch.randint(
            -reach, reach, (2, count, height, width), generator=generator, device=images.device
        )
        source = shuffled(steps, reach)[:, None].expand(images.shape).flatten(2)
        blurred = blurred.flatten(2).gather(2, source).view(images.shape)
    return gaussian(blurred, deviation)


def shuffled(steps: Tensor, reach: int) -> Tensor:
    """Return the source of every pixel after one round of copying.

    The pixels are visited from the last to the first, apart from pixels nearer than ``reach`` to a
    border. A pixel may copy a neighbour that was visited before it, and then takes the neighbour's
    new value, so that the visits form chains. Doubling follows the chains of all pixels at once: a
    place below H * W means the value after the round, a place above it the value before.

    steps: int64 [2, N, H, W] in -reach .. reach - 1, down and across, from every pixel to the
        neighbour that it copies.

    Returns: int64 [N, H, W], places counted along the rows.
    """
    _, count, height, width = steps.shape
    total = height * width
    place = torch.arange(total, device=steps.device).view(height, width)
    inside = torch.zeros(height, width, dtype=torch.bool, device=steps.device)
    inside[reach + 1 : height - reach + 1, reach + 1 : width - reach + 1] = True
    source = torch.where(inside, place + steps[0] * width + steps[1], place)
    # The last row visited is height - reach, from where a step of reach - 1 stays in the image.
    visited = inside.flatten()[source] & (source > place)
    link = torch.where(visited, source, source + total).view(count, total)
    before = torch.arange(total, 2 * total, device=steps.device).expand(count, -1)
    while bool((link < total).any()):
        link = torch.cat([link, before], dim=1).gather(1, link)
    return (link - total).view(count, height, width)


@corruption(
    [(10, 3), (15, 5), (15, 8), (15, 12), (20, 15)],
    [(6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)],
)
def motion_blur(images: Tensor, smear: tuple[int, float], generator: Generator | None) -> Tensor:
    """Smear images at a random angle within 45 degrees of the horizontal.

    smear: radius and standard deviation in pixels.
    """
    radius, deviation = smear
    angles = uniform((len(images),), -math.pi / 4, math.pi / 4, generator, images)
    return motion(images, radius, deviation, angles)


@corruption(
    [(1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)],
    [(1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)],
)
def zoom_blur(images: Tensor, zooms: tuple[float, float], generator: Generator | None) -> Tensor:
    """Average the image and its enlargements about the centre.

    Enlargements are bilinear and exact to a fraction of a pixel. The scripts of the benchmark round
    them to whole pixels, which shifts large images by up to one pixel and leaves images of 8 pixels
    unchanged up to a factor of 1.06.

    zooms: end and step of the factors, which start at 1.
    """
    stop, step = zooms
    factors = np.arange(1, stop, step)  # with the rounding of NumPy, as in the benchmark
    planes = images.flatten(0, 1)[None]  # all channels of all images are enlarged alike
    total = 2 * planes  # the image, and its enlargement by 1
    for factor in factors[1:]:
        matrix = [[[1 / factor, 0, 0], [0, 1 / factor, 0]]]
        scale = torch.tensor(matrix, dtype=images.dtype, device=images.device)
        grid = functional.affine_grid(scale, [1, 1, *images.shape[-2:]], align_corners=True)
        total += functional.grid_sample(planes, grid, padding_mode="border", align_corners=True)
    return total.view(images.shape) / (len(factors) + 1)
