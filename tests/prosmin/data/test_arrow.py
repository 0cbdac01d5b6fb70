"""What is written is what is read: pixels, files, labels, in bounded batches."""

import io
import subprocess
import sys

import datasets
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from prosmin.common.errors import UserError
from prosmin.data.arrow import Layout, SplitReader, SplitWriter
from prosmin.data.dataset import load_split
from prosmin.data.picture import decode, encode
from tests.prosmin.data.made import encoded, fetched, photograph

# --- raw ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_small_images_come_back_pixel_for_pixel_over_several_record_batches(tmp_path, channels):
    pixels = np.random.default_rng(0).integers(0, 256, (5000, 6, 9, channels), dtype=np.uint8)
    labels = (np.arange(5000) % 7).tolist()
    manifest = fetched(tmp_path, list(pixels), labels)
    split = load_split(tmp_path, "train")
    assert len(SplitReader(tmp_path / "train.arrow").table["image"].chunks) > 1
    assert manifest["encoding"] == "raw"
    assert split.images.dtype == torch.uint8 and split.labels.dtype == torch.int64
    assert torch.equal(split.images, torch.from_numpy(pixels).permute(0, 3, 1, 2))
    assert split.labels.tolist() == labels
    assert split.classes == tuple(f"class {label}" for label in range(7))


@pytest.mark.parametrize("size", [6, 100])
@pytest.mark.parametrize(
    "rows", [[0], [3, 4, 1999, 2700], range(1100, 2600), range(0, 3000, 7)], ids=str
)
def test_some_rows_are_those_of_all(tmp_path, size, rows):
    """Raw over several record batches, and encoded."""
    count = 3000 if size == 6 else 30
    rows = np.unique(np.asarray(rows) * count // 3000)
    pixels = np.random.default_rng(0).integers(0, 256, (count, size, size, 1), dtype=np.uint8)
    fetched(tmp_path, list(pixels), (np.arange(count) % 7).tolist())
    whole, part = load_split(tmp_path, "train"), load_split(tmp_path, "train", rows=rows)
    assert part.images.equal(whole.images[rows]) and part.labels.equal(whole.labels[rows])
    assert torch.equal(whole.images, torch.from_numpy(pixels).permute(0, 3, 1, 2))


def test_unlabelled_images_have_label_minus_one_and_no_classes(tmp_path):
    fetched(tmp_path, [photograph(8, 8)] * 3)
    split = load_split(tmp_path, "train")
    assert split.labels.tolist() == [-1, -1, -1]
    assert split.classes is None
    assert SplitReader(tmp_path / "train.arrow").table["label"].null_count == 3


def test_some_images_without_a_label_and_labels_are_read_without_pandas(tmp_path):
    """In a process of its own: the writer has loaded pandas here."""
    layout = Layout("raw", 1, 1, 1)
    labels = [3, -1, 0, -1, *range(5000)]
    with SplitWriter(tmp_path / "train.arrow", layout) as writer:
        for label in labels:
            writer.add(b"x", label, "")
    code = (
        "import sys; from prosmin.data.arrow import SplitReader; "
        "labels = SplitReader(sys.argv[1]).labels(); "
        "print(labels.dtype, *labels); assert 'pandas' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "train.arrow"], capture_output=True, text=True
    )
    assert done.stdout.split() == ["int64", *map(str, labels)], done.stderr


def test_the_datasets_library_opens_the_files(tmp_path):
    pixels = [photograph(8, 8), photograph(8, 8) // 2]
    fetched(tmp_path, pixels, [1, 0])
    opened = datasets.Dataset.from_file(str(tmp_path / "train.arrow"))
    assert opened.column_names == ["image", "label", "source"]
    assert opened["label"][:] == [1, 0]
    assert opened[1]["image"] == pixels[1].tobytes()
    assert opened[0]["source"] == "image 0"


def test_small_files_of_one_size_are_stored_as_pixels(tmp_path):
    jpeg = encoded(photograph(32, 24), "JPEG")
    assert fetched(tmp_path, [jpeg, jpeg])["encoding"] == "raw"
    expected = np.asarray(Image.open(io.BytesIO(jpeg)))
    assert np.array_equal(
        load_split(tmp_path, "train").images[0].permute(1, 2, 0).numpy(), expected
    )


@pytest.mark.parametrize(
    "sizes", [[(65, 10), (65, 10)], [(20, 20), (20, 21)]], ids=["above 64 pixels", "of two sizes"]
)
def test_other_images_keep_their_bytes(tmp_path, sizes):
    images = [encoded(photograph(*size), "JPEG") for size in sizes]
    assert fetched(tmp_path, images)["encoding"] == "encoded"
    reader = SplitReader(tmp_path / "train.arrow")
    assert [reader.image(row).to_pybytes() for row in range(2)] == images


# --- encoded --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("channels", [1, 3])
def test_encoded_images_are_decoded_as_pillow_does(tmp_path, kind, channels):
    content = encoded(photograph(90, 120, channels), kind)
    fetched(tmp_path, [content] * 2)
    image = load_split(tmp_path, "train").images[1].permute(1, 2, 0).numpy()
    expected = np.asarray(Image.open(io.BytesIO(content))).reshape(90, 120, channels)
    assert np.array_equal(image, expected)


def test_images_of_different_sizes_need_an_image_size(tmp_path):
    fetched(tmp_path, [encoded(photograph(70, 80), "JPEG"), encoded(photograph(80, 70), "JPEG")])
    assert load_split(tmp_path, "train", 48).images.shape == (2, 3, 48, 48)
    with pytest.raises(
        UserError, match="image 0 and image 1 differ in size; an image_size is needed"
    ):
        load_split(tmp_path, "train")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("side", [40, 80], ids=["raw", "encoded"])
def test_photographs_stand_upright(tmp_path, orientation, side):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(photograph(side, side // 2), "JPEG", exif=exif.tobytes(), quality=95)
    manifest = fetched(tmp_path, [content])
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
    image = load_split(tmp_path, "train").images[0].permute(1, 2, 0).numpy()
    assert np.array_equal(image, expected)
    assert manifest["image_sizes"]["height"] == [expected.shape[0]] * 2


@pytest.mark.parametrize("mode", ["P", "RGBA", "CMYK", "1", "LA", "I;16"])
@pytest.mark.parametrize("side", [40, 80], ids=["raw", "encoded"])
def test_unusual_pixel_types_become_grey_or_rgb(tmp_path, mode, side):
    if mode == "I;16":
        deep = photograph(side, side, 1).astype(np.uint16) * 257
        stream = io.BytesIO()
        Image.fromarray(deep.squeeze(-1)).save(stream, "PNG")
        content, expected = stream.getvalue(), photograph(side, side, 1)
    else:
        content = encoded(photograph(side, side), "TIFF" if mode == "CMYK" else "PNG", mode)
        grey = mode in ("1", "LA")
        expected = np.asarray(Image.open(io.BytesIO(content)).convert("L" if grey else "RGB"))
        expected = expected.reshape(side, side, 1 if grey else 3)
    assert fetched(tmp_path, [content])["channels"] == expected.shape[2]
    assert np.array_equal(
        load_split(tmp_path, "train").images[0].permute(1, 2, 0).numpy(), expected
    )


def test_16_bit_colour_is_stored_with_8_bits():
    import struct
    import zlib

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + name
            + content
            + struct.pack(">I", zlib.crc32(name + content))
        )

    row = b"\x00" + b"\xab\xcd\x12\x34\xff\xff" * 70  # Pillow cannot write such a file
    header = struct.pack(">IIBBBBB", 70, 70, 16, 2, 0, 0, 0)
    content = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(row * 70))
        + chunk(b"IEND", b"")
    )
    stored, pixels = encode(content)
    assert stored != content
    assert pixels[3, 5].tolist() == decode(stored)[3, 5].tolist() == [0xAB, 0x12, 0xFF]


def test_rows_are_held_in_memory_one_bounded_batch_at_a_time(tmp_path):
    with SplitWriter(tmp_path / "a.arrow", Layout("encoded", 3)) as writer:
        for row in range(50):
            writer.add(bytes([row]) * 2**20, row, str(row))
    reader = SplitReader(tmp_path / "a.arrow")
    assert max(chunk.nbytes for chunk in reader.table["image"].chunks) < 18 * 2**20
    assert [reader.image(row).to_pybytes()[0] for row in range(50)] == list(range(50))
    assert [reader.image(row).to_pybytes()[0] for row in range(14, 20)] == list(range(14, 20))
