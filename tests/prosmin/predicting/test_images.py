"""Files of a folder in order and in batches, with a bound on how many are read ahead."""

import threading

import pytest
import torch

from prosmin.common.errors import UserError
from prosmin.data.picture import Unreadable
from prosmin.predicting import images


def test_images_are_those_in_and_below_the_folder_sorted(photos):
    folder, names = images.find(photos)
    assert folder == photos and names == sorted(names) and len(names) == 31
    assert "more <b>/01.png" in names and "notes.txt" not in names


def test_a_file_stands_for_itself(photos):
    assert images.find(photos / "00.png") == (photos, ["00.png"])


def test_a_folder_without_images_says_what_it_holds(tmp_path):
    (tmp_path / "a.txt").touch()
    with pytest.raises(UserError, match="holds no images, but 1 .txt"):
        images.find(tmp_path)
    with pytest.raises(UserError, match="it does not exist"):
        images.find(tmp_path / "nothing")


def test_batches_keep_the_order_and_list_the_files_that_cannot_be_read(tmp_path):
    names = [str(number) for number in range(23)]

    def read(path):
        if path.name in ("4", "5", "6", "7", "22"):
            raise Unreadable(f"no {path.name}")
        return torch.full((1, 2, 2), int(path.name), dtype=torch.uint8)

    found = list(images.batches(tmp_path, names, read, 4, workers=3))
    assert [name for batch in found for name in batch.names] == names
    assert found[0].images[:, 0, 0, 0].tolist() == [0, 1, 2, 3] and not found[0].faults
    assert found[1].images is None and found[1].faults == {
        place: f"no {place + 4}" for place in range(4)
    }
    assert found[5].images[:, 0, 0, 0].tolist() == [20, 21] and found[5].faults == {2: "no 22"}


def test_few_files_are_read_ahead_and_the_rest_is_not_read_once_nobody_asks(tmp_path):
    names, lock, count = [str(number) for number in range(1000)], threading.Lock(), 0

    def read(path):
        nonlocal count
        with lock:
            count += 1
        return torch.zeros(1, 2, 2, dtype=torch.uint8)

    stream = images.batches(tmp_path, names, read, 10, workers=2)
    for number in range(1, 4):
        next(stream)
        assert count <= (number + images.AHEAD) * 10
    stream.close()
    assert count <= (3 + images.AHEAD) * 10
