"""What is written is what is read, at the size and in the colours asked for."""

import io
import json
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from timm.data import create_transform
from torchvision.transforms import CenterCrop, InterpolationMode, Resize

from prosmin.common.errors import UserError
from prosmin.common.files import write_json
from prosmin.data.arrow import Layout, SplitReader, SplitWriter
from prosmin.data.dataset import checksum, convert, load_split, read_manifest, split_names
from prosmin.data.frame import Frame
from prosmin.data.picture import Unreadable, decode, encode, read_header
from prosmin.fetching.sources import Images, Source
from prosmin.fetching.writing import write_dataset


def photograph(height: int, width: int, channels: int = 3) -> np.ndarray:
    """A part of a real photograph, uint8 [height, width, channels]."""
    from sklearn.datasets import load_sample_image

    pixels = load_sample_image("china.jpg")[100 : 100 + height, 200 : 200 + width]
    if channels == 1:
        return np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
    return pixels


def encoded(pixels: np.ndarray, kind: str, mode: str | None = None, **options) -> bytes:
    picture = Image.fromarray(pixels.squeeze(-1) if pixels.shape[2] == 1 else pixels)
    stream = io.BytesIO()
    (picture.convert(mode) if mode else picture).save(stream, kind, **options)
    return stream.getvalue()


def fetched(folder: Path, images: list, labels: list[int] | None = None, **settings) -> dict:
    """Write ``images`` as split train of a dataset; without labels they are unlabelled."""
    classes = tuple(f"class {label}" for label in range(max(labels) + 1)) if labels else None
    rows = np.array(labels if labels else [-1] * len(images), dtype=np.int64)
    source = Source(
        classes,
        {"train": Images(rows, lambda rows: ((images[row], f"image {row}") for row in rows))},
    )
    folder.mkdir(exist_ok=True)
    manifest = write_dataset(folder, source, seed=0, val_fraction=0, test_fraction=0, **settings)
    write_json(folder / "manifest.json", manifest)
    return manifest


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


# --- resizing and colours -------------------------------------------------------------------------


def centre(pixels, side):
    """int [side, side, 3], as torchvision makes it with Pillow."""
    whole = Resize(side, InterpolationMode.BILINEAR)(Image.fromarray(pixels))
    return np.asarray(CenterCrop(side)(whole)).astype(int)


@pytest.mark.parametrize(
    "size", [(90, 130), (130, 90), (20, 31), (50, 75)], ids=["wide", "tall", "enlarged", "odd"]
)
def test_resizing_takes_the_short_side_and_crops_the_centre_as_torchvision_does(size):
    pixels = photograph(*size)
    expected = centre(pixels, 32)
    image = convert(torch.tensor(pixels).permute(2, 0, 1)[None], 32, None)
    assert image.dtype == torch.uint8
    assert abs(image[0].permute(1, 2, 0).numpy() - expected).max() <= 1


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(90, 130), (300, 280), (32, 32), (40, 260)])
def test_the_input_is_cut_as_timm_cuts_it(size, interpolation):
    """Of 32 pixels and 0.875 the short side becomes 36. The oracle is timm's own transform."""
    pixels = photograph(*size)
    transform = create_transform(
        (3, 32, 32), crop_pct=0.875, interpolation=interpolation, mean=(0, 0, 0), std=(1, 1, 1)
    )
    expected = (transform(Image.fromarray(pixels)) * 255).round().int()
    frame = Frame(32, 0.875, interpolation)
    image = convert(torch.tensor(pixels).permute(2, 0, 1)[None], frame, 3)
    assert frame.short_side == 36 and image.shape == (1, 3, 32, 32)
    assert (image[0].int() - expected).abs().max() <= 2
    assert Frame(224, 0.875).short_side == 256 and Frame(224, 0.95).short_side == 235


@pytest.mark.parametrize("size", [(30, 200), (200, 30), (9, 180), (64, 7)])
def test_of_a_thin_image_the_middle_is_that_of_the_whole_one_resized(size):
    """The oracle resizes the whole image."""
    pixels = photograph(*size)
    expected = centre(pixels, 32)
    for batch in (1, 3):
        image = convert(torch.tensor(pixels).permute(2, 0, 1).expand(batch, -1, -1, -1), 32, None)
        assert image.dtype == torch.uint8 and image.shape == (batch, 3, 32, 32)
        assert abs(image[-1].permute(1, 2, 0).numpy() - expected).max() <= 1


def test_a_thin_image_takes_no_memory_beyond_its_middle():
    """A line of 16000 pixels at 224 pixels a side once took 5.4 GB."""
    code = (
        "import resource, sys, torch\nfrom prosmin.data.dataset import convert\n"
        "convert(torch.zeros(1, 3, 40, 40, dtype=torch.uint8), 32, None)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for size in ((1, 16000), (16000, 1)):\n"
        "    image = torch.zeros(1, 3, *size, dtype=torch.uint8)\n"
        "    assert convert(image, 224, None).shape == (1, 3, 224, 224)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 100  # MiB


def test_rgb_becomes_grey_exactly_as_in_pillow():
    pixels = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    grey = convert(torch.from_numpy(pixels).permute(2, 0, 1)[None], None, 1)
    assert np.array_equal(grey[0, 0].numpy(), np.asarray(Image.fromarray(pixels).convert("L")))


def test_grey_becomes_rgb_by_repetition():
    grey = torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8)
    assert torch.equal(convert(grey, None, 3), torch.cat([grey] * 3, dim=1))


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    size=st.integers(2, 70),  # params.yaml allows 4 and more; torch cannot resize RGB to 1 pixel
    have=st.sampled_from([1, 3]),
    want=st.sampled_from([1, 3, None]),
)
def test_any_image_comes_out_at_the_size_asked_for_within_its_range(
    height, width, size, have, want
):
    image = torch.randint(50, 200, (1, have, height, width), dtype=torch.uint8)
    out = convert(image, size, want)
    assert out.shape == (1, want or have, size, size)
    assert out.is_contiguous()
    assert out.min() >= image.min() and out.max() <= image.max()


# --- folders --------------------------------------------------------------------------------------


@pytest.fixture
def three_splits(tmp_path):
    parts = {}
    for value, split in enumerate(["train", "val", "test"]):
        pixels = np.full((value + 2, 8, 8, 1), value, dtype=np.uint8)
        labels = np.arange(value + 2) % 2
        parts[split] = Images(
            labels, lambda rows, pixels=pixels: ((pixels[row], str(row)) for row in rows)
        )
    manifest = write_dataset(tmp_path, Source(("a", "b"), parts), seed=0)
    write_json(tmp_path / "manifest.json", manifest)
    return tmp_path


def test_splits_are_listed_in_their_order(three_splits):
    assert split_names(three_splits) == ["train", "val", "test"]


def test_a_missing_split_is_named_with_those_there_are(three_splits):
    with pytest.raises(
        UserError, match=r"no split 'tests'; there are: train, val, test \(did you mean 'test'\?\)"
    ):
        load_split(three_splits, "tests")


def test_a_dataset_that_was_not_fetched_says_how_to_fetch_it(tmp_path):
    with pytest.raises(
        UserError,
        match=r"digits holds no dataset; fetch the dataset first",
    ):
        read_manifest(tmp_path / "digits")


@pytest.mark.parametrize("damage", ["gone", "cut", "other", "json"])
def test_a_damaged_dataset_is_one_clear_error(three_splits, damage):
    path = three_splits / "train.arrow"
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:200])
    elif damage == "other":
        path.write_text("not Arrow at all")
    else:
        (three_splits / "manifest.json").write_text("{")
    with pytest.raises(
        UserError, match=r"train\.arrow (does not exist|is damaged)|manifest\.json is damaged"
    ):
        load_split(three_splits, "train")


MANIFESTS = {
    "classes": (lambda it: it.pop("classes"), "classes or splits are missing"),
    "splits": (lambda it: it.pop("splits"), "classes or splits are missing"),
    "numbers for classes": (
        lambda it: it.update(classes=[1, 2]),
        "classes is \\[1, 2\\], where a list of names is needed",
    ),
    "unknown split": (
        lambda it: it["splits"].update(trian=5),
        "splits is .* where some of train, val, test are needed",
    ),
    "no count": (
        lambda it: it["splits"]["train"].pop("count"),
        "splits.train.count is null, where a number of images",
    ),
    "fewer": (
        lambda it: it["splits"]["train"].update(count=3),
        "train.arrow holds \\d+ images and its manifest 3; fetch it",
    ),
    "fewer classes": (
        lambda it: it.update(classes=["a"]),
        "train.arrow is damaged: it holds label \\d+ of 1 classes; fetch it",
    ),
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_a_manifest_that_lacks_what_readers_need_is_one_sentence(three_splits, case):
    harm, why = MANIFESTS[case]
    content = json.loads((three_splits / "manifest.json").read_text())
    harm(content)
    write_json(three_splits / "manifest.json", content)
    with pytest.raises(UserError, match=why):
        load_split(three_splits, "train")


def test_a_split_whose_layout_is_not_its_images_is_one_sentence(three_splits):
    path = three_splits / "train.arrow"
    content = path.read_bytes()
    for old, new in (
        (b'"height": 8', b'"height": 9'),
        (b'"channels": 1', b'"channels": 2'),
        (b'"raw"', b'"row"'),
        (b"label", b"labe1"),
    ):
        assert old in content
        path.write_bytes(content.replace(old, new))
        with pytest.raises(
            UserError,
            match=r"train.arrow is damaged or no split of a dataset \(.*\); fetch it again$",
        ):
            load_split(three_splits, "train")


def test_rows_are_held_in_memory_one_bounded_batch_at_a_time(tmp_path):
    with SplitWriter(tmp_path / "a.arrow", Layout("encoded", 3)) as writer:
        for row in range(50):
            writer.add(bytes([row]) * 2**20, row, str(row))
    reader = SplitReader(tmp_path / "a.arrow")
    assert max(chunk.nbytes for chunk in reader.table["image"].chunks) < 18 * 2**20
    assert [reader.image(row).to_pybytes()[0] for row in range(50)] == list(range(50))
    assert [reader.image(row).to_pybytes()[0] for row in range(14, 20)] == list(range(14, 20))


# --- broken images --------------------------------------------------------------------------------


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


def test_unreadable_images_are_left_out_and_listed(tmp_path):
    good = encoded(photograph(20, 20), "PNG")
    manifest = fetched(tmp_path, [good, good[:-40], b"", good], max_unreadable=0.5)
    assert [entry["source"] for entry in manifest["quarantined"]] == ["image 1", "image 2"]
    assert manifest["quarantined"][1]["reason"] == "the file is empty"
    assert manifest["splits"]["train"]["count"] == len(load_split(tmp_path, "train")) == 2
    with pytest.raises(
        UserError, match=r"2 of 4 images cannot be read.* \(0\.4\) allows; the first is image 1"
    ):
        fetched(tmp_path / "strict", [good, good[:-40], b"", good], max_unreadable=0.4)


# --- imports --------------------------------------------------------------------------------------


def test_writing_needs_neither_torch_nor_the_pipeline():
    code = (
        "import sys, prosmin.fetching.writing, prosmin.fetching.parquet, prosmin.fetching.hub; "
        "heavy = {'torch', 'sklearn', 'datasets', 'dvc', 'prefect', 'pydantic'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_manifest_is_plain_json(tmp_path):
    manifest = fetched(tmp_path, [photograph(8, 8)] * 2, [0, 1])
    assert json.loads((tmp_path / "manifest.json").read_text()) == manifest


def test_the_checksum_sees_every_pixel_and_the_order():
    first, second = torch.zeros(3, 4, dtype=torch.uint8), torch.ones(2, dtype=torch.uint8)
    changed = first.clone()
    changed[2, 3] = 1
    sums = {
        checksum(*tensors)
        for tensors in [(first, second), (second, first), (changed, second), (first, None)]
    }
    assert len(sums) == 4 and checksum(first.clone(), second) in sums
