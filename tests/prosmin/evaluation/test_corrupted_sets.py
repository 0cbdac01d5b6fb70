"""Corrupted test splits from ImageNet-C folders and CIFAR-10-C arrays of real photographs."""

import io
import pickle
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from prosmin import corruptions
from prosmin.common.errors import UserError
from prosmin.corruptions.apply import corrupt
from prosmin.data.cut import convert
from prosmin.data.dataset import Split
from prosmin.evaluation import corrupted_sets

TYPES, SEVERITIES = ("fog", "contrast"), (1, 5)
CLASSES = ("n01440764", "n01443537", "n01484850")


def photographs(size):
    """uint8 [6,3,size,size], three of each photograph."""
    tiles = [
        image[:size, left : left + size]
        for image in load_sample_images().images
        for left in (0, 200, 400)
    ]
    return torch.from_numpy(np.stack(tiles).transpose(0, 3, 1, 2).copy())


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Classes 0 and 2 only, three images each."""
    root = tmp_path_factory.mktemp("imagenet-c")
    for name in TYPES:
        for severity in SEVERITIES:
            images = corrupt(photographs(80), name, severity, 0)
            for place, image in enumerate(images):
                file = (
                    root
                    / name
                    / str(severity)
                    / CLASSES[place // 3 * 2]
                    / f"ILSVRC2012_val_{place:08}.JPEG"
                )
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, quality=85)
    return root


@pytest.fixture
def spoilt(folders, tmp_path):
    return shutil.copytree(folders, tmp_path / "imagenet-c")


def open_folders(root, types=TYPES, severities=SEVERITIES, size=80, channels=3):
    return corrupted_sets.Folders(root, types, severities, CLASSES, size, channels)


@pytest.fixture
def arrays(tmp_path):
    images = photographs(32)
    for name in TYPES:
        cells = [corrupt(images, name, severity, 0) for severity in corruptions.SEVERITIES]
        np.save(tmp_path / f"{name}.npy", torch.cat(cells).permute(0, 2, 3, 1).numpy())
    np.save(tmp_path / "labels.npy", np.tile(np.array([0, 1, 2, 0, 1, 2], np.uint8), 5))
    return tmp_path


def whole(cells, name, severity):
    return torch.cat([part() for part in cells.parts(name, severity)])


# --- generated ------------------------------------------------------------------------------------


def test_generated_parts_are_the_whole_set_corrupted(monkeypatch):
    monkeypatch.setattr(corrupted_sets, "_PART", 200)
    images = photographs(48).repeat(50, 1, 1, 1)  # 300, of blocks of 113 two of which are a part
    cells = corrupted_sets.Generated(Split(images, torch.arange(300) % 3, CLASSES), seed=5)
    parts = [part()(torch.device("cpu")) for part in cells.parts("snow", 2)]
    assert [len(part) for part in parts] == [226, 74]
    assert torch.cat(parts).equal(corrupt(images, "snow", 2, 5))
    assert cells.labels.tolist() == [0, 1, 2] * 100


# --- folders --------------------------------------------------------------------------------------


def test_folders_are_read_as_the_files_are(folders, monkeypatch):
    monkeypatch.setattr(corrupted_sets, "_PART", 4)
    cells = open_folders(folders)
    assert cells.labels.tolist() == [0, 0, 0, 2, 2, 2]
    assert [len(part()) for part in cells.parts("fog", 5)] == [4, 2]
    expected = [
        np.asarray(Image.open(file)) for file in sorted((folders / "fog/5").rglob("*.JPEG"))
    ]
    assert (
        whole(cells, "fog", 5).permute(0, 2, 3, 1).numpy().tolist() == np.stack(expected).tolist()
    )


def test_folders_are_resized_and_made_grey_as_datasets_are(folders):
    resized, plain = open_folders(folders, size=40, channels=1), open_folders(folders)
    assert whole(resized, "contrast", 1).equal(convert(whole(plain, "contrast", 1), 40, 1))


def test_labels_follow_the_order_of_the_classes(folders):
    cells = corrupted_sets.Folders(folders, TYPES, SEVERITIES, CLASSES[::-1], 80, 3)
    assert cells.labels.tolist() == [0, 0, 0, 2, 2, 2]
    assert whole(cells, "fog", 1)[:3].equal(whole(open_folders(folders), "fog", 1)[3:])


def remove_type(root):
    shutil.rmtree(root / "fog")


def remove_severity(root):
    shutil.rmtree(root / "contrast/5")


def remove_image(root):
    next(iter(sorted((root / "contrast/1").rglob("*.JPEG")))).unlink()


def rename_class(root):
    (root / f"fog/5/{CLASSES[0]}").rename(root / "fog/5/n01440765")


def rename_image(root):
    file = sorted((root / "fog/5").rglob("*.JPEG"))[0]
    file.rename(file.with_name("other.JPEG"))


def empty(root):
    for cell in root.glob("*/*"):
        shutil.rmtree(cell)
        cell.mkdir()


FIRST = "n01440764/ILSVRC2012_val_00000000.JPEG"


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (remove_type, "types is 'fog'; ROOT has only contrast; name no other types"),
        (remove_severity, "ROOT/contrast/5 is missing; ROOT/contrast holds 1"),
        (
            remove_image,
            f"ROOT/contrast/1 holds 5 images and ROOT/fog/1 6, which must be the same: {FIRST} "
            "is not in ROOT/contrast/1",
        ),
        (
            rename_class,
            "ROOT/fog/5/n01440765 is no class of the dataset, which has 3, such as 'n01440764' "
            "(did you mean 'n01440764'?)",
        ),
        (
            rename_image,
            f"ROOT/fog/5 holds 6 images and ROOT/fog/1 6, which must be the same: {FIRST} "
            "is not in ROOT/fog/5",
        ),
        (empty, "ROOT/fog/1 holds no images"),
        (shutil.rmtree, "path is 'ROOT'; there is no such folder"),
    ],
)
def test_incomplete_folders_are_one_clear_error(spoilt, spoil, says):
    spoil(spoilt)
    with pytest.raises(UserError, match=f"^{re.escape(says.replace('ROOT', str(spoilt)))}$"):
        open_folders(spoilt)


def test_a_broken_image_is_named(spoilt):
    file = sorted((spoilt / "fog/5").rglob("*.JPEG"))[1]
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(UserError, match=f"{file} cannot be read: "):
        whole(open_folders(spoilt), "fog", 5)


# --- arrays ---------------------------------------------------------------------------------------


def test_arrays_are_read_by_severity(arrays):
    cells = corrupted_sets.Arrays(arrays, TYPES, 3, 32, 3)
    assert cells.labels.tolist() == [0, 1, 2, 0, 1, 2]
    for severity in corruptions.SEVERITIES:
        assert whole(cells, "fog", severity).equal(corrupt(photographs(32), "fog", severity, 0))
    small = corrupted_sets.Arrays(arrays, TYPES, 3, 16, 1)
    assert whole(small, "fog", 2).equal(convert(whole(cells, "fog", 2), 16, 1))


def header() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros((30, 32, 32, 3), np.uint8))
    return file.getvalue()


HEADER = header()
FOG = "ROOT/fog.npy"
WHOLE = "needed: whole numbers [5 N]"
IMAGES = "needed: uint8 [30, H, W, 3], as many images as labels.npy has labels"
UNREADABLE = "ROOT/fog.npy is no array that can be read: "


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("labels", None, "ROOT/labels.npy does not exist"),
        ("labels", np.zeros(29, np.uint8), f"ROOT/labels.npy is uint8 [29]; {WHOLE}"),
        ("labels", np.zeros(30), f"ROOT/labels.npy is float64 [30]; {WHOLE}"),
        (
            "labels",
            np.full(30, 3),
            "ROOT/labels.npy holds label 3; the dataset has 3 classes, from 0",
        ),
        (
            "labels",
            np.arange(30) % 3 * (np.arange(30) < 29),
            "ROOT/labels.npy differs between severities; its five parts must be equal",
        ),
        ("fog", np.zeros((29, 32, 32, 3), np.uint8), f"{FOG} is uint8 [29, 32, 32, 3]; {IMAGES}"),
        ("fog", np.zeros((30, 32, 32, 3)), f"{FOG} is float64 [30, 32, 32, 3]; {IMAGES}"),
        ("fog", b"no array", UNREADABLE),
        ("fog", HEADER.replace(b"(30,", b"(30 "), UNREADABLE),
        ("fog", HEADER.replace(b"'shape'", b"'shape "), UNREADABLE),
        ("fog", HEADER.replace(b"(30, 32,", b"(9e9999,"), UNREADABLE),
        ("fog", HEADER.replace(b"(30, 32", b"(" + b"9" * 6), UNREADABLE),
        ("fog", HEADER[:40], UNREADABLE),
        ("fog", None, "types is 'fog'; ROOT has only contrast; name no other types"),
    ],
)
def test_arrays_that_do_not_fit_are_one_clear_error(arrays, file, content, says):
    path = arrays / f"{file}.npy"
    path.unlink()
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
    with pytest.raises(UserError, match=f"^{re.escape(says.replace('ROOT', str(arrays)))}"):
        corrupted_sets.Arrays(arrays, TYPES, 3, 32, 3)


def test_nothing_is_unpickled(arrays):
    with open(arrays / "fog.npy", "wb") as file:
        pickle.dump(np.zeros(3), file)
    with pytest.raises(UserError, match=r"fog.npy is no array that can be read"):
        corrupted_sets.Arrays(arrays, TYPES, 3, 32, 3)
    np.save(arrays / "fog.npy", np.array([{}] * 30, dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"fog.npy is no array that can be read"):
        corrupted_sets.Arrays(arrays, TYPES, 3, 32, 3)


# --- against the clean images ---------------------------------------------------------------------


def test_arrays_must_hold_the_images_in_the_order_of_the_test_split(arrays):
    """Classes of equal size, in another order: the counts agree, the images do not."""
    cells, images = corrupted_sets.Arrays(arrays, TYPES, 3, 32, 3), photographs(32)
    corrupted_sets.check_labels(
        cells, Split(images, torch.tensor([0, 1, 2, 0, 1, 2]), CLASSES), "birds"
    )
    says = (
        "corrupted image 1 is of class 'n01443537', "
        "but that of the test split of 'birds' of class 'n01440764', as for 4 of 6"
    )
    with pytest.raises(UserError, match=says):
        corrupted_sets.check_labels(
            cells, Split(images, torch.tensor([0, 0, 1, 1, 2, 2]), CLASSES), "birds"
        )


def test_the_clean_and_the_corrupted_images_must_be_as_many_of_each_class(folders):
    cells = open_folders(folders)
    images = photographs(80)
    corrupted_sets.check_labels(
        cells, Split(images, torch.tensor([2, 2, 2, 0, 0, 0]), CLASSES), "birds"
    )
    with pytest.raises(
        UserError,
        match="0 corrupted images are of class 'n01443537', but 1 of the test split of 'birds'; "
        "the clean and the corrup",
    ):
        corrupted_sets.check_labels(
            cells, Split(images, torch.tensor([2, 2, 1, 0, 0, 0]), CLASSES), "birds"
        )
