"""Predictions and embeddings as rows of a Parquet or CSV file, written batch by batch."""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from prosmin.common.errors import ConfigError
from prosmin.common.files import whole_file
from prosmin.evaluation.embedding import Embedding
from prosmin.fetching.listing import escape_unprintable
from prosmin.predicting.model import Predictions

Columns = dict[str, Any]
"""Arrays or lists of one length, by name."""

FORMATS = (".parquet", ".csv")
FILE, ERROR = "file", "error"


def of_predictions(predictions: Predictions) -> Columns:
    """The columns of predictions, in the order of a table."""
    columns: Columns = {}
    labels, p, sets = predictions.labels, predictions.probabilities, predictions.sets
    classes = predictions.classes or ()
    if labels is not None and p is not None and sets is not None:
        columns |= {"class": labels, "confidence": p.max(axis=1)}
        columns["set"] = [[classes[place] for place in np.flatnonzero(row)] for row in sets]
    columns["unusual"] = predictions.unusual
    columns["ood_percentile"] = predictions.percentiles
    if (uncertainty := predictions.uncertainty) is not None:
        name, values = uncertainty
        columns[name] = values
    columns |= predictions.label_free
    columns |= {f"ood_{name}": scores for name, scores in predictions.scores.items()}
    columns["nearest"] = predictions.nearest.tolist()
    columns["nearest_distance"] = predictions.distances.tolist()
    if p is not None:
        columns |= {f"p_{name}": p[:, place] for place, name in enumerate(classes)}
    return columns


def of_embedding(embedding: Embedding) -> Columns:
    """The columns of an embedding; ``features`` is a list per image."""
    columns: Columns = {"features": embedding.features.tolist()}
    if embedding.log_sigma is not None:
        columns["log_sigma"] = embedding.log_sigma
    return columns | embedding.doubts


class Table:
    """A file of rows that appears when it is complete.

    The first column is the file, the last the reason why it could not be read; then all columns in
    between are empty.

    path: ends with .parquet or .csv. In CSV, a list is written as JSON.
    Raises ``ConfigError`` for any other ending.
    """

    def __init__(self, path: str | Path, like: Columns):
        """like: the columns of an image, which set the types."""
        self.path, self._stack = Path(path), ExitStack()
        check_format(self.path)
        fields = [pyarrow.field(name, pyarrow.array(values).type) for name, values in like.items()]
        text = pyarrow.string()
        fields = [pyarrow.field(FILE, text), *fields, pyarrow.field(ERROR, text)]
        self._schema = pyarrow.schema(fields)

    def __enter__(self) -> "Table":
        part = self._stack.enter_context(whole_file(self.path))
        self._write: Callable[[pyarrow.Table], Any]
        if self.path.suffix.lower() == ".parquet":
            writer = pyarrow.parquet.ParquetWriter(part, self._schema, compression="zstd")
            self._stack.enter_context(writer)
            self._write = writer.write_table
        else:
            handle = self._stack.enter_context(open(part, "w", newline="", encoding="utf-8"))
            rows = csv.writer(handle, lineterminator="\n")
            rows.writerow(self._schema.names)
            self._write = lambda table: rows.writerows(
                map(_cells, zip(*(table[name].to_pylist() for name in self._schema.names)))
            )
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def write(self, names: Sequence[str], columns: Columns, faults: Mapping[int, str]) -> None:
        """Write the rows of a batch.

        names: of all files. faults: the reasons by place in ``names``.
        columns: of the files that could be read; empty where there are none.
        """
        place = np.zeros(len(names), np.int64)
        readable = np.array([number not in faults for number in range(len(names))], bool)
        place[readable] = np.arange(readable.sum())
        rows = pyarrow.array(place, mask=~readable)
        arrays: dict[str, Any] = {FILE: [escape_unprintable(name) for name in names]}
        for field in list(self._schema)[1:-1]:
            values = pyarrow.array(columns.get(field.name, []), type=field.type)
            arrays[field.name] = values.take(rows)
        arrays[ERROR] = [faults.get(number) for number in range(len(names))]
        self._write(pyarrow.table(arrays, schema=self._schema))


def check_format(path: Path) -> None:
    """Raise ``ConfigError`` for an ending that is not of ``FORMATS``."""
    if path.suffix.lower() not in FORMATS:
        raise ConfigError("--out", str(path), f"its ending must be {' or '.join(FORMATS)}")


def _cells(row: Sequence[Any]) -> list[Any]:
    """One row as CSV has it; nine digits hold every float32."""
    return [
        json.dumps(cell, ensure_ascii=False)
        if isinstance(cell, list)
        else f"{cell:.9g}"
        if isinstance(cell, float)
        else cell
        for cell in row
    ]
