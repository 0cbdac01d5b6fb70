"""Images in folders: which of the folders are splits, which are classes, and what looks like a slip of either."""

import itertools
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from prosmin.arrow import SPLITS
from prosmin.errors import ConfigError, UserError, nearest
from prosmin.images import SUFFIXES
from prosmin.listing import (
    by_ending, counted, files_below, files_in, is_image, printable, subfolders,
)  # fmt: skip
from prosmin.sources import Images, Source, no_labels
from prosmin.splits import Rows

# Names of split folders, in any case, alone or as train_set, test images, validation-data.
_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
_SPLIT_OF = {name: split for split, names in _NAMES.items() for name in names}
_SECOND_WORDS = r"[ _.-]*(set|data|images|imgs|split)$"
_SHOWN = 3  # folders that a sentence names


@dataclass(frozen=True)
class Part:
    """A split. folder: where its classes are; files: paths of its images, relative to the root and sorted, by class; under
    None when there are no class folders. below: for each class folder the folders in it that hold images."""

    folder: Path
    files: dict[str | None, list[str]]
    below: dict[str, list[str]]
    not_read: list[str]


def folder(path: str, splits: Mapping[str, str] | None = None, classes: Literal["top", "leaf"] = "top") -> Source:
    """Image files by class: ``path/<class>/``, or ``path/<split>/<class>/`` for the splits train, val and test.

    splits: the folder of each split, relative to ``path``; left out, folders that are named as splits (``Training``,
        ``valid``, ``test_set``) are these, and otherwise all images are those of train;
    classes: ``top``, the folders in that of a split, below which folders may nest; or ``leaf``, the folders that hold the
        images, named by their paths where two have one name.

    Without class folders the images are unlabelled. What systems leave behind (hidden files, ``__MACOSX``) is passed over;
    files that are no image go to ``Source.not_read``. Links are followed wherever they lead. Raise ``UserError`` where the
    folders make no sense as splits and classes.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise ConfigError("path", path, "there is no such folder")
    try:
        return _read(root, splits, classes)
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read: {(error.strerror or str(error)).lower()}") from None


def _read(root: Path, asked: Mapping[str, str] | None, kind: str) -> Source:
    where = _asked(root, asked) if asked else _found(root)
    parts = {split: _part(root, place, kind == "leaf") for split, place in where.items()}
    not_read = [file for part in parts.values() for file in part.not_read]
    if root not in where.values():
        not_read += files_in(root)
    labelled = {split: None not in part.files for split, part in parts.items()}
    if len(set(labelled.values())) > 1:
        yes, no = (next(split for split in parts if labelled[split] is each) for each in (True, False))
        raise UserError(
            f"{parts[yes].folder} has class folders, but {parts[no].folder} has none; give all splits labels, or none, "
            f"or leave one out by naming the others under splits"
        )
    if not all(labelled.values()):
        loose = {split: part.files[None] for split, part in parts.items()}
        found = {
            split: _images(root, files, no_labels(len(files))) for split, files in loose.items()
        }
        return Source(None, found, tuple(sorted(not_read)))
    _check_same_classes(parts)
    classes = _class_names([str(name) for name in next(iter(parts.values())).files])
    names = sorted(classes, key=lambda name: (classes[name], name))
    notes = _odd_classes(root, parts, names)
    if kind == "top":
        for part in parts.values():
            notes += _slips(part, certain=asked is None and part.folder == root)
    found = {}
    for split, part in parts.items():
        labels = np.repeat(np.arange(len(names)), [len(part.files[name]) for name in names])
        found[split] = _images(root, [file for name in names for file in part.files[name]], labels)
    return Source(
        tuple(classes[name] for name in names), found, tuple(sorted(not_read)), tuple(map(printable, notes))
    )


def _images(root: Path, files: list[str], labels: Rows) -> Images:
    return Images(labels, lambda rows: ((root / files[row], printable(files[row])) for row in rows.tolist()))


def _class_names(paths: Sequence[str]) -> dict[str, str]:
    """By path the last folder of it, or the whole path where others end alike."""
    last = [path.rpartition("/")[2] for path in paths]
    often = Counter(last)
    return {path: printable(path if often[name] > 1 else name) for path, name in zip(paths, last)}


# --- splits ---------------------------------------------------------------------------------------


def split_named(name: str) -> str | None:
    """The split that a folder of this name holds, as far as one can tell."""
    name = name.strip().lower()
    return _SPLIT_OF.get(name) or _SPLIT_OF.get(re.sub(_SECOND_WORDS, "", name))


def _asked(root: Path, asked: Mapping[str, str]) -> dict[str, Path]:
    where = {}
    for split, name in asked.items():
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ConfigError(f"splits.{split}", name, f"it must be a folder in {root}, such as train")
        where[split] = root / name
        if not where[split].is_dir():
            above = next(each for each in where[split].parents if each.is_dir())
            there = subfolders(above)
            holds = _listed(there) if there else "no folders"
            near = nearest(where[split].relative_to(above).parts[0], there)
            raise ConfigError(f"splits.{split}", name, f"there is no such folder; {above} holds {holds}{near}")
    for one, other in itertools.combinations(where, 2):
        pair = where[one].resolve(), where[other].resolve()
        if pair[0].is_relative_to(pair[1]) or pair[1].is_relative_to(pair[0]):
            raise ConfigError(
                f"splits.{other}", asked[other], f"splits.{one} ({asked[one]}) holds the same images; they must differ"
            )
    return {split: where[split] for split in SPLITS if split in where}


def _found(root: Path) -> dict[str, Path]:
    """The folders that are named as splits, or else ``root`` for train."""
    folders = subfolders(root)
    named: dict[str, list[str]] = {}
    for name in folders:
        if split := split_named(name):
            named.setdefault(split, []).append(name)
    others = [name for name in folders if split_named(name) is None]
    if others and "train" not in named and not set(SPLITS) & set(folders):
        named = {}  # a class may well be called valid
    if not named:
        _check_level(root, folders)
        return {"train": root}
    if others:
        first = next(iter(named.values()))[0]
        raise UserError(
            f"{root / others[0]} stands beside the split {first!r} but is no split; allowed: {', '.join(SPLITS)}"
            f"{nearest(others[0], SPLITS)}; name the folders of the splits under splits, or set splits to "
            f"{{train: .}} if all of these are classes"
        )
    for split, names in named.items():
        if len(names) > 1:
            raise UserError(
                f"{_listed(names)} in {root} are all names of the split {split!r}; "
                f"say under splits which is meant, such as {{{split}: {names[0]}}}"
            )
    return {split: root / named[split][0] for split in SPLITS if split in named}


def _check_level(root: Path, folders: Sequence[str]) -> None:
    """Raise ``UserError`` where the splits stand one level below ``root``, and so not above the classes."""
    below = {name: subfolders(root / name) for name in folders}
    if not folders or not all(names and all(map(split_named, names)) for names in below.values()):
        return
    first = folders[0]
    if len(folders) == 1:
        raise UserError(
            f"{root} holds but one folder, {first}, in which the splits are ({_listed(below[first])}); "
            f"set path to {root / first}"
        )
    raise UserError(
        f"the folders in {root} ({_listed(folders)}) hold the splits ({_listed(below[first])}), which must stand above the "
        f"classes: move {first}/{below[first][0]} to {below[first][0]}/{first}, or name one under splits"
    )


# --- classes --------------------------------------------------------------------------------------


def _part(root: Path, place: Path, leaf: bool) -> Part:
    prefix = "" if place == root else f"{place.relative_to(root).as_posix()}/"
    found: dict[bool, list[str]] = {True: [], False: []}
    for file in files_below(place):
        found[is_image(file)].append(file)
    by_class: dict[str, list[str]] = {}
    loose = []
    for file in sorted(found[True]):
        above = os.path.dirname(file)
        if not above:
            loose.append(file)
        else:
            by_class.setdefault(above if leaf else above.partition("/")[0], []).append(file)
    not_read = [prefix + file for file in found[False]]
    if loose and by_class:
        raise UserError(
            f"{place} holds both images ({loose[0]}) and class folders ({min(by_class)}); move the images into one"
        )
    if not loose and not by_class:
        raise UserError(f"{place} holds no images{_but(found[False])}")
    if loose:
        return Part(place, {None: [prefix + file for file in loose]}, {}, not_read)
    if leaf:
        for name in by_class:
            if inner := next((each for each in by_class if each.startswith(f"{name}/")), None):
                raise UserError(
                    f"{place / name} holds both images and folders of images ({inner[len(name) + 1 :]}); with classes: "
                    "leaf, images must be in the innermost folders"
                )
    else:
        for name in subfolders(place):
            if name not in by_class:
                mine = [file for file in found[False] if file.startswith(f"{name}/")]
                raise UserError(
                    f"class folder {place / name} holds no images; remove it or fill it"
                    f"{_but(mine) if mine else ''}"
                )
    below = {
        name: sorted({file.split("/")[1] if file.count("/") > 1 else "" for file in files})
        for name, files in by_class.items()
    }
    return Part(place, {name: [prefix + file for file in by_class[name]] for name in sorted(by_class)}, below, not_read)


def _but(files: Sequence[str]) -> str:
    """For the end of a sentence that no images are there: what is there instead."""
    return f"; known endings: {', '.join(sorted(SUFFIXES))}" + (
        f"; not read: {counted(by_ending(files))}" if files else ""
    )


def _check_same_classes(parts: Mapping[str, Part]) -> None:
    everywhere = sorted({name for part in parts.values() for name in part.files})
    for part in parts.values():
        for name in everywhere:
            if name not in part.files:
                other = next(other.folder for other in parts.values() if name in other.files)
                raise UserError(
                    f"class folder {name!r} stands in {other} but not in {part.folder}{nearest(name, part.files)}"
                )


# --- slips ----------------------------------------------------------------------------------------


def _slips(part: Part, certain: bool) -> list[str]:
    """What the folders below the classes of a split tell: "" among them stands for images of the class folder itself.

    certain: nothing else says that the folders are classes.
    """
    names, below = list(part.below), list(part.below.values())
    splits = {name: [each for each in inner if split_named(each)] for name, inner in part.below.items()}
    if len(names) > 1 and len(below[0]) > 1 and "" not in below[0] and all(each == below[0] for each in below):
        said = (
            f"all folders in {part.folder} ({_listed(names)}) hold the same folders ({_listed(below[0])}), as splits do and "
            "classes do not; "
        )
        if certain:
            raise UserError(
                f"{said}name the splits, such as splits: {{train: {names[0]}, test: {names[1]}}}, or set splits to "
                "{train: .} if they are classes"
            )
        return [f"{said}name the splits under splits if they are"]
    if any(splits.values()):
        name = next(name for name in names if splits[name])
        return [
            f"class folder {part.folder / name} holds folders named as splits ({_listed(splits[name])}); all of their "
            f"images are taken together"
        ]
    nested = {name: inner for name, inner in part.below.items() if len(inner) > 1 and "" not in inner}
    if nested and len(names) > 1:
        said = "; ".join(f"{name}: {_listed(inner)}" for name, inner in list(nested.items())[:_SHOWN])
        return [
            f"class folders in {part.folder} hold folders of images instead of images ({said}); with classes: leaf, these "
            "would be the classes"
        ]
    return []


def _odd_classes(root: Path, parts: Mapping[str, Part], names: Sequence[str]) -> list[str]:
    notes = []
    if len(names) == 1:
        part = next(iter(parts.values()))
        inner = [each for each in part.below[names[0]] if each]
        hint = f", which holds the folders {_listed(inner)}: is it one level too high?" if inner else ""
        notes.append(f"there is only one class, {part.folder / names[0]}{hint}")
    if alike := [name for name in names if split_named(name)]:
        notes.append(f"class folders in {root} are named as splits are: {_listed(alike)}")
    if single := [name for name in names if "train" in parts and len(parts["train"].files[name]) == 1]:
        notes.append(f"classes with but one image in train: {_listed(single)}")
    return notes


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(str, names[:_SHOWN])) + (f", … ({len(names)})" if len(names) > _SHOWN else "")
