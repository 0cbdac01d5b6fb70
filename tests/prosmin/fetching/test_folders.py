"""Folders are split and classed as their owner means them, or one sentence says why they are not."""

import io
import os
import re
from pathlib import Path

import pytest
from PIL import Image

from prosmin.common.errors import ConfigError, UserError
from prosmin.data.picture import decode
from prosmin.fetching.folders import folder
from prosmin.fetching.listing import printable
from prosmin.fetching.slips import split_named
from prosmin.fetching.writing import cautions, divide, write_dataset


def place(root: Path, *files: str) -> str:
    """PNG files whose grey value is their position in the list; of other endings, text."""
    for value, name in enumerate(files):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".png"):
            Image.new("L", (8, 8), value).save(root / name)
        else:
            (root / name).write_text("no image")
    return str(root)


def tree(root: Path, folders: str, count: int = 3) -> str:
    """``count`` images in each of these folders, named with blanks between them."""
    return place(
        root, *(f"{name}/{number}.png" for name in folders.split() for number in range(count))
    )


def names(source) -> dict[str, list[str]]:
    return {split: [name for _, _, name in images] for split, images in source.splits.items()}


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
    path = tree(tmp_path, " ".join(f"{each}/cat {each}/dog" for each in folders.split()))
    source = folder(path)
    assert source.classes == ("cat", "dog") and list(source.splits) == splits
    assert not source.notes and not source.not_read
    for split, given in zip(splits, folders.split(), strict=True):
        assert all(name.startswith(f"{given}/") for name in names(source)[split])


@pytest.mark.parametrize("name", ["trained", "cat", "contest", "valid2", "test of time", "", "set"])
def test_other_names_are_no_splits(name):
    assert split_named(name) is None


@pytest.mark.parametrize("folders", ["train val validation", "Train train", "test TEST train"])
def test_two_folders_for_one_split_are_refused(tmp_path, folders):
    path = tree(tmp_path, " ".join(f"{each}/cat" for each in folders.split()))
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


@pytest.mark.parametrize(
    ("splits", "key", "allowed"),
    [
        ({"train": "Trainig"}, "splits.train", r"there is no such folder; .* holds Testing, Training \(did you mean 'Training'"),
        ({"train": "Training/cats"}, "splits.train", r"there is no such folder; .*/Training holds cat \(did you mean 'cat'"),
        ({"train": "../in"}, "splits.train", "it must be a folder in"),
        ({"train": "/tmp"}, "splits.train", "it must be a folder in"),
        ({"train": "Training", "test": "Training"}, "splits.test", "holds the same images; they must differ"),
        ({"train": ".", "val": "Testing"}, "splits.val", "holds the same images; they must differ"),
        ({"train": "Training", "test": "link"}, "splits.test", "holds the same images; they must differ"),
    ],
)  # fmt: skip
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
    assert [len(each) for each in divide(alone, 0, 0.2, 0.2, {}).values()] == [8, 10, 2]
    (caution,) = cautions(alone, 0.2)
    assert "0.2 of train is held out" in caution and "as for ImageNet" in caution
    assert not cautions(alone, 0)
    said = folder(path, {"train": "train", "test": "val"})
    assert not cautions(said, 0.2)
    assert list(divide(said, 0, 0.2, 0.2, {})) == ["train", "val", "test"]
    assert names(said)["test"] == [
        f"val/n0{each}/{number}.png" for each in (1, 2) for number in range(5)
    ]


# --- what systems leave ---------------------------------------------------------------------------


def test_what_systems_leave_behind_is_no_class_and_no_image(tmp_path):
    path = tree(
        tmp_path, "cat dog __MACOSX @eaDir .git lost+found $RECYCLE.BIN cat/@eaDir cat/.thumbs"
    )
    place(
        tmp_path,
        ".DS_Store",
        "Thumbs.db",
        "cat/.DS_Store",
        "cat/._0.png",
        "dog/Thumbs.db",
        "dog/desktop.ini",
    )
    source = folder(path)
    assert source.classes == ("cat", "dog") and not source.not_read and not source.notes
    assert names(source)["train"] == [
        f"{each}/{number}.png" for each in ("cat", "dog") for number in range(3)
    ]


def test_systems_folders_beside_splits_are_none(tmp_path):
    source = folder(tree(tmp_path, "train/cat test/cat __MACOSX/train/cat"))
    assert list(source.splits) == ["train", "test"]


def test_files_that_are_not_read_are_listed_and_counted(tmp_path):
    path = tree(tmp_path / "in", "train/cat train/dog", 10)
    place(
        tmp_path / "in",
        "train/cat/x.heic",
        "train/dog/deep/y.HEIC",
        "labels.csv",
        "train/readme",
        "train/cat/b.png~",
    )
    source = folder(path)
    assert source.not_read == (
        "labels.csv", "train/cat/b.png~", "train/cat/x.heic", "train/dog/deep/y.HEIC", "train/readme",
    )  # fmt: skip
    (tmp_path / "out").mkdir()
    manifest = write_dataset(tmp_path / "out", source, seed=0)
    assert manifest["not_read"] == {
        "endings": {".heic": 2, "": 1, ".csv": 1, ".png~": 1},
        "examples": list(source.not_read),
    }


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


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ("chest/train/a chest/test/a chest/val/a", r"holds but one folder, chest, in which the splits are \(test, train, val\); set path to .*/chest$"),
        ("cat/train cat/test dog/train dog/test", r"hold the splits \(test, train\), which must stand above the classes: move cat/test to test/cat"),
        ("fold1/cat fold1/dog fold2/cat fold2/dog", r"all folders in .* \(fold1, fold2\) hold the same folders \(cat, dog\), as splits do.* \{train: fold1, test: fold2\}"),
    ],
)  # fmt: skip
def test_splits_that_are_surely_taken_for_classes_are_refused(tmp_path, folders, message):
    path = tree(tmp_path, folders)
    with pytest.raises(UserError, match=message):
        folder(path)
    assert folder(path, {"train": "."}).notes  # who insists is reminded


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ("data/cat data/dog", r"there is only one class, .*/data, which holds the folders cat, dog: is it one level too high\?"),
        ("cat", "there is only one class, .*/cat$"),
        ("pets/cat pets/dog cars/van cars/bus", r"hold folders of images instead of images \(cars: bus, van; pets: cat, dog\); with classes: leaf"),
        ("bird pets/cat pets/dog", r"\(pets: cat, dog\); with classes: leaf"),
        ("cat/train cat/other dog", r"class folder .*/cat holds folders named as splits \(train\)"),
        ("train/a train/b test/a test/b train/a/val", r"class folder .*/a holds folders named as splits \(val\)"),
    ],
)  # fmt: skip
def test_what_looks_like_a_slip_is_said(tmp_path, folders, message):
    (note,) = folder(tree(tmp_path, folders)).notes
    assert re.search(message, note), note


def test_a_class_of_one_image_is_said(tmp_path):
    tree(tmp_path, "train/cat train/dog test/cat test/dog test/owl")
    place(tmp_path, "train/owl/0.png")
    assert folder(str(tmp_path)).notes == ("classes with but one image in train: owl",)


@pytest.mark.parametrize(
    "folders", ["cat/images dog/images", "cat dog", "cat/a cat dog/a dog/b dog"]
)
def test_usual_layouts_are_no_slip(tmp_path, folders):
    source = folder(tree(tmp_path, folders))
    assert source.classes == ("cat", "dog") and not source.notes


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
    assert sum(each["count"] for each in manifest["splits"].values()) == 6
    assert str(manifest).encode()  # nothing in it that UTF-8 has no bytes for


@pytest.mark.parametrize("name", ["plain", "Ä ö", "猫", "a b", "🐈"])
def test_names_that_can_be_printed_stay_as_they_are(name):
    assert printable(name) == name


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
    found = {name: image for image, _, name in source.splits["train"]}
    assert decode(found["dog/0.png"]).shape == (8, 8, 1)
    assert "cat/self.png" in found and len(found) == 7  # cat/up leads to where one came from
