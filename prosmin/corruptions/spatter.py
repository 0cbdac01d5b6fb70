"""Spatter: drops of water or mud on the lens, shaped by the edges of a random landscape.

The edge detector, the approximate distances and the histogram equalisation are those of OpenCV, on
whole grey levels, so that the drops have the shapes of the benchmark.
"""

from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional

from prosmin.corruptions.filters import box, convolve, gaussian
from prosmin.corruptions.registry import corruption, grey, normal

WATER, MUD = (175, 238, 238), (63, 42, 20)
FAR = 20.0  # pixels from an edge beyond which the depth of water does not change


@corruption(
    [
        (0.65, 0.3, 4, 0.69, 0.6, WATER),
        (0.65, 0.3, 3, 0.68, 0.6, WATER),
        (0.65, 0.3, 2, 0.68, 0.5, WATER),
        (0.65, 0.3, 1, 0.65, 1.5, MUD),
        (0.67, 0.4, 1, 0.65, 1.5, MUD),
    ],
    [
        (0.62, 0.1, 0.7, 0.7, 0.5, WATER),
        (0.65, 0.1, 0.8, 0.7, 0.5, WATER),
        (0.65, 0.3, 1, 0.69, 0.5, WATER),
        (0.65, 0.1, 0.7, 0.69, 0.6, MUD),
        (0.65, 0.1, 0.5, 0.68, 0.6, MUD),
    ],
)
def spatter(images: Tensor, drops: tuple[Any, ...], generator: Generator | None) -> Tensor:
    """Add liquid where smoothed normal noise is above a threshold.

    Water adds its colour. Mud covers the image.

    drops: mean and standard deviation of the noise; standard deviation of its smoothing in pixels;
        threshold; amount, which is the factor of the colour of water, or the softening of mud in
        pixels; liquid, ``WATER`` or ``MUD``.
    """
    mean, deviation, smoothing, threshold, amount, liquid = drops
    colour = torch.tensor(liquid, device=images.device)[:, None, None] / 255
    if images.shape[1] == 1:
        colour = grey(colour[None])[0]
    count, _, height, width = images.shape
    level = normal((count, 1, height, width), generator, images).mul_(deviation).add_(mean)
    level = gaussian(level, smoothing)
    if liquid == WATER:
        wet: Tensor = images + water(level, threshold) * amount * colour
        return wet
    cover = gaussian((level > threshold).to(images), amount)
    cover = cover.masked_fill(cover < 0.8, 0)
    return images * (1 - cover) + cover * colour


def water(level: Tensor, threshold: float) -> Tensor:
    """Return how much water every pixel shows, [N, 1, H, W] in [0, 1].

    The largest value of an image is 1, or 0 for an image without water.
    """
    liquid = level.masked_fill(level < threshold, 0).clamp(max=1).mul(255).floor()
    distance = _distance(~_edges(liquid, 50, 150)).clamp(max=FAR)
    depth = _equalised(box(distance).floor())
    relief = torch.tensor([[-2.0, -1, 0], [-1, 1, 1], [0, 1, 2]])
    depth = box(convolve(depth, relief).round().clamp(0, 255)).round()
    shown = liquid * depth
    most = shown.amax((2, 3), keepdim=True)
    return torch.where(most > 0, shown / most.clamp(min=1), 0.0)


def _edges(levels: Tensor, low: float, high: float) -> Tensor:
    """Find Canny's edges of whole grey levels.

    Sobel gradients in the 1-norm are thinned to ridges. A pixel above ``low`` is an edge where a
    chain of such pixels leads to a pixel above ``high``.

    Returns: bool [N, 1, H, W].
    """
    slope = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], device=levels.device)
    padded = functional.pad(levels, (1, 1, 1, 1), mode="replicate")
    gradients = functional.conv2d(padded, torch.stack([slope, slope.T])[:, None])
    across, down = torch.split(gradients, 1, dim=1)
    steep = across.abs() + down.abs()
    height, width = steep.shape[2:]
    around = functional.pad(steep, (1, 1, 1, 1))

    def beside(y: int, x: int) -> Tensor:
        return around[:, :, 1 + y : 1 + y + height, 1 + x : 1 + x + width]

    # The gradient lies within 22.5 degrees of the horizontal.
    flat = down.abs() < across.abs() * 0.4142135
    upright = down.abs() > across.abs() * 2.4142135
    rising = (across < 0) != (down < 0)
    ridge = torch.where(
        flat,
        (steep > beside(0, -1)) & (steep >= beside(0, 1)),
        torch.where(
            upright,
            (steep > beside(-1, 0)) & (steep >= beside(1, 0)),
            torch.where(
                rising,
                (steep > beside(-1, 1)) & (steep > beside(1, -1)),
                (steep > beside(-1, -1)) & (steep > beside(1, 1)),
            ),
        ),
    )
    candidates = ridge & (steep > low)
    edges = candidates & (steep > high)
    while True:
        grown = functional.max_pool2d(edges.float(), 3, stride=1, padding=1).bool() & candidates
        if grown.equal(edges):
            return edges
        edges = grown


def _distance(free: Tensor) -> Tensor:
    """Measure the distance to the nearest pixel that is not free, up to a little over ``FAR``.

    A step to a neighbour costs 1, a diagonal step 1.4, a step of a knight in chess 2.1969.

    Returns: pixels [N, 1, H, W].
    """
    height, width = free.shape[2:]
    distance = torch.where(free, 2 * FAR, 0.0)
    steps = [
        (y, x)
        for y in range(-2, 3)
        for x in range(-2, 3)
        if (abs(y), abs(x)) in {(0, 1), (1, 0), (1, 1), (1, 2), (2, 1)}
    ]
    for _ in range(min(int(FAR) + 1, height + width)):
        around = functional.pad(distance, (2, 2, 2, 2), value=2 * FAR)
        nearer = distance.clone()
        for y, x in steps:
            cost = {1: 1.0, 2: 1.4, 3: 2.1969}[abs(y) + abs(x)]
            neighbour = around[:, :, 2 + y : 2 + y + height, 2 + x : 2 + x + width]
            torch.minimum(nearer, neighbour + cost, out=nearer)
        if nearer.equal(distance):
            break
        distance = nearer
    return distance


def _equalised(levels: Tensor) -> Tensor:
    """Equalise the histogram of grey levels 0 to 255; an image of one level stays as it is."""
    count, pixels = len(levels), levels[0].numel()
    place = levels.flatten(1).long()
    histogram = torch.zeros(count, 256, device=levels.device).scatter_add_(
        1, place, torch.ones_like(levels).flatten(1)
    )
    total = histogram.cumsum(1)
    lowest = (histogram > 0).int().argmax(1, keepdim=True)
    first = histogram.gather(1, lowest)
    spread = ((total - first) * (255 / (pixels - first).clamp(min=1))).round()
    table = torch.where(first == pixels, lowest.float(), spread)
    return table.gather(1, place).view(levels.shape)
