"""Parquet files give the images, labels and classes that are in them."""

import numpy as np
import pyarrow
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prosmin.common.errors import ConfigError, UserError
from prosmin.data.picture import Unreadable, decode
from prosmin.fetching.parquet import human_labels, parquet
from tests.prosmin.fetching.samples import place, table, values


@pytest.mark.parametrize("image", ["struct", "binary"])
@pytest.mark.parametrize("kind", ["int64", "int8", "uint16"])
def test_parquet_images_and_labels_arrive_whole(tmp_path, image, kind):
    labels = [3, 1, 1, 3, 2, 1, 2]
    path = table(tmp_path / "a.parquet", labels, kind=kind, image=image, groups=3)
    source = parquet({"train": path})
    assert source.classes == ("1", "2", "3")
    assert values(source.splits["train"]) == list(range(7))
    assert [source.classes[label] for label in source.splits["train"].labels] == [
        str(label) for label in labels
    ]


@given(st.sets(st.integers(0, 39)))
@settings(max_examples=30, deadline=None)
def test_any_rows_of_any_files_can_be_taken(tmp_path_factory, rows):
    root = tmp_path_factory.mktemp("shards")
    table(root / "train-0.parquet", [0] * 25, groups=7)
    table(root / "train-1.parquet", [1] * 15, start=25, groups=4)
    chosen = np.array(sorted(rows), dtype=np.int64)
    for path in (str(root), str(root / "train-*.parquet")):
        images = parquet({"train": path}).splits["train"]
        assert len(images) == 40
        assert values(images.take(chosen)) == sorted(rows)
    names = [name for _, _, name in images.take(chosen)]
    assert names == [
        f"train-0.parquet:{row}" if row < 25 else f"train-1.parquet:{row - 25}"
        for row in sorted(rows)
    ]


def test_class_names_are_read_from_the_metadata_of_the_datasets_library(tmp_path):
    path = table(tmp_path / "a.parquet", [0, 1, 0], names=["plane", "bird"])
    source = parquet({"train": path})
    assert source.classes == ("plane", "bird")
    assert source.splits["train"].labels.tolist() == [0, 1, 0]


def test_the_label_column_is_not_needed_for_unlabelled_images(tmp_path):
    path = table(tmp_path / "a.parquet", [-1, 7, 99])
    source = parquet({"train": path}, label=None)
    assert source.classes is None
    assert source.splits["train"].labels.tolist() == [-1, -1, -1]
    assert values(source.splits["train"]) == [0, 1, 2]


def test_a_row_of_a_parquet_file_names_no_file(tmp_path):
    place(tmp_path, "own.png")
    rows = {"image": [{"bytes": None, "path": "own.png"}, {"bytes": b"", "path": "own.png"}]}
    pq.write_table(pyarrow.table(rows), tmp_path / "a.parquet")
    source = parquet({"train": str(tmp_path / "a.parquet")}, label=None)
    for image, _, _ in source.splits["train"]:
        with pytest.raises(Unreadable, match="only the path of a file, which is not read"):
            decode(image)


# --- labels of people -----------------------------------------------------------------------------


def human(path, **columns) -> str:
    pq.write_table(pyarrow.table(columns), path)
    return str(path)


def test_labels_of_people_are_shares_in_the_order_of_the_classes(tmp_path):
    path = human(tmp_path / "a.parquet", p1=[0.2501, 1], other=["x", "y"], p0=[0.75, 0])
    shares = human_labels(path)
    assert shares.dtype == np.float32
    np.testing.assert_allclose(shares, [[0.75, 0.25], [0, 1]], atol=1e-4)
    np.testing.assert_allclose(shares.sum(1), 1, atol=1e-7)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"p0": [1.0]}, "must have a column per class, p0, p1, ...; it has p0"),
        ({"p0": [1.0], "p2": [0.0]}, "must have a column per class"),
        ({"p0": ["a"], "p1": ["b"]}, "column p0 of .* holds string; it must hold numbers"),
        ({"p0": [1.0, 0.5], "p1": [0.0, 0.4]}, r"row 1 of .* holds \[0.5, 0.4\]; shares must"),
        ({"p0": [1.5], "p1": [-0.5]}, "row 0 of .*; shares must be at least 0"),
        ({"p0": [1.0, None], "p1": [0.0, 1.0]}, "row 1 of .*; shares must be at least 0"),
        ({"p0": [float("nan")], "p1": [1.0]}, "row 0 of .*; shares must be at least 0"),
    ],
)
def test_labels_of_people_that_are_no_shares_are_refused(tmp_path, columns, message):
    with pytest.raises(UserError, match=message):
        human_labels(human(tmp_path / "a.parquet", **columns))


def test_a_file_that_is_no_table_of_people_is_refused(tmp_path):
    (tmp_path / "a.parquet").write_text("p0,p1")
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        human_labels(str(tmp_path / "a.parquet"))
    with pytest.raises(ConfigError, match="^human_labels is .*; there is no such Parquet file$"):
        human_labels(str(tmp_path / "b.parquet"))
