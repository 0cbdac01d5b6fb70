"""One image at a time: its header, its pixels, and the bytes under which it is kept."""

import io
import os
import stat
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import (  # the plugins, lest Pillow load all of them when it is asked for a format
    AvifImagePlugin,  # noqa: F401
    Image,
    ImageOps,
    Jpeg2KImagePlugin,  # noqa: F401
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
    features,
)

_FORMATS = {  # as Pillow names them, with the endings of their files
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
"""What is read, by content. Pillow knows more formats; one starts a program (EPS: Ghostscript)."""
SUFFIXES = frozenset(ending for endings in FORMATS.values() for ending in endings)
LARGEST_FILE = 2**30  # bytes

_DEEP = {"I;16", "I;16L", "I;16B", "I;16N"}
_GREY = {"1", "L", "LA", "La"} | _DEEP
_COLOUR = {"P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"}
_ALPHA = {"LA", "La", "PA", "RGBA", "RGBa"}
_TURNED = {5, 6, 7, 8}  # orientations that swap height and width

# What Pillow says of a large or damaged file belongs into the manifest, not onto the screen.
warnings.filterwarnings("ignore", module=r"PIL\.")


class Unreadable(Exception):
    """An image that cannot be decoded in full; the message is the reason."""


@dataclass(frozen=True)
class Withheld:
    """An image that a source does not hand out."""

    reason: str


AnyImage = bytes | Path | np.ndarray | Withheld
"""An encoded image, its file, uint8 pixels [height, width, channels], or why it is not read."""


@dataclass(frozen=True)
class Header:
    """What is known without decoding.

    channels: after conversion, 1 or 3; height, width: upright, in pixels;
    changes: what decoding does, of palette, alpha, CMYK, YCbCr, 16-bit, 1-bit, turned (upright, as
        its EXIF orientation says) and animated (the first picture is taken); mostly nothing.
    """

    channels: int
    height: int
    width: int
    changes: tuple[str, ...] = ()


def read_header(image: AnyImage) -> Header:
    """Raise ``Unreadable`` where there is no image, or one of a pixel type that has no 8-bit reading."""
    if isinstance(image, np.ndarray):
        return Header(image.shape[2], image.shape[0], image.shape[1])
    try:
        with open_picture(image) as picture:
            return _header(picture)
    except Exception as error:  # Pillow raises nearly any type on malformed files
        raise Unreadable(_reason(error)) from None


def decode(image: AnyImage, channels: int | None = None) -> np.ndarray:
    """Pixels, uint8 [height, width, channels], upright.

    channels: 3 makes RGB of grey, by repetition; else they are as in ``read_header``.
    A palette, CMYK or YCbCr becomes RGB, alpha is dropped (the colours under it stay), bilevel
    becomes 0 and 255, 16-bit grey keeps its high byte (12-bit TIFFs their upper 8 bits). Raise ``Unreadable`` for an image that is
    broken or ends early.
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


def encode(image: AnyImage) -> tuple[bytes, np.ndarray]:
    """The bytes to keep, and the pixels: an 8-bit grey or RGB JPEG or PNG is kept as it is, anything else as a PNG.

    Every image is decoded in full first, so that a truncated one raises ``Unreadable`` here and not in training.
    """
    if isinstance(image, np.ndarray):
        return to_png(image), image
    try:
        if isinstance(image, Path):
            _check_file(image)
            image = image.read_bytes()
        with open_picture(image) as picture:
            plain = isinstance(image, bytes) and _is_plain(picture, image)
            pixels = _pixels(picture)
    except Exception as error:
        raise Unreadable(_reason(error)) from None
    return (image if plain else to_png(pixels)), pixels


def to_png(pixels: np.ndarray) -> bytes:
    """uint8 [height, width, 1 or 3] as a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(stream, "PNG")
    return stream.getvalue()


def open_picture(image: bytes | Path | Withheld) -> Image.Image:
    """What Pillow makes of the header of an encoded image, if it is of one of ``FORMATS``."""
    if isinstance(image, Withheld):
        raise Unreadable(image.reason)
    if isinstance(image, Path):
        _check_file(image)
    elif not image:
        raise Unreadable("the file is empty")
    file = io.BytesIO(image) if isinstance(image, bytes) else image
    return Image.open(file, formats=tuple(FORMATS))


def orientation(picture: Image.Image) -> int:
    """How its file says it is to be turned, 1 to 8; 1 is upright."""
    found = picture.getexif().get(0x0112)
    return found if found in range(2, 9) else 1


def upright_size(picture: Image.Image) -> tuple[int, int]:
    """Height and width in pixels once it is turned as its file says."""
    width, height = picture.size
    # Of a TIFF Pillow gives the size as it will be: it turns the pixels while it loads them.
    swapped = picture.format != "TIFF" and orientation(picture) in _TURNED
    return (width, height) if swapped else (height, width)


def _check_file(path: Path) -> None:
    facts = os.stat(path)
    if not stat.S_ISREG(facts.st_mode):
        raise Unreadable("not a regular file")  # a pipe would be waited for, a device has no end
    if not facts.st_size:
        raise Unreadable("the file is empty")
    if facts.st_size > LARGEST_FILE:
        raise Unreadable(f"the file is larger than {LARGEST_FILE >> 20} MiB")


def _header(picture: Image.Image) -> Header:
    """To be called before the picture is loaded, which changes what Pillow says of it."""
    if picture.mode not in _GREY | _COLOUR:
        raise Unreadable(f"pixel type {picture.mode} is not supported")
    # RGB of 16 bits has the mode RGB, too.
    deep = picture.mode in _DEEP or (picture.format == "PNG" and ";16" in str(picture.tile))
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
    done = tuple(name for name, there in changes.items() if there)
    return Header(channels, *upright_size(picture), done)


def _bits(picture: Image.Image) -> int:
    """Of a deep grey image: 12 where a TIFF says so, else 16."""
    said = picture.tag_v2.get(258) if isinstance(picture, TiffImagePlugin.TiffImageFile) else None
    return 12 if said == (12,) else 16


def _pixels(picture: Image.Image) -> np.ndarray:
    expected, bits = _header(picture), _bits(picture)
    picture.load()
    if orientation(picture) != 1:
        picture = ImageOps.exif_transpose(picture)
    if picture.mode in _DEEP:
        pixels = (np.asarray(picture) >> (bits - 8)).astype(np.uint8)
    else:
        if picture.mode in ("P", "PA", "RGBa", "La"):
            # A palette may hold transparency, which RGB alone warns about.
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
    """A JPEG or PNG that any decoder reads as 8-bit grey or RGB, without a conversion of its own."""
    if picture.mode not in ("L", "RGB"):
        return False
    eight_bits = image[24:25] == b"\x08"  # of a PNG: Pillow reads RGB of 16 bits as RGB of 8
    return picture.format in ("JPEG", "MPO") or (picture.format == "PNG" and eight_bits)


def _reason(error: Exception) -> str:
    """One line that is the same on every machine: no memory address, no path."""
    if isinstance(error, UnidentifiedImageError):
        return "not in a known image format"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error).splitlines()[0] if str(error) else type(error).__name__
