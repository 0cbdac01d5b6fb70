"""Variants are what they claim."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from prosmin.data.arrow import SplitReader
from prosmin.fetching.folders import folder
from prosmin.fetching.sources import builtin
from prosmin.fetching.variants import read_pixels
from prosmin.fetching.writing import write_dataset
from tests.prosmin.fetching.samples import picture


@pytest.fixture(scope="module")
def variants(tmp_path_factory):
    """By transform the pixels and labels of digits' test split, and the manifest."""

    def fetch(transform: str):
        out = tmp_path_factory.mktemp(transform)
        source = builtin("digits", 16, 0.2, 0.2)
        manifest = write_dataset(
            out, source, seed=0, transform=transform, limit={"train": 20, "val": 20}
        )
        reader = SplitReader(out / "test.arrow")
        assert not list(out.glob("*.part"))
        return (
            [read_pixels(reader, row) for row in range(len(reader))],
            reader.table["label"],
            manifest,
        )

    return {
        name: fetch(name) for name in ("none", "invert", "rotate90", "permute", "noise", "halves")
    }


@pytest.mark.parametrize("transform", ["invert", "rotate90", "permute", "noise", "halves"])
def test_variants_have_no_labels_and_keep_count_and_size(variants, transform):
    pixels, labels, manifest = variants[transform]
    assert labels.null_count == len(labels) == 360
    assert manifest["classes"] is None and manifest["splits"]["test"]["per_class"] is None
    assert {image.shape for image in pixels} == {(8, 8, 1)}


def test_invert_and_rotate90_are_those_of_pillow(variants):
    for before, inverted, turned in zip(
        *(variants[name][0] for name in ("none", "invert", "rotate90"))
    ):
        assert np.array_equal(before + inverted, np.full((8, 8, 1), 255))
        upright = Image.fromarray(before[..., 0])
        assert np.array_equal(
            turned[..., 0], np.asarray(upright.transpose(Image.Transpose.ROTATE_90))
        )


def test_permute_moves_the_pixels_of_all_images_in_one_way(variants):
    before, after = (np.stack(variants[name][0]).reshape(360, 64) for name in ("none", "permute"))
    # The values of a position over all images identify it, apart from positions that are always 0.
    columns = Counter(before[:, position].tobytes() for position in range(64))
    assert columns == Counter(after[:, position].tobytes() for position in range(64))
    assert not np.array_equal(before, after)


def test_noise_is_uniform_and_keeps_nothing_of_the_image(variants):
    before, after = (np.stack(variants[name][0]).astype(float) for name in ("none", "noise"))
    assert abs(after.mean() - 127.5) < 2 and abs(after.std() - 256 / 12**0.5) < 2
    assert abs(np.corrcoef(before.ravel(), after.ravel())[0, 1]) < 0.03
    assert len({image.tobytes() for image in after}) == 360


def test_halves_join_images_of_two_classes(variants):
    before, labels, _ = variants["none"]
    labels = labels.to_pylist()
    rights = {}
    for image, label in zip(before, labels):
        rights.setdefault(image[:, 4:].tobytes(), set()).add(label)
    for image, own, label in zip(variants["halves"][0], before, labels):
        assert np.array_equal(image[:, :4], own[:, :4])
        assert rights[image[:, 4:].tobytes()] - {label}


def test_variants_of_large_images_of_many_sizes_are_encoded(tmp_path):
    place_sizes = [(70 + row, 90 - row) for row in range(12)]
    (tmp_path / "in").mkdir()
    for row, size in enumerate(place_sizes):
        (tmp_path / "in" / f"{row:02}.png").write_bytes(picture(row * 20, size, "RGB"))
    for transform in ("halves", "rotate90", "permute", "noise"):
        out = tmp_path / transform
        out.mkdir()
        write_dataset(
            out,
            folder(str(tmp_path / "in")),
            seed=0,
            val_fraction=0,
            test_fraction=0,
            transform=transform,
        )
        reader = SplitReader(out / "train.arrow")
        assert reader.layout.encoding == "encoded"
        sizes = [read_pixels(reader, row).shape[:2] for row in range(12)]
        assert sizes == [size if transform == "rotate90" else size[::-1] for size in place_sizes]
