"""Columns of a table: the content of images, and the classes behind labels."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow
from numpy.typing import NDArray
from pyarrow import compute, types

from prosmin.common.errors import ConfigError, UserError, nearest
from prosmin.data.arrow import NO_LABEL
from prosmin.data.picture import Withheld
from prosmin.fetching.listing import escape_unprintable
from prosmin.fetching.sources import Rows


def image_content(value: dict[str, Any] | bytes | None) -> bytes | Withheld:
    """Return the bytes of an image; missing bytes are an empty file, which counts as unreadable.

    A path in place of bytes is not followed, because it may lead to any file of this machine.

    value: a cell of the image column.
    """
    if not isinstance(value, dict):
        return value or b""
    if not value["bytes"] and value.get("path"):
        return Withheld("the row holds no bytes, only the path of a file, which is not read")
    return value["bytes"] or b""


def check_columns(where: str, schema: pyarrow.Schema, image: str, label: str | None) -> None:
    """Raise ``ConfigError`` for a missing column and ``UserError`` for a column of a wrong type.

    where: the file or split, for messages.
    """
    for key, name in (("image", image), ("label", label)):
        if name is not None and name not in schema.names:
            hint = "; null stands for no labels" if key == "label" else ""
            there = ", ".join(schema.names)
            near = nearest(name, schema.names)
            allowed = f"{where} has no such column; there are: {there}{near}{hint}"
            raise ConfigError(key, name, allowed)
    kind = schema.field(image).type
    nested = types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    content = kind.field("bytes").type if nested else kind
    if not (types.is_binary(content) or types.is_large_binary(content)):
        allowed = "it must hold encoded images: binary, or a struct with bytes"
        raise UserError(f"column {image!r} of {where} holds {kind}; {allowed}")


def class_numbers(
    columns: Mapping[str, pyarrow.ChunkedArray], name: str, names: list[str] | None
) -> tuple[tuple[str, ...], dict[str, Rows]]:
    """Number the classes of a label column.

    Text labels are numbered in sorted order, and so are numbers without names.

    columns: the label column of each split.
    name: of the column, for messages.
    names: of the classes, for columns of numbers.

    Returns: the classes, and the labels of each split, int64 [N].
    Raises ``UserError`` for columns that hold no complete labels of one type.
    """
    columns = {split: _without_dictionary(column) for split, column in columns.items()}
    for split, column in columns.items():
        _check_labels(column, f"label column {name!r} of {split}")
    textual = [_is_text(column.type) for column in columns.values()]
    if any(textual) and not all(textual):
        raise UserError(
            f"label column {name!r} holds integers in one split and text in another; "
            "it must hold one type"
        )
    values: dict[str, NDArray[Any]] = {
        split: column.to_numpy() for split, column in columns.items()
    }
    if names is None or any(textual):
        _check_range(values, name, None)
        classes = np.unique(np.concatenate([np.unique(labels) for labels in values.values()]))
        return tuple(escape_unprintable(str(value)) for value in classes), {
            split: np.searchsorted(classes, labels) for split, labels in values.items()
        }
    _check_range(values, name, len(names))
    return tuple(map(escape_unprintable, names)), {
        split: labels.astype(np.int64) for split, labels in values.items()
    }


def _without_dictionary(column: pyarrow.ChunkedArray) -> pyarrow.ChunkedArray:
    return column.cast(column.type.value_type) if types.is_dictionary(column.type) else column


def _is_text(kind: pyarrow.DataType) -> bool:
    return bool(types.is_string(kind) or types.is_large_string(kind))


def _check_labels(column: pyarrow.ChunkedArray, where: str) -> None:
    kind = column.type
    try:
        column.validate(full=True)
    except pyarrow.ArrowInvalid as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{where} is damaged or not in UTF-8: {reason}") from None
    if not (types.is_integer(kind) or _is_text(kind)):
        raise UserError(f"{where} holds {kind}; it must hold integers or text")
    if column.null_count:
        row = compute.index(column.is_null(), True).as_py()
        raise UserError(
            f"{where} is empty in {column.null_count} of {len(column)} rows, first in row {row}; "
            "label all images, or set label to null"
        )


def _check_range(values: Mapping[str, NDArray[Any]], name: str, classes: int | None) -> None:
    """Raise ``UserError`` for class numbers below 0, or of ``classes`` and more."""
    for split, labels in values.items():
        if labels.dtype.kind not in "iu" or not len(labels):
            continue
        where, low, high = f"label column {name!r} of {split}", labels.min(), labels.max()
        if low < 0:
            unlabelled = (labels == NO_LABEL).all()
            hint = "; set label to null if the images are unlabelled" if unlabelled else ""
            raise UserError(
                f"{where} holds {low} in row {labels.argmin()}; labels start at 0{hint}"
            )
        if classes is not None and high >= classes:
            raise UserError(
                f"{where} holds {high} in row {labels.argmax()}; there are {classes} class names, "
                f"so labels end at {classes - 1}"
            )
