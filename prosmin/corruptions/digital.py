"""Digital: contrast, colour, and what displays, lenses and encoders do."""

import io

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor
from torch.nn import functional

from prosmin.corruptions.filters import gaussian
from prosmin.corruptions.registry import corruption, is_small, uniform


@corruption([0.4, 0.3, 0.2, 0.1, 0.05], [0.75, 0.5, 0.4, 0.3, 0.15])
def contrast(images: Tensor, factor: float, generator: Generator | None) -> Tensor:
    """Scale the distance of each channel to its mean over the image by this factor."""
    return images.lerp(images.mean((2, 3), keepdim=True), 1 - factor)


@corruption(
    [(2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)],
    [(0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)],
)
def elastic_transform(
    images: Tensor, stretch: tuple[float, float, float], generator: Generator | None
) -> Tensor:
    """Put the image through a random affine map, then move every pixel by a smooth random field.

    stretch: the amplitude of the field, which is uniform in +-1 before it is smoothed, the deviation of the smoothing, and
    how far the three points of the affine map move at most, all in parts of a side. For small images it is the shorter
    side. The benchmark's script for large ones takes 244 pixels for the side of an image of 224, and so does this, in
    proportion for other sizes.
    """
    count, _, height, width = images.shape
    side = min(height, width) * (1 if is_small(images) else 244 / 224)
    amplitude, smoothing, shift = (side * each for each in stretch)
    images = _affine(images, uniform((count, 3, 2), -shift, shift, generator, images))
    if not amplitude:
        return images
    field = uniform((count, 2, height, width), -1, 1, generator, images)
    return _moved(images, gaussian(field, smoothing, truncate=3, mirrored=True) * amplitude)


def _places(images: Tensor) -> tuple[Tensor, Tensor]:
    """x [W] and y [H,1] of the pixels."""
    height, width = images.shape[-2:]
    across = torch.arange(width, dtype=images.dtype, device=images.device)
    return across, torch.arange(height, dtype=images.dtype, device=images.device)[:, None]


def _affine(images: Tensor, shifts: Tensor) -> Tensor:
    """Move three points about the centre by shifts [N,3,2] (x, y), and the image with them; borders are reflected."""
    height, width = images.shape[-2:]
    centre = torch.tensor([height // 2, width // 2], dtype=torch.float64)
    arm = max(1, min(height, width) // 3)
    points = centre + arm * torch.tensor(
        [[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64
    )
    points = points.to(images.device)
    moved = torch.cat([points + shifts, torch.ones_like(shifts[..., :1])], dim=2)
    back = torch.linalg.solve(moved, points.expand(len(images), -1, -1)).to(
        images
    )  # [N,3,2]: (x, y, 1) to its source
    x, y = _places(images)
    source = (
        x[:, None] * back[:, None, None, 0]
        + y[..., None] * back[:, None, None, 1]
        + back[:, None, None, 2]
    )
    grid = source * torch.tensor([2 / (width - 1), 2 / (height - 1)], device=images.device) - 1
    return functional.grid_sample(images, grid, padding_mode="reflection", align_corners=True)


def _moved(images: Tensor, field: Tensor) -> Tensor:
    """Each pixel takes its value from field [N,2,H,W] (across, down) pixels away, the image reflected at its edges."""
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
    """Multiply the S of HSV by the first constant and add the second: severities 1 and 2 pale, 3 to 5 garish.

    Images of one channel have no saturation and are returned as they are. A grey pixel of an RGB image has the hue 0
    by convention, so that an addition turns it reddish, as in the benchmark.
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
    """Shrink to this share of each side, rounded down to whole pixels, by means over boxes; enlarge by repetition.

    A small pixel is the mean of the pixels whose centre lies in its box, as Pillow's ``BOX`` has it.
    """
    (rows, down), (columns, across) = (_boxes(length, scale) for length in images.shape[-2:])
    small = down.to(images) @ images @ across.to(images).T
    return small.index_select(3, columns.to(images.device)).index_select(2, rows.to(images.device))


def _boxes(length: int, scale: float) -> tuple[Tensor, Tensor]:
    """For one side: the box [length] that each pixel ends up in, and the means over boxes as a matrix [small,length]."""
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
    """Encode as baseline JPEG (colours at half the resolution) of this quality and decode, by Pillow on the CPU."""
    pixels = (
        images.mul_(255).round_().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    )
    decoded = np.stack([_through_jpeg(image, quality) for image in pixels])
    return (
        torch.from_numpy(decoded)
        .view(pixels.shape)
        .permute(0, 3, 1, 2)
        .contiguous()
        .to(images)
        .div_(255)
    )


def _through_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """uint8 [H,W,1 or 3] -> uint8 [H,W] or [H,W,3]."""
    stream = io.BytesIO()
    Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image).save(
        stream, "JPEG", quality=quality
    )
    return np.asarray(Image.open(stream, formats=["JPEG"]))
