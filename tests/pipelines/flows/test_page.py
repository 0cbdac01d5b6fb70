"""The plots on the page of a run: those that the files allow."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from pipelines.flows.page import CURVES, draw, plots


def declared(path: Path, **settings: str) -> SimpleNamespace:
    plot = {"x": "epoch", "title": path.stem, **settings}
    out = SimpleNamespace(fs_path=str(path), def_path=str(path), plot=plot)
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


def test_of_many_curves_some_of_all_are_drawn_and_the_plot_says_so():
    """The first ones would be those of one encoder alone."""
    table = [
        {"encoder": encoder, "type": f"type{place}", "severity": str(severity), "accuracy": "0.5"}
        for encoder in ("trained", "random") for place in range(15) for severity in (1, 2)
    ]  # fmt: skip
    svg = draw(table, "severity", "accuracy").decode()
    assert f"{CURVES} of 30 curves, drawn at random" in svg
    assert svg.count("<!-- trained") + svg.count("<!-- random") == CURVES
    assert "<!-- trained" in svg and "<!-- random" in svg
    assert "drawn at random" not in draw(table[:16], "severity", "accuracy").decode()
