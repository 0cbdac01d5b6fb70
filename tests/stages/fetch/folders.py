"""Malformed folders of images."""

from pathlib import Path

from tests.stages.fetch.made import FOLDER, GOOD, classes, images, picture
from tests.stages.fetch.malformed import malformed


@malformed(FOLDER, "params.yaml: fetch.mine.path is 'in'; there is no such folder")
def missing_folder(): ...


@malformed(FOLDER, "in holds no images; known endings: .apng, ")
def folder_without_images():
    images("in/notes.txt", "in/sub/more.txt")


@malformed(FOLDER, "class folder in/bird holds no images; remove it or fill it")
def empty_class_folder():
    classes()
    Path("in/bird").mkdir()


@malformed(FOLDER, "; not read: 2 .heic, 1 .txt")
def class_folder_of_files_that_are_not_read():
    classes()
    images("in/bird/0.heic", "in/bird/deep/1.HEIC", "in/bird/notes.txt")


@malformed(FOLDER, "in holds both images (0.png) and class folders (cat); move the images into one")
def images_beside_class_folders():
    classes()
    images("in/0.png")


@malformed(
    FOLDER, "in/extra stands beside the split 'train' but is no split; allowed: train, val, test"
)
def misnamed_split_folder():
    classes(root="in/train")
    classes(root="in/extra")


@malformed(FOLDER, "Val, validation in in are all names of the split 'val'; say under splits which")
def two_folders_for_one_split():
    for name in ("train", "Val", "validation"):
        classes(root=f"in/{name}")


@malformed(FOLDER, "in holds but one folder, pets, in which the splits are (Testing, Training)")
def path_that_is_one_level_too_high():
    classes(root="in/pets/Training")
    classes(root="in/pets/Testing")


@malformed(
    {**FOLDER, "splits": {"test": "tests"}},
    "fetch.mine.splits.test is 'tests'; there is no such folder; in holds test, "
    "train (did you mean",
)
def split_folder_that_is_not_there():
    classes(root="in/train")
    classes(root="in/test")


@malformed({**FOLDER, "splits": {"tset": "test"}}, "fetch.mine.splits.tset is not a known key (did")
def unknown_split():
    classes()


@malformed({**FOLDER, "classes": "leaves"}, "fetch.mine.classes is 'leaves'; allowed: top, leaf")
def unknown_classes():
    classes()


@malformed(
    FOLDER, "class folder 'dogs' stands in in/test but not in in/train (did you mean 'dog'?)"
)
def classes_that_differ_between_splits():
    classes(root="in/train")
    images("in/test/cat/0.png", "in/test/dogs/1.png")


@malformed(
    FOLDER, "in/train has class folders, but in/test has none; give all splits labels, or none"
)
def labelled_and_unlabelled_splits():
    classes(root="in/train")
    images("in/test/0.png")


@malformed(
    FOLDER,
    "1 of 12 images cannot be read, more than max_unreadable (0.01) allows; the "
    "first is dog/3.png (image",
)
def truncated_image():
    classes()
    content = picture(3, size=40)
    Path("in/dog/3.png").write_bytes(content[: len(content) - 30])


@malformed(
    {**FOLDER, "max_unreadable": 0.2},
    "3 of 12 images cannot be read, more than max_unreadable (0.2) allows",
)
def zero_byte_images():
    classes()
    for number in range(3):
        Path(f"in/cat/{number}.png").write_bytes(b"")


@malformed({**FOLDER, "max_unreadable": 1.0}, "no image can be read")
def nothing_but_unreadable_images():
    classes()
    for file in Path("in").rglob("*.png"):
        file.write_text("no image")


@malformed(
    {**FOLDER, "max_unreadable": 0.5, "limit": {"train": 2}}, "of class 'cat' in train can be read"
)
def class_of_unreadable_images():
    classes(root="in/train")
    classes(root="in/test")
    for file in Path("in/train/cat").rglob("*.png"):
        file.write_bytes(file.read_bytes()[:50])


@malformed(
    FOLDER,
    "class 'bird' has only 1 image left to share between train and test; add images "
    "or set test_fraction",
)
def class_of_one_image():
    classes()
    images("in/bird/0.png")


@malformed(
    FOLDER,
    "class 'cat' has only 1 image left to share between train and val; add images or "
    "set val_fraction",
)
def too_few_images_for_two_held_out_splits():
    classes(2)


@malformed(FOLDER, "there is only 1 image left to share between train and test")
def one_unlabelled_image():
    images("in/0.png")


@malformed(
    {**FOLDER, "limit": {"train": 1}},
    "fetch.mine.limit.train is 1; must be at least the number of classes, 2",
)
def limit_below_the_number_of_classes():
    classes()


@malformed(
    {**FOLDER, "val_fraction": 0, "limit": {"val": 5}},
    "fetch.mine.limit.val is 5; there is no such split; there",
)
def limit_of_a_split_that_is_not_there():
    classes()


@malformed(
    {**FOLDER, "transform": "halves"},
    "transform halves joins images of different classes, but split 'train'",
)
def halves_of_one_class():
    images(*(f"in/cat/{number}.png" for number in range(9)))


@malformed(
    {**GOOD, "name": "patches", "patch": 128, "test_fraction": 0.79},
    "fetch.mine.patch is 128; the photographs",
)
def patches_too_large_for_their_splits(): ...
