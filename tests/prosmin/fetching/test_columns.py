"""Labels become class numbers."""

import pyarrow
import pytest

from prosmin.fetching.parquet import parquet
from tests.prosmin.fetching.samples import table


@pytest.mark.parametrize(
    "kind", [pyarrow.string(), pyarrow.large_string(), pyarrow.dictionary("int8", "string")]
)
def test_text_labels_are_numbered_in_sorted_order(tmp_path, kind):
    path = table(tmp_path / "a.parquet", pyarrow.array(["dog", "cat", "dog"]).cast(kind))
    source = parquet({"train": path, "test": path})
    assert source.classes == ("cat", "dog")
    assert source.splits["test"].labels.tolist() == [1, 0, 1]
