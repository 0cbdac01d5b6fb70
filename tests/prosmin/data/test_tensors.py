"""Tensors of images: the pixels and the refusals of Pillow."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from prosmin.data.picture import Unreadable, decode
from prosmin.data.tensors import decode_jpeg, decode_tensor

PHOTOGRAPH = Image.fromarray(load_sample_image("china.jpg"))


def saved(picture, kind, **options):
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(PHOTOGRAPH, "JPEG", exif=exif.tobytes())


KINDS = {
    "JPEG": saved(PHOTOGRAPH, "JPEG", quality=90),
    "odd size": saved(PHOTOGRAPH.crop((0, 0, 333, 201)), "JPEG"),
    "progressive": saved(PHOTOGRAPH, "JPEG", progressive=True, quality=60),
    "without subsampling": saved(PHOTOGRAPH, "JPEG", subsampling=0),
    "grey": saved(PHOTOGRAPH.convert("L"), "JPEG"),
    "CMYK": saved(PHOTOGRAPH.convert("CMYK"), "JPEG"),
    "turned": turned(),
    "PNG": saved(PHOTOGRAPH.crop((0, 0, 30, 20)), "PNG"),
    "palette": saved(PHOTOGRAPH.crop((0, 0, 30, 20)).convert("P"), "PNG"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_those_of_pillow(kind, tmp_path):
    (tmp_path / "image").write_bytes(KINDS[kind])
    expected = torch.from_numpy(decode(KINDS[kind])).permute(2, 0, 1)
    assert torch.equal(decode_tensor(KINDS[kind]), expected)
    assert torch.equal(decode_tensor(tmp_path / "image"), expected)


def test_a_plain_jpeg_never_reaches_pillow(monkeypatch):
    monkeypatch.setattr("prosmin.data.tensors.decode", None)
    assert decode_tensor(KINDS["JPEG"]).shape == (3, 427, 640)


@pytest.mark.parametrize("kind", ["JPEG", "progressive", "grey"])
def test_a_file_that_ends_early_is_refused_at_any_place(kind):
    content = KINDS[kind]
    for end in np.linspace(0, len(content) - 3, 12).astype(int):
        with pytest.raises(Unreadable):
            decode(content[:end])
        with pytest.raises(Unreadable):
            decode_tensor(content[:end])


def test_a_broken_jpeg_alone_is_an_error_of_torchvision():
    with pytest.raises(RuntimeError):
        decode_jpeg(KINDS["JPEG"][:5000])


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(Unreadable, match="no such file"):
        decode_tensor(tmp_path / "nothing.jpg")
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(Unreadable, match="the file is empty"):
        decode_tensor(tmp_path / "empty.jpg")
