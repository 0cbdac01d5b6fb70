"""Pictures, files and tables that tests of several sources share."""

import io
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet as pq
from PIL import Image

from prosmin.data.picture import decode
from prosmin.fetching.sources import Images


def picture(value: int, size: tuple[int, int] = (8, 8), mode: str = "L") -> bytes:
    """Return a PNG of one colour, so that its value identifies the image."""
    stream = io.BytesIO()
    colour = value if mode == "L" else (value, 0, 0)
    Image.new(mode, size, colour).save(stream, "PNG")
    return stream.getvalue()


def values(images: Images) -> list[int]:
    """Return the values of images made by ``picture``."""
    return [int(decode(image).flat[0]) for image, _, _ in images]


def place(root: Path, *files: str) -> None:
    """Write PNG files whose grey value is their position in the list."""
    for value, name in enumerate(files):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(picture(value))


def table(
    path: Path,
    labels,
    *,
    kind=None,
    image: str = "struct",
    start: int = 0,
    names=None,
    groups: int = 1000,
) -> str:
    """Write a Parquet file of pictures with these labels and return its path."""
    contents = [picture(start + row) for row in range(len(labels))]
    if image == "struct":
        contents = [{"bytes": content, "path": None} for content in contents]
    columns = {"image": contents, "label": pyarrow.array(labels, kind)}
    built = pyarrow.table(columns)
    if names:
        features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=names))
        built = built.cast(features.arrow_schema)
    pq.write_table(built, path, row_group_size=groups)
    return str(path)
