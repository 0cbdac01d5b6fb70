"""Images from columns of a table: Parquet files, and datasets of the Hugging Face hub."""

import contextlib
import glob
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow
from pyarrow import compute, types
from pyarrow.parquet import ParquetFile

from prosmin.common.errors import ConfigError, UserError, nearest
from prosmin.data.arrow import NO_LABEL
from prosmin.data.picture import AnyImage, Withheld
from prosmin.fetching.listing import printable
from prosmin.fetching.sources import Images, Source, no_labels
from prosmin.fetching.splits import Rows

if TYPE_CHECKING:
    import datasets

_BATCH = 256  # rows read at a time


# --- Parquet --------------------------------------------------------------------------------------


def parquet(files: Mapping[str, str], image: str = "image", label: str | None = "label") -> Source:
    """Splits from Parquet files, each read a few rows at a time.

    files: split -> a file, a folder of ``*.parquet`` files, or a pattern such as ``train-*.parquet``;
    image: column of encoded images, binary or a struct with the field ``bytes``, as datasets of the hub have;
    label: column of class numbers or names; None for no labels. Names for class numbers are taken from the metadata
        that the ``datasets`` library writes; without it the numbers themselves are the names.
    """
    shards = {
        split: [(file, _open(file)) for file in _paths(split, path)]
        for split, path in files.items()
    }
    for opened in shards.values():
        for path, file in opened:
            _check_columns(path.name, file.schema_arrow, image, label)
    if label is None:
        lengths = {
            split: sum(file.metadata.num_rows for _, file in opened)
            for split, opened in shards.items()
        }
        classes, labels = None, {split: no_labels(length) for split, length in lengths.items()}
    else:
        columns = {split: _label_column(opened, label) for split, opened in shards.items()}
        classes, labels = class_numbers(columns, label, _names_in_metadata(shards, label))
    return Source(
        classes,
        {
            split: Images(labels[split], _parquet_reader(opened, image))
            for split, opened in shards.items()
        },
    )


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (pyarrow.ArrowException, OSError, UnicodeError) as error:
        raise UserError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from None


def _paths(split: str, path: str) -> list[Path]:
    where = Path(path).expanduser()
    if where.is_file():
        return [where]
    if where.is_dir():
        found = sorted(where.glob("*.parquet"))
    else:
        found = [Path(name) for name in sorted(glob.glob(str(where)))]
    if not found:
        raise ConfigError(
            f"files.{split}",
            path,
            "there is no such Parquet file, nor a folder or pattern with some",
        )
    return found


def _open(path: Path) -> ParquetFile:
    with _reading(path):
        return ParquetFile(path)


def _label_column(shards: list[tuple[Path, ParquetFile]], label: str) -> pyarrow.ChunkedArray:
    columns = []
    for path, file in shards:
        with _reading(path):
            columns.append(file.read(columns=[label])[label])
    try:
        return pyarrow.chunked_array(
            [chunk for column in columns for chunk in column.chunks], columns[0].type
        )
    except (pyarrow.ArrowException, TypeError):
        kinds = " and ".join(sorted({str(column.type) for column in columns}))
        raise UserError(
            f"label column {label!r} holds {kinds} in files of one split; it must hold one type"
        ) from None


def _names_in_metadata(
    shards: Mapping[str, list[tuple[Path, ParquetFile]]], label: str
) -> list[str] | None:
    """Class names as the ``datasets`` library writes them into the schema."""
    found: dict[Path, list[str]] = {}
    for path, file in (each for opened in shards.values() for each in opened):
        try:
            names = json.loads((file.schema_arrow.metadata or {})[b"huggingface"])["info"][
                "features"
            ][label]["names"]
        except (KeyError, TypeError, ValueError):
            continue
        found[path] = [str(name) for name in names]
        first, wanted = next(iter(found.items()))
        if found[path] != wanted:
            raise UserError(
                f"{first.name} and {path.name} give the classes different names or a different order"
            )
    return next(iter(found.values()), None)


def _parquet_reader(
    shards: list[tuple[Path, ParquetFile]], image: str
) -> Callable[[Rows], Iterator[tuple[AnyImage, str]]]:
    def read(rows: Rows) -> Iterator[tuple[AnyImage, str]]:
        start = 0
        for path, file in shards:
            first = start
            for group in range(file.num_row_groups):
                stop = start + file.metadata.row_group(group).num_rows
                if np.searchsorted(rows, start) < np.searchsorted(rows, stop):
                    for column in _batches(path, file, group, image):
                        low, high = np.searchsorted(rows, [start, start + len(column)])
                        for row in rows[low:high].tolist():
                            content = _content(column[row - start].as_py())
                            yield content, f"{printable(path.name)}:{row - first}"
                        start += len(column)
                start = stop

    return read


def _batches(path: Path, file: ParquetFile, group: int, image: str) -> Iterator[pyarrow.Array]:
    with _reading(path):
        batches = file.iter_batches(_BATCH, row_groups=[group], columns=[image])
    while True:
        with _reading(path):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch.column(0)


# --- hub ------------------------------------------------------------------------------------------


def hub(
    repo: str,
    revision: str,
    config: str | None = None,
    splits: Mapping[str, str] | None = None,
    image: str = "image",
    label: str | None = "label",
) -> Source:
    """A dataset of the Hugging Face hub, or a local folder in its layout. Code of the dataset is never run.

    repo: ``owner/name`` or a folder; revision: the commit, so that the data cannot change under the same params;
    config: its subset, needed where it has several; splits: ours -> its; image, label: columns, as for ``parquet``.
    """
    import datasets

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    splits = splits or {"train": "train", "test": "test"}
    try:
        builder = datasets.load_dataset_builder(repo, name=config, revision=revision)
        _check_own_files(repo, builder)
        builder.download_and_prepare()
        loaded = builder.as_dataset()
    except (
        ValueError,
        RuntimeError,
        OSError,
        datasets.exceptions.DatasetsError,
        pyarrow.ArrowException,
    ) as error:
        if "BuilderConfig" in str(error) or "Config name is missing" in str(error):
            options = re.findall(r"'([^']+)'", str(error).partition("[")[2].partition("]")[0])
            allowed = f"{repo} has: {', '.join(options)}{nearest(str(config), options)}"
            raise ConfigError("config", config, allowed) from None
        raise ConfigError(
            "repo", repo, f"it cannot be loaded at revision {revision}: {_first_line(error)}"
        ) from None
    tables = {}
    for split, theirs in splits.items():
        if theirs not in loaded:
            raise ConfigError(
                f"splits.{split}",
                theirs,
                f"{repo} has: {', '.join(loaded)}{nearest(theirs, loaded)}",
            )
        table = loaded[theirs]
        _check_columns(f"split {theirs!r} of {repo}", table.features.arrow_schema, image, label)
        if isinstance(table.features[image], datasets.Image):
            table = table.cast_column(image, datasets.Image(decode=False))
        tables[split] = table.with_format("arrow")
    if label is None:
        classes, labels = None, {split: no_labels(len(table)) for split, table in tables.items()}
    else:
        columns = {
            split: table.select_columns([label])[:][label] for split, table in tables.items()
        }
        names = {
            split: getattr(table.features[label], "names", None) for split, table in tables.items()
        }
        classes, labels = class_numbers(columns, label, next(iter(names.values())))
    own = _own_folders(repo, revision)
    return Source(
        classes,
        {
            split: Images(labels[split], _hub_reader(table, image, splits[split], own))
            for split, table in tables.items()
        },
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _own_folders(repo: str, revision: str) -> tuple[Path, Path]:
    """Where relative paths in rows start, and the folder that none may lead out of."""
    if Path(repo).is_dir():
        return Path(repo).resolve(), Path(repo).resolve()
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    cache = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repo, repo_type="dataset"))
    return cache / "snapshots" / revision, cache.resolve()


def _check_own_files(repo: str, builder: "datasets.DatasetBuilder") -> None:
    """Raise ``ConfigError`` where the card of a dataset names files that are not its own."""
    local = Path(repo).is_dir()
    for name in (each for files in (builder.config.data_files or {}).values() for each in files):
        place = str(name).rpartition("::")[2]  # of a file in an archive the archive
        if local:
            own = "://" not in place and Path(place).resolve().is_relative_to(Path(repo).resolve())
        else:
            own = place.startswith("hf://")
        if not own:
            said = f"its card names a file outside of it, {name}, which is not read"
            raise ConfigError("repo", repo, said)


def _within(path: str, own: tuple[Path, Path]) -> AnyImage:
    """The file that a row names in place of its bytes, if it is the dataset's own in the end."""
    start, limit = own
    file = start / path
    try:
        real = file.resolve()
    except (OSError, RuntimeError, ValueError):  # a loop of links, or a null byte
        return Withheld("the row names a file that cannot be found")
    if ".." in file.parts or not real.is_relative_to(limit):
        return Withheld("the row names a file outside the dataset, which is not read")
    return real


def _hub_reader(
    table: "datasets.Dataset", image: str, name: str, own: tuple[Path, Path]
) -> Callable[[Rows], Iterator[tuple[AnyImage, str]]]:
    column = table.select_columns([image])

    def read(rows: Rows) -> Iterator[tuple[AnyImage, str]]:
        for start in range(0, len(rows), _BATCH):
            chosen = rows[start : start + _BATCH].tolist()
            for row, value in zip(chosen, column[chosen][image]):
                content = value.as_py()
                if isinstance(content, dict) and content["bytes"] is None and content.get("path"):
                    yield _within(content["path"], own), f"{name}:{row}"
                else:
                    yield _content(content), f"{name}:{row}"

    return read


# --- columns --------------------------------------------------------------------------------------


def _content(value: dict[str, Any] | bytes | None) -> bytes | Withheld:
    """The bytes of an image. Missing ones become an empty file, which is then listed as unreadable.

    A path that stands in their place is not followed: it may lead to any file of this machine.
    """
    if not isinstance(value, dict):
        return value or b""
    if not value["bytes"] and value.get("path"):
        return Withheld("the row holds no bytes, only the path of a file, which is not read")
    return value["bytes"] or b""


def _check_columns(where: str, schema: pyarrow.Schema, image: str, label: str | None) -> None:
    for key, name in (("image", image), ("label", label)):
        if name is not None and name not in schema.names:
            hint = "; null stands for no labels" if key == "label" else ""
            there = ", ".join(schema.names)
            allowed = (
                f"{where} has no such column; there are: {there}{nearest(name, schema.names)}{hint}"
            )
            raise ConfigError(key, name, allowed)
    kind = schema.field(image).type
    content = (
        kind.field("bytes").type
        if types.is_struct(kind) and kind.get_field_index("bytes") >= 0
        else kind
    )
    if not (types.is_binary(content) or types.is_large_binary(content)):
        allowed = "it must hold encoded images: binary, or a struct with bytes"
        raise UserError(f"column {image!r} of {where} holds {kind}; {allowed}")


def class_numbers(
    columns: Mapping[str, pyarrow.ChunkedArray], name: str, names: list[str] | None
) -> tuple[tuple[str, ...], dict[str, Rows]]:
    """Classes, and int64 [N] of each split, from its label column ``name``.

    names: of the classes, for columns of numbers. Text labels are numbered in sorted order, and so are numbers
        without names.
    """
    columns = {split: _plain(column) for split, column in columns.items()}
    for split, column in columns.items():
        kind = column.type
        try:
            column.validate(full=True)
        except pyarrow.ArrowInvalid as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"label column {name!r} of {split} is damaged or not in UTF-8: {reason}"
            ) from None
        if not (types.is_integer(kind) or _is_text(kind)):
            raise UserError(
                f"label column {name!r} of {split} holds {kind}; it must hold integers or text"
            )
        if column.null_count:
            row = compute.index(column.is_null(), True).as_py()
            raise UserError(
                f"label column {name!r} of {split} is empty in {column.null_count} of {len(column)} rows, first in row "
                f"{row}; label all images, or set label to null"
            )
    if len({_is_text(column.type) for column in columns.values()}) > 1:
        raise UserError(
            f"label column {name!r} holds integers in one split and text in another; it must hold one type"
        )
    values = {split: column.to_numpy() for split, column in columns.items()}
    if names is None or any(_is_text(column.type) for column in columns.values()):
        _check_range(values, name, None)
        found = np.unique(np.concatenate([np.unique(each) for each in values.values()]))
        return tuple(printable(str(value)) for value in found), {
            split: np.searchsorted(found, each) for split, each in values.items()
        }
    _check_range(values, name, len(names))
    return tuple(map(printable, names)), {
        split: each.astype(np.int64) for split, each in values.items()
    }


def _plain(column: pyarrow.ChunkedArray) -> pyarrow.ChunkedArray:
    return column.cast(column.type.value_type) if types.is_dictionary(column.type) else column


def _is_text(kind: pyarrow.DataType) -> bool:
    return types.is_string(kind) or types.is_large_string(kind)


def _check_range(values: Mapping[str, np.ndarray], name: str, classes: int | None) -> None:
    for split, each in values.items():
        if each.dtype.kind not in "iu" or not len(each):
            continue
        where, low, high = f"label column {name!r} of {split}", each.min(), each.max()
        if low < 0:
            hint = (
                "; set label to null if the images are unlabelled"
                if (each == NO_LABEL).all()
                else ""
            )
            raise UserError(f"{where} holds {low} in row {each.argmin()}; labels start at 0{hint}")
        if classes is not None and high >= classes:
            raise UserError(
                f"{where} holds {high} in row {each.argmax()}; there are {classes} class names, "
                f"so labels end at {classes - 1}"
            )
