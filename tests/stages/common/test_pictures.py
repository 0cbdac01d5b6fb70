"""Pictures of one size, and splits in one file or several, read as they were fetched."""

import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from prosmin.common.errors import UserError
from prosmin.data.arrow import Layout, SplitWriter, shard_name
from stages.common import pictures


def test_a_large_picture_is_made_smaller():
    photograph = load_sample_images().images[0]
    assert pictures.one_size([photograph, photograph]).shape == (2, 3, 224, 224)
    assert pictures.one_size([photograph[:100, :150]]).shape == (1, 3, 100, 150)
    assert pictures.one_size([photograph[:100, :150, :1], photograph[:80, :150, :1]]).shape == (
        2,
        1,
        80,
        80,
    )


@pytest.mark.parametrize("shards", [1, 2])
def test_rows_of_a_split_are_read_from_one_file_or_several(tmp_path, monkeypatch, shards):
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 1), np.uint8)
    (tmp_path / "data/own").mkdir(parents=True)
    for place, part in enumerate(np.split(images, shards)):
        path = tmp_path / "data/own" / shard_name("test", place, shards)
        with SplitWriter(path, Layout("raw", 1, 4, 5)) as writer:
            for image in part:
                writer.add(image.tobytes(), 0, "made")
    read = pictures.read(pictures.open_stored("own", "test"), [4, 1])
    np.testing.assert_array_equal(read, images[[4, 1]])
    with pytest.raises(UserError, match="data/own/train.arrow does not exist.*stages.fetch own"):
        pictures.open_stored("own", "train")
