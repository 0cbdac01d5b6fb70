"""A source of images: folders. Some of the folders are splits, some are classes."""

import itertools
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from prosmin.common.errors import ConfigError, UserError, listed, nearest
from prosmin.data.arrow import SPLITS
from prosmin.data.picture import SUFFIXES
from prosmin.fetching.listing import (
    SHOWN,
    by_ending,
    counted,
    escape_unprintable,
    files_below,
    files_in,
    is_image,
    subfolders,
)
from prosmin.fetching.slips import check_level, odd_classes, odd_folders, split_named
from prosmin.fetching.sources import Images, Rows, Source, no_labels


@dataclass(frozen=True)
class Part:
    """A split.

    folder: the folder of its classes.
    files: paths of its images by class, relative to the root, sorted; under None without classes.
    below: by class folder the folders in it that hold images; "" is the class folder itself.
    not_read: its files that are no images.
    """

    folder: Path
    files: dict[str | None, list[str]]
    below: dict[str, list[str]]
    not_read: list[str]


def folder(
    path: str,
    splits: Mapping[str, str] | None = None,
    classes: Literal["top", "leaf"] = "top",
) -> Source:
    """Read image files by class: ``path/<class>/``, or ``path/<split>/<class>/``.

    Without class folders the images have no labels. Files that systems leave behind (hidden files,
    ``__MACOSX``) are ignored; other files that are no images go to ``Source.not_read``. Links are
    followed wherever they lead.

    splits: the folder of each split, relative to ``path``. Without it the names of the folders
        decide (``Training``, ``valid``, ``test_set``); where no folder has the name of a split, all
        images belong to train.
    classes: ``top``, the folders directly in a split, which may hold folders themselves; or
        ``leaf``, the folders that hold the images, named by their paths where two share a name.

    Raises ``UserError`` where the folders make no sense as splits and classes.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise ConfigError("path", path, "there is no such folder")
    try:
        return _read(root, splits, classes)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(f"{error.filename} cannot be read: {reason}") from None


def _read(root: Path, asked: Mapping[str, str] | None, kind: str) -> Source:
    where = _asked(root, asked) if asked else _by_name(root)
    parts = {split: _part(root, place, kind == "leaf") for split, place in where.items()}
    not_read = [file for part in parts.values() for file in part.not_read]
    if root not in where.values():
        not_read += files_in(root)
    not_read.sort()
    if not _is_labelled(parts):
        loose = {split: part.files[None] for split, part in parts.items()}
        splits = {
            split: _images(root, files, no_labels(len(files))) for split, files in loose.items()
        }
        return Source(None, splits, tuple(not_read))
    _check_same_classes(parts)
    classes = _class_names([str(name) for name in next(iter(parts.values())).files])
    names = sorted(classes, key=lambda name: (classes[name], name))
    notes = []
    if kind == "top":
        for part in parts.values():
            certain = not asked and part.folder == root
            notes += odd_folders(part.folder, part.below, certain)
    first = next(iter(parts.values()))
    train = parts["train"].files if "train" in parts else {}
    single = [name for name in names if len(train.get(name, ())) == 1]
    notes += odd_classes(first.folder, names, first.below, single)
    splits = {}
    for split, part in parts.items():
        labels = np.repeat(np.arange(len(names)), [len(part.files[name]) for name in names])
        files = [file for name in names for file in part.files[name]]
        splits[split] = _images(root, files, labels)
    shown = tuple(classes[name] for name in names)
    return Source(shown, splits, tuple(not_read), tuple(map(escape_unprintable, notes)))


def _images(root: Path, files: list[str], labels: Rows) -> Images:
    return Images(
        labels,
        lambda rows: ((root / files[row], escape_unprintable(files[row])) for row in rows.tolist()),
    )


# --- splits ---------------------------------------------------------------------------------------


def _asked(root: Path, asked: Mapping[str, str]) -> dict[str, Path]:
    where = {split: _split_folder(root, split, name) for split, name in asked.items()}
    for first, second in itertools.combinations(where, 2):
        folders = where[first].resolve(), where[second].resolve()
        if folders[0].is_relative_to(folders[1]) or folders[1].is_relative_to(folders[0]):
            allowed = f"splits.{first} ({asked[first]}) holds the same images; they must differ"
            raise ConfigError(f"splits.{second}", asked[second], allowed)
    return {split: where[split] for split in SPLITS if split in where}


def _split_folder(root: Path, split: str, name: str) -> Path:
    key, place = f"splits.{split}", root / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ConfigError(key, name, f"it must be a folder in {root}, such as train")
    if not place.is_dir():
        above = next(folder for folder in place.parents if folder.is_dir())
        there = subfolders(above)
        near = nearest(place.relative_to(above).parts[0], there)
        holds = f"{above} holds {listed(there, SHOWN) or 'no folders'}{near}"
        raise ConfigError(key, name, f"there is no such folder; {holds}")
    return place


def _by_name(root: Path) -> dict[str, Path]:
    """Return the folders with names of splits, or ``root`` for train where there are none."""
    folders = subfolders(root)
    named: dict[str, list[str]] = {}
    for name in folders:
        if split := split_named(name):
            named.setdefault(split, []).append(name)
    others = [name for name in folders if split_named(name) is None]
    if others and "train" not in named and not set(SPLITS) & set(folders):
        named = {}  # a class may well be called valid
    if not named:
        check_level(root, folders)
        return {"train": root}
    if others:
        first = next(iter(named.values()))[0]
        raise UserError(
            f"{root / others[0]} stands beside the split {first!r} but is no split; allowed: "
            f"{', '.join(SPLITS)}{nearest(others[0], SPLITS)}; name the folders of the splits "
            "under splits, or set splits to {train: .} if all of these are classes"
        )
    for split, names in named.items():
        if len(names) > 1:
            raise UserError(
                f"{listed(names, SHOWN)} in {root} are all names of the split {split!r}; say under "
                f"splits which is meant, such as {{{split}: {names[0]}}}"
            )
    return {split: root / named[split][0] for split in SPLITS if split in named}


# --- classes --------------------------------------------------------------------------------------


def _part(root: Path, place: Path, leaf: bool) -> Part:
    prefix = "" if place == root else f"{place.relative_to(root).as_posix()}/"
    images: list[str] = []
    others: list[str] = []
    loose: list[str] = []
    for file in files_below(place):
        (images if is_image(file) else others).append(file)
    by_class: dict[str, list[str]] = {}
    for file in sorted(images):
        above = os.path.dirname(file)
        if above:
            by_class.setdefault(above if leaf else above.partition("/")[0], []).append(file)
        else:
            loose.append(file)
    if loose and by_class:
        raise UserError(
            f"{place} holds both images ({loose[0]}) and class folders ({min(by_class)}); "
            "move the images into one"
        )
    if not images:
        raise UserError(f"{place} holds no images{_but(others)}")
    not_read = [prefix + file for file in others]
    if loose:
        return Part(place, {None: [prefix + file for file in loose]}, {}, not_read)
    if leaf:
        _check_innermost(place, by_class)
    else:
        _check_filled(place, by_class, others)
    below = {name: _folders_in(name, files) for name, files in by_class.items()}
    files: dict[str | None, list[str]] = {
        name: [prefix + file for file in by_class[name]] for name in sorted(by_class)
    }
    return Part(place, files, below, not_read)


def _folders_in(name: str, files: Sequence[str]) -> list[str]:
    """Return the folders directly below a class that hold images; "" is the class itself.

    files: the images of the class.
    """
    inner = (file[len(name) + 1 :].rpartition("/")[0] for file in files)
    return sorted({path.partition("/")[0] for path in inner})


def _check_innermost(place: Path, by_class: Mapping[str, Sequence[str]]) -> None:
    for name in by_class:
        if inner := next((path for path in by_class if path.startswith(f"{name}/")), None):
            raise UserError(
                f"{place / name} holds both images and folders of images "
                f"({inner[len(name) + 1 :]}); with classes: leaf, images must be in the innermost "
                "folders"
            )


def _check_filled(place: Path, by_class: Mapping[str, object], others: Sequence[str]) -> None:
    for name in subfolders(place):
        if name not in by_class:
            mine = [file for file in others if file.startswith(f"{name}/")]
            raise UserError(
                f"class folder {place / name} holds no images; remove it or fill it"
                f"{_but(mine) if mine else ''}"
            )


def _but(files: Sequence[str]) -> str:
    """Return the end of a sentence on missing images: the known endings, and the files there."""
    known = f"; known endings: {', '.join(sorted(SUFFIXES))}"
    return known + (f"; not read: {counted(by_ending(files))}" if files else "")


def _class_names(paths: Sequence[str]) -> dict[str, str]:
    """Return a name by path: its last folder, or the whole path where others end alike."""
    last = [path.rpartition("/")[2] for path in paths]
    often = Counter(last)
    return {
        path: escape_unprintable(path if often[name] > 1 else name)
        for path, name in zip(paths, last)
    }


def _is_labelled(parts: Mapping[str, Part]) -> bool:
    yes = [part.folder for part in parts.values() if None not in part.files]
    no = [part.folder for part in parts.values() if None in part.files]
    if yes and no:
        raise UserError(
            f"{yes[0]} has class folders, but {no[0]} has none; give all splits labels, or none, "
            "or leave one out by naming the others under splits"
        )
    return not no


def _check_same_classes(parts: Mapping[str, Part]) -> None:
    everywhere = sorted({str(name) for part in parts.values() for name in part.files})
    for part in parts.values():
        for name in everywhere:
            if name not in part.files:
                other = next(other.folder for other in parts.values() if name in other.files)
                raise UserError(
                    f"class folder {name!r} stands in {other} but not in {part.folder}"
                    f"{nearest(name, map(str, part.files))}"
                )
