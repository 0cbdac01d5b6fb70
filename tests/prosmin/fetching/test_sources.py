"""The datasets of scikit-learn arrive whole."""

import numpy as np
import pytest
from sklearn.datasets import load_digits, load_sample_images

from prosmin.fetching.sources import builtin


def test_digits_are_those_of_scikit_learn_at_full_range():
    source = builtin("digits", 16, 0.2, 0.2)
    digits = load_digits()
    images = source.splits["train"]
    pixels = np.stack([image[..., 0] for image, _, _ in images])
    assert source.classes == tuple("0123456789")
    assert images.labels.tolist() == digits.target.tolist()
    assert pixels.dtype == np.uint8 and pixels.max() == 255
    assert np.abs(pixels / 255 - digits.images / 16).max() < 0.5 / 255 + 1e-9


@pytest.mark.parametrize("side", [16, 60])
def test_patches_tile_the_photographs_and_the_splits_are_strips_of_columns(side):
    source = builtin("patches", side, 0.2, 0.2)
    assert source.classes == ("china", "flower")
    last = -1
    for split in ("train", "val", "test"):
        patches = [(label, image.tobytes()) for image, label, _ in source.splits[split]]
        columns = {}
        for label, photograph in enumerate(load_sample_images().images):
            for top in range(0, 427 - side + 1, side):
                for left in range(0, 640 - side + 1, side):
                    patch = photograph[top : top + side, left : left + side].tobytes()
                    columns.setdefault((label, patch), left // side)
        used = {columns[patch] for patch in patches}
        assert used == set(range(last + 1, max(used) + 1)), (
            "columns of one split are contiguous and follow the last"
        )
        assert len(patches) == len(used) * (427 // side) * 2, (
            "every patch of these columns is there once"
        )
        last = max(used)
    assert last == 640 // side - 1
