"""Example images of the report as data URIs: views of the network, OOD images with their scores."""

import base64
import io
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from prosmin.common.encoders import TRAINED
from stages.report.figures.lines import detector_line, detectors_drawn

# An image of at most this many pixels per side is embedded as it is and enlarged pixel by pixel.
PIXELATED = 64
# A larger one is shrunk to this many and saved as JPEG, so that the page stays small.
SHRUNK = 128


class Picture(NamedTuple):
    """An image as data URI. pixelated: whether the page enlarges it pixel by pixel."""

    uri: str
    pixelated: bool


@dataclass(frozen=True)
class Example:
    """A test image.

    scores: by label of the detector, the score and the share of in-distribution images below it.
    """

    picture: Picture
    index: int
    scores: dict[str, tuple[float, float]]


def picture(pixels: np.ndarray) -> Picture:
    """The image with these pixels, uint8 ``[C, H, W]``, C = 1 or 3."""
    image = Image.fromarray(
        pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))
    )
    small, content = max(image.size) <= PIXELATED, io.BytesIO()
    if small:
        image.save(content, "PNG", optimize=True)
    else:
        image.thumbnail((SHRUNK, SHRUNK))
        image.save(content, "JPEG", quality=85)
    encoded = base64.b64encode(content.getvalue()).decode()
    return Picture(f"data:image/{'png' if small else 'jpeg'};base64,{encoded}", small)


def evenly(count: int, limit: int) -> list[int]:
    """At most ``limit`` of ``count`` positions, evenly spaced, both ends among them."""
    places = np.linspace(0, count - 1, min(count, limit)).round().astype(int)
    return [int(place) for place in np.unique(places)]


def views(arrays: dict[str, np.ndarray], limit: int) -> dict[str, list[Picture]]:
    """Rows of pictures by title: at most ``limit`` images, then their first view, second view, ...

    arrays: ``images`` uint8 [n,C,S,S], ``views`` uint8 [n,V,C,S,S].
    """
    shown = evenly(len(arrays["images"]), limit)
    images, augmented = arrays["images"][shown], arrays["views"][shown]
    rows = {"image": [picture(image) for image in images]}
    for place in range(augmented.shape[1]):
        rows[f"view {place + 1}"] = [picture(view) for view in augmented[:, place]]
    return rows


def examples(
    arrays: dict[str, np.ndarray], scores: dict[str, np.ndarray], kind: str, limit: int
) -> list[Example]:
    """Test images in rising order of the k-NN score, with the scores of the trained encoder.

    arrays: ``images`` uint8 [n,C,H,W] and ``index`` [n] of OOD images; ``id_images`` and
        ``id_index`` of in-distribution images.
    scores: ``trained.<detector>.<kind>`` float64 [N].
    kind: ``id`` or ``ood``.
    """
    prefix = "id_" if kind == "id" else ""
    images, index = arrays[f"{prefix}images"], arrays[f"{prefix}index"]
    detectors = detectors_drawn(
        name.split(".")[1] for name in scores if name.startswith(f"{TRAINED}.")
    )
    strip = []
    for place in evenly(len(images), limit):
        rows = {}
        for name in detectors:
            score = scores[f"{TRAINED}.{name}.{kind}"][index[place]]
            reference = scores[f"{TRAINED}.{name}.id"]
            rows[detector_line(name).label] = (float(score), float((reference < score).mean()))
        strip.append(Example(picture(images[place]), int(index[place]), rows))
    return strip
