"""Folders are read as splits and classes as their owner means them."""

import io
import os

import pytest
from PIL import Image

from prosmin.common.errors import ConfigError, UserError
from prosmin.data.picture import decode
from prosmin.fetching.folders import folder
from prosmin.fetching.splits import divide
from prosmin.fetching.writing import cautions, write_dataset
from tests.prosmin.fetching import samples
from tests.prosmin.fetching.samples import values
from tests.prosmin.fetching.trees import names, place, tree

# --- splits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        ("Training Testing", ["train", "test"]),
        ("training validation", ["train", "val"]),
        ("Train Valid Test", ["train", "val", "test"]),
        ("TRAIN dev testing", ["train", "val", "test"]),
        ("training_set test_set", ["train", "test"]),
        ("train-images validation.images TestData", ["train", "val", "test"]),
        ("valid", ["val"]),
    ],
)
def test_folders_named_as_splits_in_any_way_are_splits(tmp_path, folders, splits):
    path = tree(tmp_path, " ".join(f"{name}/cat {name}/dog" for name in folders.split()))
    source = folder(path)
    assert source.classes == ("cat", "dog") and list(source.splits) == splits
    assert not source.notes and not source.not_read
    for split, given in zip(splits, folders.split(), strict=True):
        assert all(name.startswith(f"{given}/") for name in names(source)[split])


@pytest.mark.parametrize("folders", ["train val validation", "Train train", "test TEST train"])
def test_two_folders_for_one_split_are_refused(tmp_path, folders):
    path = tree(tmp_path, " ".join(f"{name}/cat" for name in folders.split()))
    with pytest.raises(
        UserError, match=r"are all names of the split '\w+'; say under splits which"
    ):
        folder(path)


def test_a_class_may_be_named_as_a_split_is_which_is_said(tmp_path):
    source = folder(tree(tmp_path, "valid invalid"))
    assert source.classes == ("invalid", "valid") and list(source.splits) == ["train"]
    assert source.notes == (f"class folders in {tmp_path} are named as splits are: valid",)


def test_classes_beside_one_called_train_are_refused_and_can_be_asked_for(tmp_path):
    path = tree(tmp_path, "bus car Train")
    with pytest.raises(
        UserError,
        match=r"bus stands beside the split 'Train' but is no split.*set splits to \{train: \.\}",
    ):
        folder(path)
    assert folder(path, {"train": "."}).classes == ("Train", "bus", "car")


def test_splits_are_read_from_the_folders_that_are_named(tmp_path):
    path = tree(tmp_path, "seg_train/seg_train/sea seg_test/seg_test/sea seg_pred/seg_pred")
    source = folder(path, {"test": "seg_test/seg_test", "train": "seg_train/seg_train"})
    assert source.classes == ("sea",) and list(source.splits) == ["train", "test"]
    assert names(source)["test"] == [f"seg_test/seg_test/sea/{number}.png" for number in range(3)]


SAME_IMAGES = "holds the same images; they must differ"


@pytest.mark.parametrize(
    ("splits", "key", "allowed"),
    [
        (
            {"train": "Trainig"},
            "splits.train",
            r"there is no such folder; .* holds Testing, Training \(did you mean 'Training'",
        ),
        (
            {"train": "Training/cats"},
            "splits.train",
            r"there is no such folder; .*/Training holds cat \(did you mean 'cat'",
        ),
        ({"train": "../in"}, "splits.train", "it must be a folder in"),
        ({"train": "/tmp"}, "splits.train", "it must be a folder in"),
        ({"train": "Training", "test": "Training"}, "splits.test", SAME_IMAGES),
        ({"train": ".", "val": "Testing"}, "splits.val", SAME_IMAGES),
        ({"train": "Training", "test": "link"}, "splits.test", SAME_IMAGES),
    ],
)
def test_a_split_that_cannot_be_is_one_sentence(tmp_path, splits, key, allowed):
    path = tree(tmp_path / "in", "Training/cat Testing/cat")
    if "link" in splits.values():
        (tmp_path / "in/link").symlink_to("Training")
    with pytest.raises(ConfigError, match=allowed) as caught:
        folder(path, splits)
    assert caught.value.key == key


def test_imagenets_val_is_the_test_set_where_that_is_said_and_else_a_caution(tmp_path):
    path = tree(tmp_path, "train/n01 train/n02 val/n01 val/n02", 5)
    alone = folder(path)
    assert [len(images) for images in divide(alone, 0, 0.2, 0.2, {}).values()] == [8, 10, 2]
    (caution,) = cautions(alone, 0.2)
    assert "0.2 of train is held out" in caution and "as for ImageNet" in caution
    (caution,) = cautions(alone, 0)
    assert caution.startswith("there are no test images, which all evaluations need")
    said = folder(path, {"train": "train", "test": "val"})
    assert not cautions(said, 0.2)
    assert list(divide(said, 0, 0.2, 0.2, {})) == ["train", "val", "test"]
    assert names(said)["test"] == [
        f"val/n0{label}/{number}.png" for label in (1, 2) for number in range(5)
    ]


# --- classes --------------------------------------------------------------------------------------


def test_the_innermost_folders_are_classes_where_that_is_asked_for(tmp_path):
    path = tree(
        tmp_path,
        "train/pets/dog train/pets/cat train/cars/van test/pets/cat test/pets/dog test/cars/van",
    )
    assert folder(path).classes == ("cars", "pets")
    source = folder(path, classes="leaf")
    assert source.classes == ("cat", "dog", "van") and not source.notes
    for split in ("train", "test"):
        labels = source.splits[split].labels.tolist()
        assert [source.classes[label] for label in labels] == [
            name.split("/")[2] for name in names(source)[split]
        ]


def test_innermost_folders_of_one_name_stay_apart(tmp_path):
    source = folder(tree(tmp_path, "bottle/good cable/good cable/bent"), classes="leaf")
    assert source.classes == ("bent", "bottle/good", "cable/good")
    assert source.splits["train"].labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3


def test_images_above_the_innermost_folders_are_refused_with_leaf(tmp_path):
    with pytest.raises(
        UserError, match=r"pets holds both images and folders of images \(cat\); with classes: leaf"
    ):
        folder(tree(tmp_path, "pets pets/cat cars"), classes="leaf")


# --- names and links ------------------------------------------------------------------------------


def test_names_that_are_not_utf8_are_kept_with_escapes(tmp_path):
    root = os.fsencode(tmp_path / "in")
    content = io.BytesIO()
    Image.new("L", (8, 8)).save(content, "PNG")
    for where in (b"caf\xe9", b"dog"):
        os.makedirs(root + b"/" + where)
        for name in (b"\xff.png", b"plain.png", b"new\nline.png"):
            with open(b"/".join([root, where, name]), "wb") as file:
                file.write(content.getvalue())
    source = folder(os.fsdecode(root))
    assert source.classes == ("caf\\xe9", "dog")
    assert names(source)["train"][:3] == [
        f"caf\\xe9/{name}.png" for name in ("new\\x0aline", "plain", "\\xff")
    ]
    (tmp_path / "out").mkdir()
    manifest = write_dataset(tmp_path / "out", source, seed=0)
    assert sum(split["count"] for split in manifest["splits"].values()) == 6
    assert str(manifest).encode()  # nothing in it that UTF-8 has no bytes for


def test_two_classes_of_one_printable_name_are_refused(tmp_path):
    place(tmp_path, *(f"a\\xe9/{number}.png" for number in range(4)))
    place(tmp_path, *(os.fsdecode(b"a\xe9") + f"/{number}.png" for number in range(4)))
    with pytest.raises(UserError, match="2 classes are named 'a"):
        write_dataset(tmp_path, folder(str(tmp_path)), seed=0)


def test_links_are_followed_also_out_of_the_folder_and_never_round_and_round(tmp_path):
    tree(tmp_path / "elsewhere", "dog")
    path = tree(tmp_path / "in", "cat")
    (tmp_path / "in/dog").symlink_to(tmp_path / "elsewhere/dog")
    (tmp_path / "in/cat/self.png").symlink_to("self.png")
    (tmp_path / "in/cat/up").symlink_to("..")
    source = folder(path)
    assert source.classes == ("cat", "dog")
    images = {name: image for image, _, name in source.splits["train"]}
    assert decode(images["dog/0.png"]).shape == (8, 8, 1)
    assert "cat/self.png" in images and len(images) == 7  # cat/up leads to a folder above it


# --- whole trees ----------------------------------------------------------------------------------


def test_class_folders_are_read_in_sorted_order_with_relative_names(tmp_path):
    samples.place(tmp_path, "dog/2.png", "dog/10.PNG", "cat/deep/er/1.jpeg", "cat/0.png")
    source = folder(str(tmp_path))
    assert source.classes == ("cat", "dog")
    images = [
        (name, label, int(decode(image).flat[0])) for image, label, name in source.splits["train"]
    ]
    assert images == [
        ("cat/0.png", 0, 3),
        ("cat/deep/er/1.jpeg", 0, 2),
        ("dog/10.PNG", 1, 1),
        ("dog/2.png", 1, 0),
    ]


def test_split_folders_are_taken_as_they_are(tmp_path):
    samples.place(
        tmp_path,
        "train/a/0.png",
        "train/b/1.png",
        "val/b/2.png",
        "val/a/3.png",
        "test/a/4.png",
        "test/b/5.png",
    )
    splits = divide(folder(str(tmp_path)), 0, 0.2, 0.2, {})
    assert {split: values(images) for split, images in splits.items()} == {
        "train": [0, 1],
        "val": [3, 2],
        "test": [4, 5],
    }


@pytest.mark.parametrize("where", ["", "train/"])
def test_loose_images_are_unlabelled(tmp_path, where):
    samples.place(tmp_path, f"{where}b.png", f"{where}a.png", f"{where}notes.txt")
    source = folder(str(tmp_path))
    assert source.classes is None
    assert source.splits["train"].labels.tolist() == [-1, -1]
    assert values(source.splits["train"]) == [1, 0]


def test_hidden_files_other_files_and_loops_of_links_are_passed_over(tmp_path):
    samples.place(
        tmp_path, "a/0.png", "a/.1.png", "a/2.txt", "a/.hidden/3.png", ".git/4.png", "b/5.png"
    )
    (tmp_path / "a" / "loop").symlink_to(tmp_path / "a", target_is_directory=True)
    (tmp_path / "b" / "up").symlink_to(tmp_path / "a", target_is_directory=True)
    source = folder(str(tmp_path))
    assert source.classes == ("a", "b")
    assert [name for _, _, name in source.splits["train"]] == ["a/0.png", "b/5.png", "b/up/0.png"]
