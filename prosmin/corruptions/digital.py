"""Digital corruptions: contrast, colour, elastic transforms, pixels and JPEG."""

import io

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor
from torch.nn import functional

from prosmin.corruptions.filters import gaussian
from prosmin.corruptions.registry import corruption, is_small, uniform
from prosmin.data.picture import Pixels


@corruption([0.4, 0.3, 0.2, 0.1, 0.05], [0.75, 0.5, 0.4, 0.3, 0.15])
def contrast(images: Tensor, factor: float, generator: Generator | None) -> Tensor:
    """Scale the distance of every channel to its mean over the image."""
    return images.lerp(images.mean((2, 3), keepdim=True), 1 - factor)


@corruption(
    [(2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)],
    [(0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)],
)
def elastic_transform(
    images: Tensor, stretch: tuple[float, float, float], generator: Generator | None
) -> Tensor:
    """Apply a random affine map, then move every pixel by a smooth random field.

    The benchmark's script for large images takes 244 pixels for the side of an image of 224, and so
    does this function, in proportion for other sizes.

    stretch: three lengths as shares of the shorter side. The amplitude of the field, which is
        uniform in +-1 before smoothing; the standard deviation of the smoothing; the largest shift
        of the three points that define the affine map.
    """
    count, _, height, width = images.shape
    side = min(height, width) * (1 if is_small(images) else 244 / 224)
    amplitude, smoothing, shift = (side * share for share in stretch)
    images = _affine(images, uniform((count, 3, 2), -shift, shift, generator, images))
    if not amplitude:
        return images
    field = uniform((count, 2, height, width), -1, 1, generator, images)
    return _moved(images, gaussian(field, smoothing, truncate=3, mirrored=True) * amplitude)


def _places(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return x [W] and y [H, 1] of the pixels."""
    height, width = images.shape[-2:]
    across = torch.arange(width, dtype=images.dtype, device=images.device)
    return across, torch.arange(height, dtype=images.dtype, device=images.device)[:, None]


def _affine(images: Tensor, shifts: Tensor) -> Tensor:
    """Move three points about the centre, and the image with them; borders are reflected.

    shifts: [N, 3, 2], x and y.
    """
    height, width = images.shape[-2:]
    centre = torch.tensor([height // 2, width // 2], dtype=torch.float64)
    arm = max(1, min(height, width) // 3)
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
    points = (centre + arm * corners).to(images.device)
    moved = torch.cat([points + shifts, torch.ones_like(shifts[..., :1])], dim=2)
    # [N, 3, 2]: maps (x, y, 1) to the source of a pixel.
    back = torch.linalg.solve(moved, points.expand(len(images), -1, -1)).to(images)
    x, y = _places(images)
    along_x, along_y, offset = (back[:, None, None, row] for row in range(3))
    source = x[:, None] * along_x + y[..., None] * along_y + offset
    grid = source * torch.tensor([2 / (width - 1), 2 / (height - 1)], device=images.device) - 1
    return functional.grid_sample(images, grid, padding_mode="reflection", align_corners=True)


def _moved(images: Tensor, field: Tensor) -> Tensor:
    """Move every pixel by a field; edges are reflected.

    field: [N, 2, H, W], pixels across and down to the source of every pixel.
    """
    height, width = images.shape[-2:]
    x, y = _places(images)
    grid = torch.stack(
        [(2 * (field[:, 0] + x) + 1) / width - 1, (2 * (field[:, 1] + y) + 1) / height - 1], dim=3
    )
    return functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


@corruption(
    [(0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)],
    [(0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)],
)
def saturate(images: Tensor, change: tuple[float, float], generator: Generator | None) -> Tensor:
    """Multiply the S of HSV by a factor and add to it: severities 1 and 2 pale, 3 to 5 garish.

    Images of one channel have no saturation and stay as they are. A grey pixel of an RGB image has
    the hue 0 by convention, so that an addition turns it reddish, as in the benchmark.

    change: factor and addition.
    """
    if images.shape[1] == 1:
        return images
    factor, addition = change
    value, least = images.amax(1, keepdim=True), images.amin(1, keepdim=True)
    old = torch.where(value > 0, (value - least) / value, 0.0)
    new = (old * factor + addition).clamp(0, 1)
    coloured = value - (value - images) * new / old  # a channel lies below V in proportion to S
    red = torch.cat([value, value * (1 - new), value * (1 - new)], 1)
    return torch.where(old > 0, coloured, red)


@corruption([0.6, 0.5, 0.4, 0.3, 0.25], [0.95, 0.9, 0.85, 0.75, 0.65])
def pixelate(images: Tensor, scale: float, generator: Generator | None) -> Tensor:
    """Shrink by means over boxes and enlarge by repetition.

    A small pixel is the mean of the pixels whose centre lies in its box, as in Pillow's ``BOX``.

    scale: share of each side that is left, rounded down to whole pixels.
    """
    (rows, down), (columns, across) = (_boxes(length, scale) for length in images.shape[-2:])
    small = down.to(images) @ images @ across.to(images).T
    return small.index_select(3, columns.to(images.device)).index_select(2, rows.to(images.device))


def _boxes(length: int, scale: float) -> tuple[Tensor, Tensor]:
    """Divide one side into boxes.

    Returns: the box of every pixel [length], and the means over boxes as a matrix [small, length].
    """
    small = max(1, int(length * scale))
    place = torch.arange(length, dtype=torch.float64)
    width = length / small
    first = (torch.arange(small, dtype=torch.float64) * width + 0.5).floor()
    last = ((torch.arange(small, dtype=torch.float64) + 1) * width + 0.5).floor().clamp(max=length)
    inside = ((place >= first[:, None]) & (place < last[:, None])).double()
    box = (place * small / length + 0.5 * small / length).floor()
    return box.long(), inside / inside.sum(1, keepdim=True)


@corruption([25, 18, 15, 10, 7], [80, 65, 58, 50, 40])
def jpeg_compression(images: Tensor, quality: int, generator: Generator | None) -> Tensor:
    """Encode as baseline JPEG, colours at half the resolution, and decode, by Pillow on the CPU."""
    levels = images.mul_(255).round_().to(torch.uint8)
    pixels = levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    decoded = np.stack([_through_jpeg(image, quality) for image in pixels])
    back = torch.from_numpy(decoded).view(pixels.shape).permute(0, 3, 1, 2).contiguous()
    return back.to(images).div_(255)


def _through_jpeg(image: Pixels, quality: int) -> Pixels:
    """Map uint8 [H, W, 1 or 3] to uint8 [H, W] or [H, W, 3]."""
    stream = io.BytesIO()
    picture = Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image)
    picture.save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream, formats=["JPEG"]))
