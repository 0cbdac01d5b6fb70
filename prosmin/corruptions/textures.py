"""Random textures: fractal maps for fog, and panes of frost, procedural or from image files."""

import functools
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Generator, Tensor
from torch.nn import functional

from prosmin.common.errors import UserError
from prosmin.common.seeds import constant_generator
from prosmin.corruptions.filters import gaussian, motion
from prosmin.corruptions.registry import SMALL, normal
from prosmin.data.picture import SUFFIXES, Unreadable, decode
from prosmin.fetching.listing import files_in, is_image


def plasma(
    count: int, size: int, decay: float, generator: Generator | None, device: torch.device
) -> Tensor:
    """Draw fractal maps by the diamond-square algorithm on a torus.

    Every round halves the step. It fills the centres of the squares with the mean of their corners,
    then the mid-points of the edges with the mean of their four neighbours, and adds uniform noise
    of amplitude ``wibble**2``.

    size: a power of two.
    decay: divisor of ``wibble`` from round to round.

    Returns: [count, size, size] in [0, 1].
    """
    maps = torch.zeros(count, size, size, device=device)
    step, wibble = size, 100.0

    def noisy(total: Tensor) -> Tensor:
        draw = torch.rand(total.shape, generator=generator, device=device)
        return total / 4 + wibble**2 * (2 * draw - 1)

    while step >= 2:
        half = step // 2
        corners = maps[:, ::step, ::step]
        pairs = corners + corners.roll(-1, 1)
        maps[:, half::step, half::step] = noisy(pairs + pairs.roll(-1, 2))
        centres = maps[:, half::step, half::step]
        maps[:, ::step, half::step] = noisy(
            centres + centres.roll(1, 1) + corners + corners.roll(-1, 2)
        )
        maps[:, half::step, ::step] = noisy(
            centres + centres.roll(1, 2) + corners + corners.roll(-1, 1)
        )
        step, wibble = half, wibble / decay
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low)


# --- frost ----------------------------------------------------------------------------------------

# Mean and standard deviation of red, green and blue of the photographs of frost that the benchmark
# draws from: the first five of its six, two of them equal.
PANES = (
    ((78, 149, 166), (27, 17, 15)),
    ((201, 205, 214), (21, 22, 23)),
    ((201, 205, 214), (21, 22, 23)),
    ((138, 153, 165), (28, 28, 30)),
    ((112, 123, 135), (44, 43, 42)),
)
PANE = (352, 512)  # height and width of a procedural pane, a middling size of the photographs


class Frost:
    """Panes of frost, and the same panes fitted to images of a size.

    panes: uint8 [3, h, w].
    """

    def __init__(self, panes: Sequence[Tensor]):
        self.panes = tuple(panes)
        self._fitted: dict[tuple[int, int, torch.device], list[Tensor]] = {}

    def fitted(self, height: int, width: int, device: torch.device) -> list[Tensor]:
        """Resize the panes for images of this size.

        For ImageNet-C the photographs keep their size; for CIFAR-10-C they shrink to a fifth, by
        picking pixels. All images up to 64 pixels show the same share of a pane as images of 32. A
        pane that is too small for the images is enlarged.

        Returns: float32 [3, h, w] in [0, 1], larger than height x width.
        """
        key = height, width, device
        if key not in self._fitted:
            self._fitted[key] = [self._fit(pane, height, width).to(device) for pane in self.panes]
        return self._fitted[key]

    @staticmethod
    def _fit(pane: Tensor, height: int, width: int) -> Tensor:
        side = max(height, width)
        least = max((height + 1) / pane.shape[1], (width + 1) / pane.shape[2])
        small = side <= SMALL
        scale = max(side / 160 if small else 1.0, least)
        size = [math.ceil(length * scale) for length in pane.shape[1:]]
        mode = "bilinear" if small else "bicubic"
        batch = pane[None].float()
        fitted = functional.interpolate(batch, size=size, mode=mode, align_corners=False)[0]
        return fitted.clamp_(0, 255).round_().div_(255)


def read_frost(folder: str | Path) -> Frost:
    """Read panes from the images in a folder, in the order of their names.

    Of the benchmark's ``frost1.png`` to ``frost6.jpg`` the last is left out, because its scripts
    never draw it.

    Raises ``UserError`` for a folder without images, or with images that cannot be read.
    """
    root = Path(folder).expanduser()
    files = [root / name for name in files_in(root) if is_image(name)] if root.is_dir() else []
    if [file.stem for file in files] == [f"frost{number}" for number in range(1, 7)]:
        files = files[:-1]
    if not files:
        known = ", ".join(sorted(SUFFIXES))
        raise UserError(f"{folder} holds no images of frost; known endings: {known}")
    try:
        panes = [torch.from_numpy(decode(file)).permute(2, 0, 1) for file in files]
    except Unreadable as error:
        raise UserError(f"an image of frost in {folder} cannot be read: {error}") from None
    return Frost([pane.expand(3, -1, -1) for pane in panes])


@functools.cache
def procedural_frost() -> Frost:
    """Make panes that are the same in every run: needles over a fractal map.

    They have the colours and contrasts of the benchmark's photographs.
    """
    generator = constant_generator()
    height, width = PANE
    size = 1 << (max(PANE) - 1).bit_length()
    cloud = plasma(len(PANES), size, 1.6, generator, torch.device("cpu"))[:, :height, :width]
    panes = []
    for (mean, deviation), rough in zip(PANES, cloud):
        needles = _needles(generator)
        pattern = gaussian((_standard(rough) + _standard(needles))[None, None], 0.6)[0, 0]
        # Every part that is cut for ImageNet-C holds this centre.
        seen = pattern[height // 4 : -height // 4, width // 4 : -width // 4]
        pattern = (pattern - seen.mean()) / pattern.std()
        colour, contrast = (
            torch.tensor(value, dtype=torch.float32)[:, None, None] for value in (mean, deviation)
        )
        panes.append((colour + contrast * pattern).clamp(0, 255).round().to(torch.uint8))
    return Frost(panes)


def _needles(generator: Generator, directions: int = 24) -> Tensor:
    """Draw bright and dark needles in all directions, [height, width]."""
    sparks = normal((directions, 1, *PANE), generator, torch.empty(0))
    sparks *= torch.rand(sparks.shape, generator=generator) < 0.01
    return motion(sparks, 20, 14, torch.arange(directions) * (2 * math.pi / directions)).sum(0)[0]


def _standard(field: Tensor) -> Tensor:
    return (field - field.mean()) / field.std()
