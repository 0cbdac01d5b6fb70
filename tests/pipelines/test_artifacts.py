"""The plots on the page of a run: those that the files allow."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from pipelines.artifacts import plots


def declared(path: Path, **settings: str) -> SimpleNamespace:
    out = SimpleNamespace(fs_path=str(path), plot={"x": "epoch", "title": path.stem, **settings})
    return SimpleNamespace(index=SimpleNamespace(plots=[out]))


@pytest.mark.parametrize(
    ("content", "drawn"),
    [
        ("epoch,rankme,knn_accuracy\n0,3.1,0.2\n1,4.5,0.4\n", 1),
        ("epoch,rankme\n0,3.1\n1,4.5\n", 0),  # of images without labels
        ("epoch,rankme,knn_accuracy\n", 0),
    ],
)
def test_a_plot_without_its_column_or_rows_is_left_out(tmp_path, content, drawn):
    path = tmp_path / "diagnostics.csv"
    path.write_text(content)
    assert len(plots(declared(path, y="knn_accuracy"))) == drawn
