"""The files of one split of a dataset: Arrow IPC streams, written and read in bounded memory.

A split is one file, ``train.arrow``, or shards of at most ``SHARD_BYTES``,
``train-00000-of-00002.arrow`` and so on.

Columns: ``image`` (binary), ``label`` (int64, null without a label) and ``source`` (string, the
file or row of the image's origin). The schema's metadata says under the key ``prosmin`` how to read
``image``.

pyarrow is loaded by those who read or write a file, so that training and evaluation of images in
memory work without it.
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from prosmin.common.errors import UserError, reason, shown

if TYPE_CHECKING:
    import pyarrow

SPLITS = ("train", "val", "test")
RAW_SIDE = 64  # pixels; for smaller images, time of decoding matters more than space on the disk
NO_LABEL = -1
HUMAN_LABELS = "human_labels.safetensors"
"""The file beside the splits of a dataset whose test images people have labelled."""

SHARD_BYTES = 2**30

_KEY = b"prosmin"
_BATCH_ROWS = 4096
_BATCH_BYTES = 16 * 2**20


def split_files(path: Path) -> list[Path]:
    """Return the files of a split that is called ``path``, such as ``train.arrow``, in order.

    Raises ``UserError`` where a file is missing.
    """
    if path.exists():
        return [path]
    shards = sorted(path.parent.glob(f"{path.stem}-?????-of-?????.arrow"))
    if not shards:
        raise UserError(f"{path} does not exist")
    expected = [shard_name(path.stem, place, len(shards)) for place in range(len(shards))]
    if [shard.name for shard in shards] != expected:
        raise UserError(
            f"{path.parent} holds {len(shards)} shards of {path.stem}, the last {shards[-1].name}; "
            "some are missing, so fetch it again"
        )
    return shards


def shard_name(split: str, place: int, count: int) -> str:
    """Return the name of a file of a split that has ``count`` files."""
    return f"{split}.arrow" if count == 1 else f"{split}-{place:05d}-of-{count:05d}.arrow"


@dataclass(frozen=True)
class Layout:
    """How to read the column ``image``.

    encoding: ``raw``, uint8 pixels [height, width, channels], all images of one size; or
        ``encoded``, an 8-bit JPEG or PNG of any size.
    channels: of the decoded images; with 3, encoded images may be grey.
    height, width: of raw images, in pixels; None for encoded images.
    """

    encoding: Literal["raw", "encoded"]
    channels: int
    height: int | None = None
    width: int | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of raw images. Raises ``ValueError`` for encoded images."""
        if self.height is None or self.width is None:
            raise ValueError("it gives the images no size")
        return self.height, self.width, self.channels

    def schema(self) -> "pyarrow.Schema":
        """Return the columns, and this layout as metadata."""
        import pyarrow

        columns = [
            ("image", pyarrow.binary()),
            ("label", pyarrow.int64()),
            ("source", pyarrow.string()),
        ]
        return pyarrow.schema(columns, metadata={_KEY: json.dumps(asdict(self)).encode()})


class SplitWriter:
    """Write one split row by row; memory holds one record batch (4096 rows or 16 MiB)."""

    def __init__(self, path: str | Path, layout: Layout):
        import pyarrow

        self._schema = layout.schema()
        self._file = pyarrow.OSFile(str(path), "wb")
        self._stream = pyarrow.ipc.new_stream(self._file, self._schema)
        self._rows: list[tuple[bytes, int | None, str]] = []
        self._bytes = 0

    def add(self, image: bytes, label: int, source: str) -> None:
        """Write one row. image: as the layout says. label: -1 for none."""
        self._rows.append((image, None if label == NO_LABEL else label, source))
        self._bytes += len(image)
        if len(self._rows) >= _BATCH_ROWS or self._bytes >= _BATCH_BYTES:
            self._flush()

    def _flush(self) -> None:
        import pyarrow

        if self._rows:
            columns = [
                pyarrow.array(column, field.type)
                for column, field in zip(zip(*self._rows), self._schema)
            ]
            self._stream.write_batch(pyarrow.record_batch(columns, schema=self._schema))
        self._rows, self._bytes = [], 0

    def __enter__(self) -> "SplitWriter":
        return self

    def close(self) -> None:
        """Write the rows that memory still holds, and close the file."""
        self._flush()
        self.abandon()

    def abandon(self) -> None:
        """Close the file as it is."""
        self._stream.close()
        self._file.close()

    def __exit__(self, *error: Any) -> None:
        if error[0] is None:
            self.close()
        else:
            self.abandon()


class SplitReader:
    """The rows of one split, mapped into memory: the system reads pages when they are used.

    path: of the split, such as ``train.arrow``, also where the split has several files.

    layout: of the images.
    table: the three columns, in record batches.

    Raises ``UserError`` for a file that does not exist or is damaged.
    """

    def __init__(self, path: str | Path):
        import pyarrow

        path = Path(path)
        try:
            tables = [
                pyarrow.ipc.open_stream(pyarrow.memory_map(str(file))).read_all()
                for file in split_files(path)
            ]
            if len({table.schema.metadata[_KEY] for table in tables}) > 1:
                raise ValueError("its shards have different layouts")
            self.table = pyarrow.concat_tables(tables)  # without a copy
            self.layout = Layout(**json.loads(self.table.schema.metadata[_KEY]))
            self._check()
        except UserError:
            raise
        except FileNotFoundError:
            raise UserError(f"{path} does not exist") from None
        except Exception as error:  # Arrow, JSON and Python raise different types
            raise UserError(
                f"{path} is damaged or no split of a dataset ({reason(error)}); fetch it again"
            ) from None
        self._path = path
        self._images = self.table["image"]  # made once: the table would look it up for every row

    def _check(self) -> None:
        """Raise ``ValueError`` for columns that contradict the layout. Images are not decoded."""
        from pyarrow import compute

        layout, columns = self.layout, self.table.schema.names
        if layout.encoding not in ("raw", "encoded") or layout.channels not in (1, 3):
            raise ValueError(f"its layout is {shown(asdict(layout))}")
        if not self.table.schema.equals(layout.schema(), check_metadata=False):
            raise ValueError(f"its columns are {', '.join(columns)}")
        self.table.validate(full=True)
        if self.table["image"].null_count or self.table["source"].null_count:
            raise ValueError("an image or its source is missing")
        if layout.encoding == "raw":
            lengths = compute.binary_length(self.table["image"])
            ends = set(compute.min_max(lengths).as_py().values())
            if min(layout.shape) < 1 or len(self) and ends != {math.prod(layout.shape)}:
                size = " x ".join(map(str, layout.shape))
                raise ValueError(f"an image has another size than {size}")

    def check_labels(self, classes: int) -> None:
        """Raise ``UserError`` for labels outside of 0 to ``classes`` - 1."""
        from pyarrow import compute

        ends = compute.min_max(self.table["label"]).as_py()
        if ends["max"] is not None and not 0 <= ends["min"] <= ends["max"] < classes:
            wrong = ends["min"] if ends["min"] < 0 else ends["max"]
            raise UserError(
                f"{self._path} is damaged: it holds label {wrong} of {classes} classes; "
                "fetch it again"
            )

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def labels(self) -> NDArray[np.int64]:
        """Return the labels of all rows, int64 [N], -1 for none."""
        labels = np.full(len(self), NO_LABEL, np.int64)
        end = 0
        for part in self.table["label"].chunks:
            end += len(part)
            # By DLPack: pyarrow's own conversions load pandas where it is installed.
            known = np.from_dlpack(part.is_valid().cast("uint8")) > 0
            labels[end - len(part) : end][known] = np.from_dlpack(part.drop_null())
        return labels

    def image(self, row: int) -> "pyarrow.Buffer":
        """Return the stored bytes of an image."""
        return self._images[row].as_buffer()

    def sources(self) -> list[str]:
        """Return the file or row that each image came from, by row."""
        names: list[str] = self.table["source"].to_pylist()
        return names

    def source(self, row: int) -> str:
        """Return the file or row that an image came from."""
        return str(self.table["source"][row].as_py())
