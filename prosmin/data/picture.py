"""One image: its header, its pixels, and the bytes that a dataset stores of it."""

import io
import os
import stat
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# Some plugins are imported by name; otherwise Pillow would load all of its plugins at first use.
from PIL import (
    AvifImagePlugin,  # noqa: F401
    Image,
    ImageOps,
    Jpeg2KImagePlugin,  # noqa: F401
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
    features,
)

_FORMATS = {  # by Pillow's name the endings of files
    "AVIF": (".avif",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "JPEG": (".jfif", ".jpe", ".jpeg", ".jpg", ".mpo"),
    "JPEG2000": (".j2k", ".jp2", ".jpx"),
    "PNG": (".apng", ".png"),
    "PPM": (".pbm", ".pgm", ".pnm", ".ppm"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
_OPTIONAL = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}  # not in every build
FORMATS = {
    name: ends for name, ends in _FORMATS.items() if features.check(_OPTIONAL.get(name, "pil"))
}
"""The formats that are read; the content of a file decides. Others of Pillow are left out, because
one of them starts a program (EPS: Ghostscript)."""
SUFFIXES = frozenset(ending for endings in FORMATS.values() for ending in endings)
LARGEST_FILE = 2**30  # bytes
JPEG_QUALITY = 90  # of images that are stored smaller than they came

_DEEP = {"I;16", "I;16L", "I;16B", "I;16N"}
_GREY = {"1", "L", "LA", "La"} | _DEEP
_COLOUR = {"P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"}
_ALPHA = {"LA", "La", "PA", "RGBA", "RGBa"}
_TURNED = {5, 6, 7, 8}  # orientations that swap height and width

# Warnings about large or damaged files go into the manifest, not onto the screen.
warnings.filterwarnings("ignore", module=r"PIL\.")


class Unreadable(Exception):
    """An image that cannot be decoded in full; the message is the reason."""


@dataclass(frozen=True)
class Withheld:
    """An image that a source does not hand out."""

    reason: str


Pixels = NDArray[np.uint8]
"""[height, width, channels]."""

AnyImage = bytes | Path | Pixels | Withheld
"""An encoded image, its file, its pixels, or the reason why it is not read."""


@dataclass(frozen=True)
class Header:
    """Facts about an image that need no decoding.

    channels: after conversion, 1 or 3.
    height, width: upright, in pixels.
    changes: names of the conversions that decoding makes: palette, alpha, CMYK, YCbCr, 16-bit,
        1-bit, turned (upright, as its EXIF orientation says), animated (the first frame is taken).
    """

    channels: int
    height: int
    width: int
    changes: tuple[str, ...] = ()


def read_header(image: AnyImage) -> Header:
    """Read the header of an image.

    Raises ``Unreadable`` for anything but an image, and for pixels that cannot become 8-bit.
    """
    if isinstance(image, np.ndarray):
        return Header(image.shape[2], image.shape[0], image.shape[1])
    try:
        with open_picture(image) as picture:
            return _header(picture)
    except Exception as error:  # Pillow raises nearly any type on malformed files
        raise Unreadable(_reason(error)) from None


def decode(image: AnyImage, channels: int | None = None) -> Pixels:
    """Decode an image to pixels, upright.

    A palette, CMYK and YCbCr become RGB. Alpha is dropped, and the colours under it stay. Bilevel
    images become 0 and 255. 16-bit grey keeps its high byte, a 12-bit TIFF its upper 8 bits.

    channels: 3 repeats grey images to RGB; otherwise channels are as in ``read_header``.

    Raises ``Unreadable`` for an image that is broken or ends early.
    """
    if isinstance(image, np.ndarray):
        pixels = image
    else:
        try:
            with open_picture(image) as picture:
                pixels = _pixels(picture)
        except Exception as error:
            raise Unreadable(_reason(error)) from None
    return np.repeat(pixels, 3, axis=2) if channels == 3 and pixels.shape[2] == 1 else pixels


def encode(image: AnyImage) -> tuple[bytes, Pixels]:
    """Return the bytes to store, and the pixels.

    An 8-bit grey or RGB JPEG or PNG is stored as it is, any other image as a PNG.

    Raises ``Unreadable`` for a broken image, which is decoded in full here, long before training.
    """
    if isinstance(image, np.ndarray):
        return to_png(image), image
    try:
        if isinstance(image, Path):
            image = contents(image)
        with open_picture(image) as picture:
            plain = isinstance(image, bytes) and _is_plain(picture, image)
            pixels = _pixels(picture)
    except Exception as error:
        raise Unreadable(_reason(error)) from None
    return image if plain and isinstance(image, bytes) else to_png(pixels), pixels


def contents(image: bytes | Path) -> bytes:
    """Return the bytes of an image file. Raises ``Unreadable`` or ``OSError``."""
    if isinstance(image, bytes):
        return image
    _check_file(image)
    return image.read_bytes()


def to_png(pixels: Pixels) -> bytes:
    """Encode uint8 [height, width, 1 or 3] as PNG."""
    stream = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(stream, "PNG")
    return stream.getvalue()


def to_jpeg(pixels: Pixels) -> bytes:
    """Encode uint8 [height, width, 1 or 3] as JPEG of quality ``JPEG_QUALITY``."""
    stream = io.BytesIO()
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    picture.save(stream, "JPEG", quality=JPEG_QUALITY)
    return stream.getvalue()


def shrink(pixels: Pixels, short_side: int) -> Pixels:
    """Resize the short side of an image to ``short_side`` (bicubic, antialiased)."""
    height, width = pixels.shape[:2]
    scale = short_side / min(height, width)
    size = max(short_side, round(width * scale)), max(short_side, round(height * scale))
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    resized = np.array(picture.resize(size, Image.Resampling.BICUBIC))
    return resized.reshape(*resized.shape[:2], pixels.shape[2])


def open_picture(image: bytes | Path | Withheld) -> Image.Image:
    """Open an encoded image, of which Pillow reads the header.

    Raises ``Unreadable``, or an error of Pillow, for anything but an image of ``FORMATS``.
    """
    if isinstance(image, Withheld):
        raise Unreadable(image.reason)
    if isinstance(image, Path):
        _check_file(image)
    elif not image:
        raise Unreadable("the file is empty")
    file = io.BytesIO(image) if isinstance(image, bytes) else image
    return Image.open(file, formats=tuple(FORMATS))


def orientation(picture: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 is upright."""
    value = picture.getexif().get(0x0112)
    return value if isinstance(value, int) and 2 <= value <= 8 else 1


def upright_size(picture: Image.Image) -> tuple[int, int]:
    """Return height and width in pixels after the turn that the EXIF orientation asks for."""
    width, height = picture.size
    # Pillow turns a TIFF while it loads its pixels, and gives its size after the turn.
    swapped = picture.format != "TIFF" and orientation(picture) in _TURNED
    return (width, height) if swapped else (height, width)


def _check_file(path: Path) -> None:
    facts = os.stat(path)
    if not stat.S_ISREG(facts.st_mode):
        raise Unreadable("not a regular file")  # a pipe could block, a device has no end
    if not facts.st_size:
        raise Unreadable("the file is empty")
    if facts.st_size > LARGEST_FILE:
        raise Unreadable(f"the file is larger than {LARGEST_FILE >> 20} MiB")


def _header(picture: Image.Image) -> Header:
    """Read the header before the picture is loaded, because loading changes its attributes."""
    if picture.mode not in _GREY | _COLOUR:
        raise Unreadable(f"pixel type {picture.mode} is not supported")
    # RGB of 16 bits also has the mode RGB.
    tile = getattr(picture, "tile", "")
    deep = picture.mode in _DEEP or (picture.format == "PNG" and ";16" in str(tile))
    changes = {
        "palette": picture.mode in ("P", "PA"),
        "alpha": picture.mode in _ALPHA or "transparency" in picture.info,
        "CMYK": picture.mode == "CMYK",
        "YCbCr": picture.mode == "YCbCr",
        "16-bit": deep,
        "1-bit": picture.mode == "1",
        "animated": bool(getattr(picture, "is_animated", False)),
        "turned": orientation(picture) != 1,
    }
    channels = 1 if picture.mode in _GREY else 3
    made = tuple(name for name, applies in changes.items() if applies)
    return Header(channels, *upright_size(picture), made)


def _bits(picture: Image.Image) -> int:
    """Return the bits of a deep grey image: 12 for a TIFF with this tag, else 16."""
    tag = picture.tag_v2.get(258) if isinstance(picture, TiffImagePlugin.TiffImageFile) else None
    return 12 if tag == (12,) else 16


def _pixels(picture: Image.Image) -> Pixels:
    expected, bits = _header(picture), _bits(picture)
    picture.load()
    if orientation(picture) != 1:
        picture = ImageOps.exif_transpose(picture)
    if picture.mode in _DEEP:
        pixels = (np.asarray(picture) >> (bits - 8)).astype(np.uint8)
    else:
        if picture.mode in ("P", "PA", "RGBa", "La"):
            # A palette may hold transparency, about which a conversion to RGB would warn.
            picture = picture.convert("LA" if picture.mode == "La" else "RGBA")
        pixels = np.array(picture.convert("L" if expected.channels == 1 else "RGB"))
    pixels = pixels.reshape(*pixels.shape[:2], expected.channels)
    if pixels.shape[:2] != (expected.height, expected.width):
        raise Unreadable(
            f"the header says {expected.height} x {expected.width} pixels, but there are "
            f"{pixels.shape[0]} x {pixels.shape[1]}"
        )
    return pixels


def _is_plain(picture: Image.Image, image: bytes) -> bool:
    """Return whether any decoder reads an image as 8-bit grey or RGB, without a conversion."""
    if picture.mode not in ("L", "RGB"):
        return False
    eight_bits = image[24:25] == b"\x08"  # in a PNG; Pillow reads RGB of 16 bits as RGB of 8
    return picture.format in ("JPEG", "MPO") or (picture.format == "PNG" and eight_bits)


def _reason(error: Exception) -> str:
    """Write an error on one line that is the same on every machine, without address or path."""
    if isinstance(error, UnidentifiedImageError):
        return "not in a known image format"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error).splitlines()[0] if str(error) else type(error).__name__
