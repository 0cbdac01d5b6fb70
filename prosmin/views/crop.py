"""Cut boxes out of images and resample them to square views, all images of a batch at once.

Letters in shapes: B images, C channels, H height, W width, S pixels a side of the view. Images are
float in [0, 1], boxes are in pixels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from prosmin.views.draw import Boxes, CropParameters


def crop_views(images: Tensor, size: int, parameters: CropParameters) -> Tensor:
    """Cut, flip and rotate views: [B, C, H, W] -> [B, C, size, size]."""
    if parameters.bicubic:
        return bicubic_crop(images, parameters.boxes, size, parameters.flip)
    return bilinear_crop(images, parameters.boxes, size, parameters.flip, parameters.angle)


def bilinear_crop(
    images: Tensor, boxes: Boxes, size: int, flip: Tensor, angle: Tensor | None
) -> Tensor:
    """Resample a box of each image, flip it, and rotate it about its centre.

    At the border of a box its edge pixel repeats, as if the box had been cut out first. A rotated
    box may reach beyond the box; beyond the border of the image the image's edge repeats.

    flip: bool [B]. angle: degrees [B], counter-clockwise, or None.

    Returns: [B, C, size, size].
    """
    height, width = images.shape[-2:]
    top, left, box_height, box_width = (value.view(-1, 1, 1) for value in boxes)
    line = torch.arange(size, device=images.device, dtype=images.dtype) + 0.5
    line = line / size - 0.5  # in [-0.5, 0.5]
    across = torch.where(flip.view(-1, 1), -line, line).view(-1, 1, size)
    down = line.view(1, size, 1)
    if angle is not None:
        radians = torch.deg2rad(angle)
        cos, sin = radians.cos().view(-1, 1, 1), radians.sin().view(-1, 1, 1)
        across, down = cos * across - sin * down, sin * across + cos * down
    # In pixels of the image; 0 is the centre of its first pixel.
    x = left + (across + 0.5) * box_width - 0.5
    y = top + (down + 0.5) * box_height - 0.5
    if angle is None:
        x = torch.minimum(torch.maximum(x, left), left + box_width - 1)
        y = torch.minimum(torch.maximum(y, top), top + box_height - 1)
    shape = (len(images), size, size)
    grid = torch.stack(
        (((2 * x + 1) / width - 1).expand(shape), ((2 * y + 1) / height - 1).expand(shape)), -1
    )
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def bicubic_crop(images: Tensor, boxes: Boxes, size: int, flip: Tensor) -> Tensor:
    """Resample a box of each image with antialiasing, and flip it. Values are cut to [0, 1].

    The filter is Keys' cubic with a = -0.5 (IEEE TASSP 29(6), 1981), widened where the box is
    larger than the view. It sees the pixels of the box alone. So does Pillow, and torchvision with
    ``antialias``, when it resizes a box that was cut out.

    flip: bool [B].

    Returns: [B, C, size, size].
    """
    height, width = images.shape[-2:]
    top, left, box_height, box_width = boxes
    down = _cubic_weights(top, box_height, height, size)
    across = _cubic_weights(left, box_width, width, size)
    across = torch.where(flip.view(-1, 1, 1), across.flip(1), across)
    # [B, 1, S, H] [B, C, H, W] [B, 1, W, S]: views are smaller than images as a rule, so that the
    # product over the larger side goes first.
    return (down[:, None] @ images @ across[:, None].transpose(2, 3)).clamp(0.0, 1.0)


def _cubic_weights(start: Tensor, length: Tensor, pixels: int, size: int) -> Tensor:
    """Return the share of each pixel of a line in each pixel of its resampled stretch.

    start, length: [B], the stretch of the line. pixels: of the line. size: of the result.

    Returns: [B, size, pixels]; every row adds up to 1.
    """
    place = torch.arange(pixels, device=start.device, dtype=start.dtype) + 0.5  # of the centres
    start, length = start.view(-1, 1, 1), length.view(-1, 1, 1)
    step = length / size
    target = torch.arange(size, device=start.device, dtype=start.dtype).view(1, -1, 1) + 0.5
    centre = start + target * step
    x = ((place - centre) / step.clamp_min(1.0)).abs()
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    weight = torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
    weight = weight * ((place >= start) & (place <= start + length))
    return weight / weight.sum(2, keepdim=True)
