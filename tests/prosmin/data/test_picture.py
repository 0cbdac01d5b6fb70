"""Every image file is read upright and whole, or left out with a reason.

No other file reaches a decoder.
"""

import io
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prosmin.data.picture import (
    FORMATS,
    SUFFIXES,
    Unreadable,
    Withheld,
    decode,
    encode,
    read_header,
)  # fmt: skip
from prosmin.fetching.folders import folder
from prosmin.fetching.writing import write_dataset
from tests.prosmin.data.made import encoded, photograph

ROOT = Path(__file__).parents[3]


def pixels(height: int = 20, width: int = 24, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def saved(picture: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def turned(upright: np.ndarray, orientation: int) -> np.ndarray:
    """What a camera stores that is held so that the file must say ``orientation``."""
    stored = {
        1: lambda image: image,
        2: np.fliplr,
        3: lambda image: np.rot90(image, 2),
        4: np.flipud,
        5: lambda image: image.swapaxes(0, 1),
        6: np.rot90,
        7: lambda image: np.rot90(image, 2).swapaxes(0, 1),
        8: lambda image: np.rot90(image, -1),
    }
    return np.ascontiguousarray(stored[orientation](upright))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["TIFF", "TIFF tiff_lzw", "PNG", "WEBP"])
def test_an_image_of_any_format_stands_upright_and_its_header_says_its_size(kind, orientation):
    kind, _, compression = kind.partition(" ")
    options = {"compression": compression} if compression else {}
    options |= {"lossless": True} if kind == "WEBP" else {}
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = pixels()
    content = saved(
        Image.fromarray(turned(upright, orientation)), kind, exif=exif.tobytes(), **options
    )
    header = read_header(content)
    assert (header.height, header.width) == (20, 24)
    assert np.array_equal(decode(content), upright)
    assert header.changes == (("turned",) if orientation > 1 else ())


@pytest.mark.parametrize("side", [24, 80], ids=["raw", "encoded"])
@pytest.mark.parametrize("orientation", range(5, 9))
def test_turned_tiffs_are_stored_upright(tmp_path, orientation, side):
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = pixels(side - 4, side)
    (tmp_path / "in").mkdir()
    for number in range(3):
        Image.fromarray(turned(upright, orientation)).save(
            tmp_path / "in" / f"{number}.tif", exif=exif
        )
    (tmp_path / "out").mkdir()
    manifest = write_dataset(
        tmp_path / "out", folder(str(tmp_path / "in")), seed=0, val_fraction=0, test_fraction=0
    )
    from prosmin.data.arrow import SplitReader
    from prosmin.fetching.variants import read_pixels

    reader = SplitReader(tmp_path / "out/train.arrow")
    assert np.array_equal(read_pixels(reader, 2), upright)
    sizes = {"height": [side - 4] * 2, "width": [side] * 2}
    assert manifest["image_sizes"] == sizes and manifest["converted"] == {"turned": 3}


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_an_orientation_that_is_none_turns_nothing(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = saved(Image.fromarray(pixels()), "PNG", exif=exif)
    assert read_header(content).changes == ()
    assert np.array_equal(decode(content), pixels())


@pytest.mark.parametrize(
    ("name", "kind"),
    [(ending, kind) for kind, endings in FORMATS.items() for ending in endings],
)
def test_files_of_all_known_endings_are_read(tmp_path, name, kind):
    mode = "1" if name == ".pbm" else "L" if name == ".pgm" else "RGB"
    (tmp_path / "a").mkdir()
    content = saved(Image.fromarray(pixels()).convert(mode), kind)
    (tmp_path / f"a/x{name.upper()}").write_bytes(content)
    (image, _, source), *rest = folder(str(tmp_path)).splits["train"]
    assert not rest and source == f"a/x{name.upper()}"
    assert decode(image).shape == (20, 24, 3 if mode == "RGB" else 1)


def test_images_of_every_usual_ending_are_read():
    usual = ".jpg .jpeg .jpe .jfif .png .gif .bmp .tif .tiff .webp .avif .ppm .pgm .pbm .jp2"
    assert set(usual.split()) <= SUFFIXES


def test_the_content_and_not_the_ending_says_what_a_file_is(tmp_path):
    (tmp_path / "x.png").write_bytes(saved(Image.fromarray(pixels()), "BMP"))
    assert np.array_equal(decode(tmp_path / "x.png"), pixels())


CHANGED = {
    "palette": ("P", "PNG"),
    "alpha": ("RGBA", "PNG"),
    "CMYK": ("CMYK", "JPEG"),
    "1-bit": ("1", "PNG"),
}


@pytest.mark.parametrize("name", CHANGED)
def test_the_header_says_what_decoding_changes(name):
    mode, kind = CHANGED[name]
    content = saved(Image.fromarray(pixels()).convert(mode), kind)
    assert read_header(content).changes == (name,)
    assert decode(content).shape == (20, 24, 1 if mode == "1" else 3)


def test_16_bit_and_animated_images_are_named(tmp_path):
    deep = Image.fromarray(pixels(channels=1)[..., 0].astype(np.uint16) * 257)
    assert read_header(saved(deep, "PNG")).changes == ("16-bit",)
    frames = [Image.fromarray(image) for image in (pixels(), 255 - pixels())]
    animated = saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert "animated" in read_header(animated).changes
    assert np.array_equal(decode(animated), pixels())  # the first of them


def test_the_colours_under_transparency_stay():
    colours = np.dstack([pixels(), np.zeros((20, 24), np.uint8)])
    assert np.array_equal(decode(saved(Image.fromarray(colours), "PNG")), pixels())


def test_16_bit_grey_keeps_its_high_byte_so_that_12_bits_come_out_dark():
    twelve = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    assert decode(saved(Image.fromarray(twelve), "PNG")).max() == 15


def test_of_a_tiff_of_12_bits_the_upper_8_are_kept():
    values = np.arange(4096).reshape(64, 64)
    pairs = zip(values[:, ::2].ravel().tolist(), values[:, 1::2].ravel().tolist(), strict=True)
    packed = b"".join((one << 12 | other).to_bytes(3, "big") for one, other in pairs)
    tags = {256: 64, 257: 64, 258: 12, 259: 1, 262: 1, 273: 122, 277: 1, 278: 64, 279: len(packed)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    content = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + packed
    assert np.array_equal(decode(content)[..., 0], values >> 4)


@pytest.mark.parametrize(
    ("picture", "reason"),
    [
        (Image.new("F", (5, 5)), "pixel type F is not supported"),
        (Image.new("I", (5, 5)), "pixel type I is not supported"),
        (Image.new("LAB", (5, 5)), "pixel type LAB is not supported"),
    ],
)
def test_a_pixel_type_without_an_8_bit_reading_is_left_out(picture, reason):
    for read in (read_header, decode, encode):
        with pytest.raises(Unreadable, match=reason):
            read(saved(picture, "TIFF"))


# --- what must not be opened ----------------------------------------------------------------------

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"


@pytest.mark.parametrize("read", [read_header, decode, encode])
def test_postscript_never_starts_ghostscript(tmp_path, monkeypatch, read):
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path / 'ran'}\nexit 1\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "x.png").write_bytes(EPS)
    for image in (EPS, tmp_path / "x.png"):
        with pytest.raises(Unreadable, match="not in a known image format"):
            read(image)
    assert not (tmp_path / "ran").exists()


def test_formats_that_are_not_listed_are_not_opened():
    assert not {"EPS", "WMF", "PSD", "FITS"} & set(FORMATS) and ".eps" not in SUFFIXES
    for kind in ("ICO", "PCX", "TGA", "SGI"):
        with pytest.raises(Unreadable, match="not in a known image format"):
            decode(saved(Image.fromarray(pixels()), kind))


@pytest.mark.parametrize("read", [read_header, decode, encode])
def test_a_pipe_is_not_waited_for_and_a_device_not_read(tmp_path, read):
    os.mkfifo(tmp_path / "x.png")
    (tmp_path / "y.png").symlink_to("/dev/zero")
    for name in ("x.png", "y.png"):
        with pytest.raises(Unreadable, match="not a regular file"):
            read(tmp_path / name)


def test_a_file_of_gigabytes_is_left_out_unread(tmp_path):
    with open(tmp_path / "x.png", "wb") as file:
        file.truncate(2**31)  # a hole, which takes no room
    with pytest.raises(Unreadable, match="the file is larger than 1024 MiB"):
        encode(tmp_path / "x.png")


def test_what_a_source_withholds_is_unreadable_for_its_reason():
    for read in (read_header, decode, encode):
        with pytest.raises(Unreadable, match="not for you"):
            read(Withheld("not for you"))


def test_a_huge_image_is_left_out_or_read_without_a_word_on_the_screen(tmp_path):
    Image.new("1", (10_000, 10_000)).save(tmp_path / "large.png")
    Image.new("1", (20_000, 10_000)).save(tmp_path / "bomb.png")
    code = (
        "from pathlib import Path\nfrom prosmin.data.picture import Unreadable, read_header\n"
        "print(read_header(Path('large.png')).width)\n"
        "try: read_header(Path('bomb.png'))\nexcept Unreadable as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stderr == ""
    width, reason = done.stdout.splitlines()
    assert width == "10000" and "exceeds limit" in reason


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
@pytest.mark.parametrize("share", [0.0, 0.002, 0.3, 0.9])
def test_a_truncated_image_is_never_accepted(kind, share):
    content = encoded(photograph(100, 100), kind)
    decode(content)
    for read in (decode, encode):
        with pytest.raises(Unreadable):
            read(content[: int(len(content) * share)])


def test_reasons_name_no_machine(tmp_path):
    for content in (b"", b"no image", encoded(photograph(99, 99), "PNG")[:3000]):
        (tmp_path / "x.png").write_bytes(content)
        for image in (content, tmp_path / "x.png"):
            with pytest.raises(Unreadable) as caught:
                encode(image)
            assert str(tmp_path) not in str(caught.value) and "0x" not in str(caught.value)
    with pytest.raises(Unreadable, match="no such file"):
        encode(tmp_path / "gone.png")


def test_a_float_image_is_refused_by_its_header():
    stream = io.BytesIO()
    Image.fromarray(np.zeros((5, 5), np.float32)).save(stream, "TIFF")
    with pytest.raises(Unreadable, match="pixel type F is not supported"):
        read_header(stream.getvalue())
