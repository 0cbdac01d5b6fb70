"""Small datasets of every source, and the stage that fetches them."""

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from stages import fetch
from stages.common.command import run

ROOT = Path(__file__).parents[3]
GOOD = {"source": "builtin", "name": "digits"}


def picture(value: int, mode: str = "L", size: int = 8) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, (size, size), value if mode == "L" else (value, value, 0)).save(stream, "PNG")
    return stream.getvalue()


def images(*files: str, mode: str = "L") -> None:
    for value, name in enumerate(files):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(picture(value, mode))


def classes(count: int = 6, root: str = "in") -> None:
    images(*(f"{root}/{name}/{number}.png" for name in ("cat", "dog") for number in range(count)))


def table(name: str = "in.parquet", labels: Any = (0, 1, 0, 1, 0, 1, 0, 1), **columns: Any) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    kind = columns.pop("kind", None)
    whole = {
        "image": [{"bytes": picture(row), "path": None} for row in range(len(labels))],
        "label": pyarrow.array(labels, kind),
        **columns,
    }
    pq.write_table(
        pyarrow.table({key: column for key, column in whole.items() if column is not None}), name
    )


def named_table(labels: list[int], names: list[str], name: str = "in.parquet") -> None:
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=names))
    rows = {
        "image": [{"bytes": picture(row), "path": None} for row in range(len(labels))],
        "label": labels,
    }
    pq.write_table(pyarrow.table(rows).cast(features.arrow_schema), name)


def paths_alone(name: str) -> pyarrow.Array:
    """Eight rows that hold no bytes, but the absolute path of a file."""
    kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    return pyarrow.array([{"bytes": None, "path": str(Path(name).resolve())}] * 8, kind)


FOLDER = {"source": "folder", "path": "in"}
PARQUET = {"source": "parquet", "files": {"train": "in.parquet"}}
HUB = {"source": "hub", "repo": "in", "revision": "0" * 40, "splits": {"train": "train"}}


def configure(mine: dict[str, Any]) -> None:
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["fetch"]["mine"] = mine
    Path("params.yaml").write_text(yaml.safe_dump(params))


def start(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of ``python -m stages.fetch`` with these arguments, in this process."""
    monkeypatch.setattr(sys, "argv", ["fetch", *arguments])
    try:
        run("fetch", fetch.main)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def start_process(
    *arguments: str, python: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HF_HOME": "cache"}
    command = [sys.executable, *python, "-m", "stages.fetch", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment)
