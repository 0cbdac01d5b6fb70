"""One sentence names what looks like a mistake in folders."""

import re

import pytest

from prosmin.common.errors import UserError
from prosmin.fetching.folders import folder
from prosmin.fetching.slips import split_named
from tests.prosmin.fetching.trees import place, tree


@pytest.mark.parametrize("name", ["trained", "cat", "contest", "valid2", "test of time", "", "set"])
def test_other_names_are_no_splits(name):
    assert split_named(name) is None


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (
            "chest/train/a chest/test/a chest/val/a",
            r"holds but one folder, chest, in which the splits are \(test, train, val\); "
            "set path to .*/chest$",
        ),
        (
            "cat/train cat/test dog/train dog/test",
            r"hold the splits \(test, train\), which must stand above the classes: "
            "move cat/test to test/cat",
        ),
        (
            "fold1/cat fold1/dog fold2/cat fold2/dog",
            r"all folders in .* \(fold1, fold2\) hold the same folders \(cat, dog\), as splits "
            r"do.* \{train: fold1, test: fold2\}",
        ),
        (
            "my_test/cat my_test/dog my_train/cat my_train/dog my_val/cat my_val/dog",
            r"such as splits: \{train: my_train, test: my_test\}",
        ),
    ],
)
def test_splits_that_are_surely_taken_for_classes_are_refused(tmp_path, folders, message):
    path = tree(tmp_path, folders)
    with pytest.raises(UserError, match=message):
        folder(path)
    assert folder(path, {"train": "."}).notes  # a user who insists gets a caution


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (
            "data/cat data/dog",
            r"there is only one class, .*/data, which holds the folders cat, dog: "
            r"is it one level too high\?",
        ),
        ("cat", "there is only one class, .*/cat$"),
        (
            "pets/cat pets/dog cars/van cars/bus",
            r"hold folders of images instead of images \(cars: bus, van; pets: cat, dog\); "
            "with classes: leaf",
        ),
        ("bird pets/cat pets/dog", r"\(pets: cat, dog\); with classes: leaf"),
        ("cat/train cat/other dog", r"class folder .*/cat holds folders named as splits \(train\)"),
        (
            "seg_train/seg_train/cat seg_test/seg_test/cat seg_pred/seg_pred",
            "are named as splits are: seg_test, seg_train$",
        ),
        ("train2017 val2017 test2017", "named as splits are: test2017, train2017, val2017$"),
        ("trainA trainB testA testB", "named as splits are: testA, testB, trainA, … "),
        ("JPEGs Images Masks", "are named for kinds of files: Images, Masks$"),
        (
            "train/a train/b test/a test/b train/a/val",
            r"class folder .*/a holds folders named as splits \(val\)",
        ),
    ],
)
def test_what_looks_like_a_slip_is_said(tmp_path, folders, message):
    (note,) = folder(tree(tmp_path, folders)).notes
    assert re.search(message, note), note


def test_a_class_of_one_image_is_said(tmp_path):
    tree(tmp_path, "train/cat train/dog test/cat test/dog test/owl")
    place(tmp_path, "train/owl/0.png")
    assert folder(str(tmp_path)).notes == ("classes with but one image in train: owl",)


def test_words_of_one_split_may_be_part_of_names_of_classes(tmp_path):
    source = folder(tree(tmp_path, "test_tube crash_test_dummy Testarossa strainer"))
    assert len(source.classes) == 4 and not source.notes


@pytest.mark.parametrize(
    "folders", ["cat/images dog/images", "cat dog", "cat/a cat dog/a dog/b dog"]
)
def test_usual_layouts_are_no_slip(tmp_path, folders):
    source = folder(tree(tmp_path, folders))
    assert source.classes == ("cat", "dog") and not source.notes
