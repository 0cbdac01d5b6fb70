"""Shards: the same rows as in one file, and what a killed run leaves to the next one."""

import io

import numpy as np
import pytest
from PIL import Image

from prosmin.common.errors import UserError
from prosmin.common.files import write_json
from prosmin.data import shards, storing
from prosmin.data.arrow import SplitReader
from prosmin.data.dataset import load_split, read_manifest
from prosmin.fetching import writing
from prosmin.fetching.sources import Images, Source
from prosmin.fetching.writing import write_dataset

COUNT = 300


def content(value: int) -> bytes:
    pixels = np.random.default_rng(value).integers(0, 256, (8, 66 + value % 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def source(first: int = 0) -> Source:
    def read(rows):
        for row in rows.tolist():
            damaged = row == 70 and first == 0
            yield b"no image" if damaged else content(first + row), f"image {row}"

    return Source(("a", "b", "c"), {"train": Images(np.arange(COUNT) % 3, read)})


def write(folder, images=None, **options):
    folder.mkdir(parents=True)
    chosen = {"seed": 0, "val_fraction": 0.0, "test_fraction": 0.1, "workers": 2} | options
    manifest = write_dataset(folder, images or source(), **chosen)
    write_json(folder / "manifest.json", manifest)
    return manifest


@pytest.fixture
def small_shards(monkeypatch):
    """Shards of about 100 images."""
    monkeypatch.setattr(shards, "SHARD_BYTES", shards._BATCHES + 70_000)


def content_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_shards_hold_the_rows_of_one_file(tmp_path, monkeypatch):
    whole = write(tmp_path / "whole")
    monkeypatch.setattr(shards, "SHARD_BYTES", shards._BATCHES + 70_000)
    parts = write(tmp_path / "parts")
    files = [shard["file"] for shard in parts["splits"]["train"]["shards"]]
    count = len(files)
    assert count > 2 and files == [f"train-{at:05d}-of-{count:05d}.arrow" for at in range(count)]
    assert {path.name for path in (tmp_path / "parts").iterdir()} == {
        *files,
        "test.arrow",
        "manifest.json",
    }
    facts = parts["splits"]["train"]
    assert sum(shard["count"] for shard in facts["shards"]) == facts["count"]
    for name, expected in whole.items():
        if name != "splits":
            assert parts[name] == expected
    assert len(whole["quarantined"]) == 1
    for name in ("count", "per_class"):
        assert facts[name] == whole["splits"]["train"][name]
    readers = [SplitReader(tmp_path / name / "train.arrow") for name in ("whole", "parts")]
    assert readers[0].table.equals(readers[1].table)
    rows = np.array([0, 5, 120, 200])
    loaded = [load_split(tmp_path / name, "train", 8, 1, rows) for name in ("whole", "parts")]
    assert loaded[0].images.equal(loaded[1].images)
    (tmp_path / "parts" / files[-1]).unlink()
    with pytest.raises(UserError, match="shards of train, the last .* are missing, so fetch it"):
        load_split(tmp_path / "parts", "train", 8, 1)


def test_a_variant_of_a_set_in_shards_is_in_shards(tmp_path, small_shards):
    manifest = write(tmp_path / "inverted", transform="invert")
    files = [shard["file"] for shard in manifest["splits"]["train"]["shards"]]
    there = {path.name for path in (tmp_path / "inverted").glob("train*")}
    assert len(files) > 2 and there == set(files)
    assert load_split(tmp_path / "inverted", "train", 8, 1).labels.unique().tolist() == [-1]


@pytest.mark.parametrize("stop", [40, 150, 290])
def test_a_killed_run_goes_on_behind_its_finished_shards(tmp_path, monkeypatch, small_shards, stop):
    expected = write(tmp_path / "expected")
    monkeypatch.setattr(writing, "LARGE", 1)
    decoded = []
    kept = storing.to_row

    def killed(image, *args):
        decoded.append(image)
        if len(decoded) == stop:
            raise KeyboardInterrupt
        return kept(image, *args)

    monkeypatch.setattr(storing, "to_row", killed)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "killed", keep=tmp_path / "keep")
    finished = list((tmp_path / "keep").glob("*.shard"))
    decoded.clear()
    stop = 0
    manifest = write(tmp_path / "again", keep=tmp_path / "keep")
    assert manifest == expected
    assert content_of(tmp_path / "again") == content_of(tmp_path / "expected")
    assert bool(finished) == (len(decoded) < COUNT) and not (tmp_path / "keep").exists()


@pytest.mark.parametrize("change", ["images", "short_side", "shard"])
def test_shards_of_other_images_or_damaged_ones_are_not_used(
    tmp_path, monkeypatch, small_shards, change
):
    monkeypatch.setattr(writing, "LARGE", 1)
    monkeypatch.setattr(writing, "_check_written", lambda *_: (_ for _ in ()).throw(OSError))
    with pytest.raises(OSError):
        write(tmp_path / "killed", keep=tmp_path / "keep")
    monkeypatch.undo()
    monkeypatch.setattr(shards, "SHARD_BYTES", shards._BATCHES + 70_000)
    images = source(1000 * (change == "images"))
    options = {"short_side": 96} if change == "short_side" else {}
    expected = write(tmp_path / "expected", images, **options)
    monkeypatch.setattr(writing, "LARGE", 1)
    if change == "shard":
        first = tmp_path / "keep/train-00000.shard"
        first.write_bytes(first.read_bytes()[:-8])
    assert write(tmp_path / "again", images, keep=tmp_path / "keep", **options) == expected
    assert content_of(tmp_path / "again") == content_of(tmp_path / "expected")
    assert read_manifest(tmp_path / "again")["splits"]["train"]["count"] > 200
