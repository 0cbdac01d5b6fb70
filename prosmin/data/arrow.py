"""The file behind one split of a dataset: an Arrow IPC stream that is written and read in bounded memory.

Columns: ``image`` (binary), ``label`` (int64, null where there is none) and ``source`` (string: the file or row
that the image came from). The schema's metadata says under the key ``prosmin`` how ``image`` is to be read.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow
import pyarrow.compute

from prosmin.common.errors import UserError, reason, shown

SPLITS = ("train", "val", "test")
RAW_SIDE = 64  # pixels: up to here decoding costs more time than the raw bytes cost space
NO_LABEL = -1

_KEY = b"prosmin"
_BATCH_ROWS = 4096
_BATCH_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Layout:
    """How the column ``image`` is read.

    encoding: ``raw``, uint8 pixels [height, width, channels], all images of one size; or ``encoded``, an 8-bit JPEG
        or PNG of any size, so that ``height`` and ``width`` are None;
    channels: of the images once they are decoded; with 3, encoded ones may be grey.
    """

    encoding: Literal["raw", "encoded"]
    channels: int
    height: int | None = None
    width: int | None = None

    def schema(self) -> pyarrow.Schema:
        columns = [
            ("image", pyarrow.binary()),
            ("label", pyarrow.int64()),
            ("source", pyarrow.string()),
        ]
        return pyarrow.schema(columns, metadata={_KEY: json.dumps(asdict(self)).encode()})


class SplitWriter:
    """Write one split row by row; what is held in memory is one record batch (4096 rows or 16 MiB)."""

    def __init__(self, path: str | Path, layout: Layout):
        self._schema = layout.schema()
        self._file = pyarrow.OSFile(str(path), "wb")
        self._stream = pyarrow.ipc.new_stream(self._file, self._schema)
        self._rows: list[tuple[bytes, int | None, str]] = []
        self._bytes = 0

    def add(self, image: bytes, label: int, source: str) -> None:
        self._rows.append((image, None if label == NO_LABEL else label, source))
        self._bytes += len(image)
        if len(self._rows) >= _BATCH_ROWS or self._bytes >= _BATCH_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            columns = [
                pyarrow.array(column, field.type)
                for column, field in zip(zip(*self._rows), self._schema)
            ]
            self._stream.write_batch(pyarrow.record_batch(columns, schema=self._schema))
        self._rows, self._bytes = [], 0

    def __enter__(self) -> "SplitWriter":
        return self

    def __exit__(self, *error: Any) -> None:
        if error[0] is None:
            self._flush()
        self._stream.close()
        self._file.close()


class SplitReader:
    """The rows of one split, mapped into memory: only the pages that are looked at are read.

    layout: of the images; table: the three columns, in record batches.
    """

    def __init__(self, path: str | Path):
        path = Path(path)
        try:
            self.table = pyarrow.ipc.open_stream(pyarrow.memory_map(str(path))).read_all()
            self.layout = Layout(**json.loads(self.table.schema.metadata[_KEY]))
            self._check()
        except FileNotFoundError:
            raise UserError(f"{path} does not exist") from None
        except Exception as error:  # Arrow, JSON and Python each have their own for what is damaged
            raise UserError(
                f"{path} is damaged or no split of a dataset ({reason(error)}); fetch it again"
            ) from None
        self._path = path

    def _check(self) -> None:
        """Raise ``ValueError`` where the columns are not as the layout says; what they hold is looked at when it is read."""
        layout, columns = self.layout, self.table.schema.names
        if layout.encoding not in ("raw", "encoded") or layout.channels not in (1, 3):
            raise ValueError(f"its layout is {shown(asdict(layout))}")
        if not self.table.schema.equals(layout.schema(), check_metadata=False):
            raise ValueError(f"its columns are {', '.join(columns)}")
        self.table.validate(full=True)
        if self.table["image"].null_count or self.table["source"].null_count:
            raise ValueError("an image or its source is missing")
        if layout.encoding == "raw":
            size = layout.height * layout.width * layout.channels
            ends = pyarrow.compute.min_max(
                pyarrow.compute.binary_length(self.table["image"])
            ).as_py()
            if min(layout.height, layout.width) < 1 or len(self) and set(ends.values()) != {size}:
                raise ValueError(
                    f"an image has another size than {layout.height} x {layout.width} x {layout.channels}"
                )

    def check_labels(self, classes: int) -> None:
        """Raise ``UserError`` unless each label is the number of one of so many classes, or there is none."""
        ends = pyarrow.compute.min_max(self.table["label"]).as_py()
        if ends["max"] is not None and not 0 <= ends["min"] <= ends["max"] < classes:
            wrong = ends["min"] if ends["min"] < 0 else ends["max"]
            raise UserError(
                f"{self._path} is damaged: it holds label {wrong} of {classes} classes; fetch it again"
            )

    def __len__(self) -> int:
        return self.table.num_rows

    def image(self, row: int) -> pyarrow.Buffer:
        return self.table["image"][row].as_buffer()

    def source(self, row: int) -> str:
        return self.table["source"][row].as_py()
