"""Images at the size and in the colours asked for, of datasets that are whole."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.data import create_transform
from torchvision.transforms import CenterCrop, InterpolationMode, Resize

from prosmin.common.errors import UserError
from prosmin.common.files import write_json
from prosmin.data.cut import convert
from prosmin.data.dataset import checksum, load_split, read_manifest, split_names
from prosmin.data.frame import Frame
from prosmin.fetching.sources import Images, Source
from prosmin.fetching.writing import write_dataset
from tests.prosmin.data.made import photograph

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
        "import resource, sys, torch\nfrom prosmin.data.cut import convert\n"
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


def test_the_checksum_sees_every_pixel_and_the_order():
    first, second = torch.zeros(3, 4, dtype=torch.uint8), torch.ones(2, dtype=torch.uint8)
    changed = first.clone()
    changed[2, 3] = 1
    sums = {
        checksum(*tensors)
        for tensors in [(first, second), (second, first), (changed, second), (first, None)]
    }
    assert len(sums) == 4 and checksum(first.clone(), second) in sums
