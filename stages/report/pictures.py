"""Example images of the report as data URIs: what the network sees, and OOD images beside their scores."""

import base64
import io
from typing import NamedTuple

import numpy as np
from PIL import Image

from stages.report.figures import detector_line, detectors_drawn

PIXELATED = (
    64  # up to so many pixels a side an image is embedded as it is and scaled up pixel by pixel
)
SHRUNK = 128  # larger ones are shrunk to this many, as JPEG, so that the page stays light


class Picture(NamedTuple):
    uri: str
    pixelated: bool


class Example(NamedTuple):
    """A test image. scores: by label of the detector, its score and the share of in-distribution images below it."""

    picture: Picture
    index: int
    scores: dict[str, tuple[float, float]]


def picture(pixels: np.ndarray) -> Picture:
    """pixels: uint8 ``[C, H, W]``, C = 1 or 3."""
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
    return np.unique(np.linspace(0, count - 1, min(count, limit)).round().astype(int)).tolist()


def views(arrays: dict[str, np.ndarray], limit: int) -> dict[str, list[Picture]]:
    """Rows of pictures by title: the images, ``limit`` of them at most, then a view of each.

    arrays: ``images`` uint8 [n,C,S,S], ``views`` uint8 [n,V,C,S,S].
    """
    shown = evenly(len(arrays["images"]), limit)
    images, augmented = arrays["images"][shown], arrays["views"][shown]
    rows = {"image": [picture(each) for each in images]}
    for place in range(augmented.shape[1]):
        rows[f"view {place + 1}"] = [picture(each) for each in augmented[:, place]]
    return rows


def examples(
    arrays: dict[str, np.ndarray], scores: dict[str, np.ndarray], kind: str, limit: int
) -> list[Example]:
    """Test images in rising order of the k-NN detector's score, with their scores by the trained encoder.

    arrays: ``images`` uint8 [n,C,H,W] and ``index`` [n], those of kind "id" as ``id_images`` and ``id_index``;
    scores: ``trained.<detector>.<kind>`` float64 [N]; kind: ``id`` | ``ood``.
    """
    prefix = "id_" if kind == "id" else ""
    images, index = arrays[f"{prefix}images"], arrays[f"{prefix}index"]
    detectors = detectors_drawn(
        name.split(".")[1] for name in scores if name.startswith("trained.")
    )
    found = []
    for place in evenly(len(images), limit):
        rows = {}
        for name in detectors:
            score, reference = (
                scores[f"trained.{name}.{kind}"][index[place]],
                scores[f"trained.{name}.id"],
            )
            rows[detector_line(name).label] = (float(score), float((reference < score).mean()))
        found.append(Example(picture(images[place]), int(index[place]), rows))
    return found
