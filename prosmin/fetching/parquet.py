"""A source of images: Parquet files, read a few rows at a time."""

import contextlib
import glob
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow
from numpy.typing import NDArray
from pyarrow.parquet import ParquetFile

from prosmin.common.errors import ConfigError, UserError, listed
from prosmin.data.picture import AnyImage
from prosmin.fetching.columns import check_columns, class_numbers, image_content
from prosmin.fetching.listing import escape_unprintable
from prosmin.fetching.sources import Images, Rows, Source, no_labels

_BATCH = 256  # rows read at a time

Shards = list[tuple[Path, ParquetFile]]
"""The files of one split, open."""


def parquet(files: Mapping[str, str], image: str = "image", label: str | None = "label") -> Source:
    """Read splits from Parquet files.

    files: by split a file, a folder of ``*.parquet`` files, or a pattern such as
        ``train-*.parquet``.
    image: column of encoded images, binary or a struct with the field ``bytes``, as in datasets of
        the hub.
    label: column of class numbers or class names; None for no labels. Names for class numbers come
        from the metadata that the ``datasets`` library writes; without it the numbers are the
        names.

    Raises ``UserError`` for files and columns that hold no such images and labels.
    """
    shards = {
        split: [(file, _open(file)) for file in _paths(split, path)]
        for split, path in files.items()
    }
    for opened in shards.values():
        for path, file in opened:
            check_columns(path.name, file.schema_arrow, image, label)
    if label is None:
        classes = None
        labels = {
            split: no_labels(sum(file.metadata.num_rows for _, file in opened))
            for split, opened in shards.items()
        }
    else:
        columns = {split: _label_column(opened, label) for split, opened in shards.items()}
        classes, labels = class_numbers(columns, label, _names_in_metadata(shards, label))
    images = {
        split: Images(labels[split], _reader(opened, image)) for split, opened in shards.items()
    }
    return Source(classes, images)


def human_labels(path: str, tolerance: float = 1e-3) -> NDArray[np.float32]:
    """Read the labels that people gave to images: the share of people per class, float32 [N, C].

    The file has a row per image and the columns p0, p1, ... in the order of the classes. Other
    columns are not read.

    tolerance: by which rounding may move the sum of a row from 1.

    Raises:
        ConfigError: where there is no such file.
        UserError: for a file that holds no such shares.
    """
    where = Path(path).expanduser()
    if not where.is_file():
        raise ConfigError("human_labels", path, "there is no such Parquet file")
    file = _open(where)
    count = sum(name[:1] == "p" and name[1:].isdecimal() for name in file.schema_arrow.names)
    columns = [f"p{place}" for place in range(count)]
    if count < 2 or not set(columns) <= set(file.schema_arrow.names):
        there = listed(file.schema_arrow.names)
        raise UserError(f"{path} must have a column per class, p0, p1, ...; it has {there}")
    with _reading(where):
        table = file.read(columns=columns)
    for name in columns:
        kind = table[name].type
        if not (pyarrow.types.is_floating(kind) or pyarrow.types.is_integer(kind)):
            raise UserError(f"column {name} of {path} holds {kind}; it must hold numbers")
    shares = np.stack([table[name].to_numpy().astype(np.float64) for name in columns], axis=1)
    sums = shares.sum(axis=1)
    valid = (shares >= 0).all(axis=1) & (np.abs(sums - 1) <= tolerance)  # NaN is not valid
    if not valid.all():
        row = int(np.flatnonzero(~valid)[0])
        raise UserError(
            f"row {row} of {path} holds {np.round(shares[row], 4).tolist()}; "
            "shares must be at least 0 and sum to 1"
        )
    normalised: NDArray[np.float32] = (shares / sums[:, None]).astype(np.float32)
    return normalised


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
        paths = sorted(where.glob("*.parquet"))
    else:
        paths = [Path(name) for name in sorted(glob.glob(str(where)))]
    if not paths:
        allowed = "there is no such Parquet file, nor a folder or pattern with some"
        raise ConfigError(f"files.{split}", path, allowed)
    return paths


def _open(path: Path) -> ParquetFile:
    with _reading(path):
        return ParquetFile(path)


def _label_column(shards: Shards, label: str) -> pyarrow.ChunkedArray:
    columns = []
    for path, file in shards:
        with _reading(path):
            columns.append(file.read(columns=[label])[label])
    chunks = [chunk for column in columns for chunk in column.chunks]
    try:
        return pyarrow.chunked_array(chunks, columns[0].type)
    except (pyarrow.ArrowException, TypeError):
        kinds = " and ".join(sorted({str(column.type) for column in columns}))
        raise UserError(
            f"label column {label!r} holds {kinds} in files of one split; it must hold one type"
        ) from None


def _names_in_metadata(shards: Mapping[str, Shards], label: str) -> list[str] | None:
    """Return the class names that the ``datasets`` library wrote into the schema, if any.

    Raises ``UserError`` where two files give different names.
    """
    by_file: dict[Path, list[str]] = {}
    for path, file in (shard for opened in shards.values() for shard in opened):
        try:
            metadata = json.loads((file.schema_arrow.metadata or {})[b"huggingface"])
            names = metadata["info"]["features"][label]["names"]
        except (KeyError, TypeError, ValueError):
            continue
        by_file[path] = [str(name) for name in names]
        first, wanted = next(iter(by_file.items()))
        if by_file[path] != wanted:
            raise UserError(
                f"{first.name} and {path.name} give the classes different names or a different "
                "order"
            )
    return next(iter(by_file.values()), None)


def _reader(shards: Shards, image: str) -> Callable[[Rows], Iterator[tuple[AnyImage, str]]]:
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
                            content = image_content(column[row - start].as_py())
                            yield content, f"{escape_unprintable(path.name)}:{row - first}"
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
