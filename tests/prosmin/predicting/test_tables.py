"""Parquet and CSV hold the same rows, with the files that could not be read among them."""

import csv
import json

import numpy as np
import pyarrow.parquet
import pytest

from prosmin.common.errors import ConfigError
from prosmin.evaluation.embedding import Embedding
from prosmin.predicting import tables

COLUMNS = {
    "class": ["cat", "dög"],
    "set": [["cat"], ["cat", 'a "dog"']],
    "confidence": np.array([0.5, 1 / 3]),
    "sigma": np.array([1.5, 0.1], np.float32),
    "unusual": np.array([True, False]),
}


def written(path):
    with tables.Table(path, COLUMNS) as table:
        table.write(["a.png", "b.png", "c.png"], COLUMNS, {1: "no image"})
        table.write(["d.png"], {}, {0: "the file is empty"})
    return path


def test_parquet(tmp_path):
    table = pyarrow.parquet.read_table(written(tmp_path / "out.parquet"))
    assert table.column_names == ["file", *COLUMNS, "error"]
    rows = table.to_pylist()
    assert [row["file"] for row in rows] == ["a.png", "b.png", "c.png", "d.png"]
    assert [row["error"] for row in rows] == [None, "no image", None, "the file is empty"]
    assert rows[2] == {
        "file": "c.png",
        "class": "dög",
        "set": ["cat", 'a "dog"'],
        "confidence": 1 / 3,
        "sigma": np.float32(0.1),
        "unusual": False,
        "error": None,
    }
    assert {rows[1][name] for name in COLUMNS} == {None}


def test_csv(tmp_path):
    with open(written(tmp_path / "out.csv"), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == ["a.png", "b.png", "c.png", "d.png"]
    assert json.loads(rows[2]["set"]) == ["cat", 'a "dog"'] and rows[2]["class"] == "dög"
    assert rows[2]["confidence"] == "0.333333333" and rows[2]["unusual"] == "False"
    assert rows[1]["class"] == rows[1]["sigma"] == "" and rows[1]["error"] == "no image"


def test_an_interruption_leaves_the_old_file(tmp_path):
    (tmp_path / "out.csv").write_text("old")
    with pytest.raises(KeyboardInterrupt):
        with tables.Table(tmp_path / "out.csv", COLUMNS) as table:
            table.write(["a.png", "c.png"], COLUMNS, {})
            raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]
    assert (tmp_path / "out.csv").read_text() == "old"


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="its ending must be .parquet or .csv"):
        tables.Table(tmp_path / "out.xlsx", COLUMNS)


def test_an_embedding_is_a_list_per_image_with_its_scores():
    features = np.arange(6, dtype=np.float32).reshape(2, 3)
    columns = tables.of_embedding(Embedding(features, None, {"width": np.ones(2, np.float32)}))
    assert list(columns) == ["features", "width"]
    assert columns["features"] == [[0, 1, 2], [3, 4, 5]]
