"""Images that stay on the disk: any rows of several splits, as if all had been loaded."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from prosmin.common.files import write_json
from prosmin.data import dataset, stored
from prosmin.data.dataset import channel_statistics, load_split
from prosmin.data.stored import Stored
from prosmin.fetching.sources import Images, Source
from prosmin.fetching.writing import write_dataset

COUNTS = {"train": 7, "val": 3, "test": 4}


def picture(value: int, width: int) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (width, 8), value).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(params=["raw", "encoded"])
def folder(tmp_path, request):
    splits, first = {}, 0
    for split, count in COUNTS.items():
        images = [
            picture(10 * (first + row), 8 + (request.param == "encoded") * row)
            for row in range(count)
        ]
        splits[split] = Images(
            np.arange(count) % 3,
            lambda rows, images=images: ((images[row], f"image {row}") for row in rows),
        )
        first += count
    source = Source(("a", "b", "c"), splits)
    manifest = write_dataset(tmp_path, source, seed=0, val_fraction=0, test_fraction=0)
    assert manifest["encoding"] == request.param
    write_json(tmp_path / "manifest.json", manifest)
    return tmp_path


def test_any_rows_of_several_splits_are_those_of_all_images(folder, monkeypatch):
    monkeypatch.setattr(stored, "_PART", 2)
    images = Stored(folder, ["test", "train"], 8, 3)
    splits = [load_split(folder, split, 8, 3) for split in ("test", "train")]
    whole = torch.cat([split.images for split in splits])
    assert len(images) == 11 and images.spans == {"test": range(4), "train": range(4, 11)}
    assert images.load().equal(whole)
    assert images.labels().tolist() == torch.cat([split.labels for split in splits]).tolist()
    for rows in ([0], [10, 2, 7, 3, 2], [5, 6]):
        assert images.images(np.array(rows)).equal(whole[rows])
    batches = list(images.batches(np.arange(11)[::-1], 4))
    assert [len(batch) for batch in batches] == [4, 4, 3]
    assert torch.cat(batches).equal(whole.flip(0))


def test_no_other_image_is_decoded(folder, monkeypatch):
    decoded = []
    kept = dataset.decode
    monkeypatch.setattr(dataset, "decode", lambda *args: (decoded.append(args), kept(*args))[1])
    stored = Stored(folder, ["train", "val"], 8, 1)
    stored.images(np.array([1, 8]))
    if dataset.read_manifest(folder)["encoding"] == "encoded":
        assert {decode_[0] for decode_ in decoded} == {picture(10, 9), picture(80, 9)}
    else:
        assert not decoded


@pytest.mark.parametrize("shape", [(200, 3, 5, 4), (1, 1, 2, 2)])
def test_mean_and_spread_of_the_channels_are_exact(shape):
    rng = np.random.default_rng(0)
    pixels = (rng.random(shape) ** 2 * 255).round().astype(np.uint8)
    mean, deviation = channel_statistics(torch.from_numpy(pixels))
    scaled = pixels / 255
    np.testing.assert_allclose(mean, scaled.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(deviation, scaled.std((0, 2, 3), ddof=1), rtol=1e-12)
