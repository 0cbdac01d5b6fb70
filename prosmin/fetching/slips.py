"""Recognise mistakes in folders of images: splits taken for classes, a path one level too high."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from prosmin.common import errors
from prosmin.common.errors import UserError
from prosmin.fetching.listing import SHOWN, subfolders

# Names of split folders, in any case, alone or as train_set, test images, validation-data.
_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
_SPLIT_OF = {name: split for split, names in _NAMES.items() for name in names}
_SECOND_WORDS = r"[ _.-]*(set|data|images|imgs|split)$"
# Words of a name: letters, of which a capital begins a new word, as in trainA and seg_train2017.
_WORD = re.compile(r"[A-Z]?[^\W\d_A-Z]+|[A-Z]+")
# Names for kinds of files, which classes hardly have.
_KINDS = {
    "image", "images", "img", "imgs", "pictures", "photos", "mask", "masks", "labels",
    "annotations",
}  # fmt: skip


def listed(names: Sequence[str]) -> str:
    """Join names for a sentence, at most ``SHOWN`` of them."""
    return errors.listed(names, SHOWN)


def split_named(name: str) -> str | None:
    """Return the split that a folder of this name probably holds."""
    name = name.strip().lower()
    return _SPLIT_OF.get(name) or _SPLIT_OF.get(re.sub(_SECOND_WORDS, "", name))


def _splits_in(name: str) -> set[str]:
    """Return the splits that words of a name stand for."""
    return {split for word in _WORD.findall(name) if (split := _SPLIT_OF.get(word.lower()))}


def _named_as_splits(names: Sequence[str]) -> list[str]:
    """Return the names of splits, and names whose words stand for splits if for different ones."""
    hints = {name: hint for name in names if (hint := _splits_in(name))}
    if len(set().union(*hints.values())) > 1:
        return list(hints)
    return [name for name in names if split_named(name)]


def check_level(root: Path, folders: Sequence[str]) -> None:
    """Raise ``UserError`` where the folders in these folders of ``root`` are splits."""
    below = {name: subfolders(root / name) for name in folders}
    if not folders or not all(inner and all(map(split_named, inner)) for inner in below.values()):
        return
    first = folders[0]
    splits = listed(below[first])
    if len(folders) == 1:
        raise UserError(
            f"{root} holds but one folder, {first}, in which the splits are ({splits}); "
            f"set path to {root / first}"
        )
    raise UserError(
        f"the folders in {root} ({listed(folders)}) hold the splits ({splits}), which must stand "
        f"above the classes: move {first}/{below[first][0]} to {below[first][0]}/{first}, or name "
        "one under splits"
    )


def odd_folders(place: Path, below: Mapping[str, Sequence[str]], certain: bool) -> list[str]:
    """Return at most one sentence on the folders in class folders.

    below: by class folder in ``place`` the folders in it that hold images; "" is the class folder
        itself.
    certain: raise ``UserError`` for folders that cannot be classes, because no setting says that
        they are.
    """
    names, inner = list(below), list(below.values())
    alike = (
        len(inner[0]) > 1 and "" not in inner[0] and all(folders == inner[0] for folders in inner)
    )
    if len(names) > 1 and alike:
        note = (
            f"all folders in {place} ({listed(names)}) hold the same folders ({listed(inner[0])}), "
            "as splits do and classes do not; "
        )
        if certain:
            train, test, *_ = sorted(names, key=lambda name: "train" not in _splits_in(name))
            raise UserError(
                f"{note}name the splits, such as splits: {{train: {train}, test: {test}}}, "
                "or set splits to {train: .} if they are classes"
            )
        return [f"{note}name the splits under splits if they are"]
    for name in names:
        if splits := [folder for folder in below[name] if split_named(folder)]:
            return [
                f"class folder {place / name} holds folders named as splits ({listed(splits)}); "
                "all of their images are taken together"
            ]
    nested = [name for name in names if len(below[name]) > 1 and "" not in below[name]]
    if nested and len(names) > 1:
        inner_folders = "; ".join(f"{name}: {listed(below[name])}" for name in nested[:SHOWN])
        return [
            f"class folders in {place} hold folders of images instead of images ({inner_folders}); "
            "with classes: leaf, these would be the classes"
        ]
    return []


def odd_classes(
    place: Path,
    names: Sequence[str],
    below: Mapping[str, Sequence[str]],
    single: Sequence[str],
) -> list[str]:
    """Return sentences on the classes ``names``.

    single: classes with one image in train.
    """
    notes = []
    if len(names) == 1:
        inner = [folder for folder in below[names[0]] if folder]
        hint = f", which holds the folders {listed(inner)}: is it one level too high?"
        notes.append(f"there is only one class, {place / names[0]}{hint if inner else ''}")
    if alike := _named_as_splits(names):
        notes.append(f"class folders in {place} are named as splits are: {listed(alike)}")
    if kinds := [name for name in names if name.lower() in _KINDS]:
        notes.append(f"class folders in {place} are named for kinds of files: {listed(kinds)}")
    if single:
        notes.append(f"classes with but one image in train: {listed(single)}")
    return notes
