"""One image at a time: its header, its pixels, and the bytes under which it is kept."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

AnyImage = bytes | Path | np.ndarray
"""An encoded image, the file of one, or uint8 pixels [height, width, channels]."""

_GREY = {"1", "L", "LA", "La", "I;16", "I;16L", "I;16B", "I;16N"}
_COLOUR = {"P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"}
TURNED = {5, 6, 7, 8}  # orientations that swap height and width


class Unreadable(Exception):
    """An image that cannot be decoded in full; the message is the reason."""


@dataclass(frozen=True)
class Header:
    """What is known without decoding: channels after conversion (1 or 3), upright height and width in pixels."""

    channels: int
    height: int
    width: int


def read_header(image: AnyImage) -> Header:
    """Raise ``Unreadable`` where there is no image, or one of a pixel type that has no 8-bit reading."""
    if isinstance(image, np.ndarray):
        return Header(image.shape[2], image.shape[0], image.shape[1])
    try:
        with _open(image) as picture:
            width, height = picture.size
            if orientation(picture) in TURNED:
                width, height = height, width
            return Header(_channels(picture), height, width)
    except Exception as error:  # Pillow raises nearly any type on malformed files
        raise Unreadable(_reason(error)) from None


def decode(image: AnyImage) -> np.ndarray:
    """Pixels, uint8 [height, width, channels], upright; channels as in ``read_header``.

    A palette, alpha channel or CMYK becomes RGB (alpha is dropped), bilevel becomes 0 and 255, 16-bit grey keeps its
    high byte. Raise ``Unreadable`` for an image that is broken or ends early.
    """
    if isinstance(image, np.ndarray):
        return image
    try:
        with _open(image) as picture:
            return _pixels(picture)
    except Exception as error:
        raise Unreadable(_reason(error)) from None


def encode(image: AnyImage) -> tuple[bytes, np.ndarray]:
    """The bytes to keep, and the pixels: an 8-bit grey or RGB JPEG or PNG is kept as it is, anything else as a PNG.

    Every image is decoded in full first, so that a truncated one raises ``Unreadable`` here and not in training.
    """
    if isinstance(image, Path):
        try:
            image = image.read_bytes()
        except OSError as error:
            raise Unreadable(_reason(error)) from None
    pixels = decode(image)
    return (image if isinstance(image, bytes) and _is_plain(image) else to_png(pixels)), pixels


def to_png(pixels: np.ndarray) -> bytes:
    """uint8 [height, width, 1 or 3] as a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(stream, "PNG")
    return stream.getvalue()


def orientation(picture: Image.Image) -> int:
    """How EXIF says it is to be turned, 1 to 8; 1 is upright."""
    return picture.getexif().get(0x0112, 1)


def _open(image: bytes | Path) -> Image.Image:
    if isinstance(image, bytes) and not image or isinstance(image, Path) and image.stat().st_size == 0:
        raise Unreadable("the file is empty")
    return Image.open(io.BytesIO(image) if isinstance(image, bytes) else image)


def _channels(picture: Image.Image) -> int:
    if picture.mode not in _GREY | _COLOUR:
        raise Unreadable(f"pixel type {picture.mode} is not supported")
    return 1 if picture.mode in _GREY else 3


def _pixels(picture: Image.Image) -> np.ndarray:
    channels = _channels(picture)
    picture.load()
    if orientation(picture) != 1:
        picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I;16"):
        return (np.asarray(picture) >> 8).astype(np.uint8)[..., None]
    if picture.mode == "P":
        picture = picture.convert("RGBA")  # a palette may hold transparency, which RGB alone warns about
    pixels = np.array(picture.convert("L" if channels == 1 else "RGB"))
    return pixels.reshape(*pixels.shape[:2], channels)


def _is_plain(image: bytes) -> bool:
    """A JPEG or PNG that any decoder reads as 8-bit grey or RGB, without a conversion that may differ."""
    with Image.open(io.BytesIO(image)) as picture:
        if picture.mode not in ("L", "RGB"):
            return False
        eight_bits = image[24:25] == b"\x08"  # of a PNG: Pillow reads 16-bit RGB as 8-bit without saying so
        return picture.format in ("JPEG", "MPO") or (picture.format == "PNG" and eight_bits)


def _reason(error: Exception) -> str:
    """One line that is the same on every machine: no memory address, no path."""
    if isinstance(error, UnidentifiedImageError):
        return "not in a known image format"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error).splitlines()[0] if str(error) else type(error).__name__
