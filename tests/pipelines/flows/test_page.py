"""The page of a run: its plan, the metrics that have changed, and the plots that files allow."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipelines.flows.page import CURVES, announce, draw, metrics_against_commit, plots
from pipelines.plan import Plan, Step
from prosmin.common.files import write_json
from stages.params.load import load

ROOT = Path(__file__).parents[3]


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


def test_the_plan_is_a_table_of_the_run(monkeypatch):
    tables = {}
    prefect = SimpleNamespace(
        create_table_artifact=lambda table, key, description: tables.update(
            {key: (table, description)}
        )
    )
    monkeypatch.setitem(sys.modules, "prefect.artifacts", prefect)
    steps = (
        Step("knn", ("knn.k was 1 and is 2", "after embed"), 3.2, 2**30),
        Step("linear", ("x",), None),
    )
    announce(Plan(steps, (), ("embed", "knn", "linear"), 3.2, ("spare",)))
    table, description = tables["plan"]
    assert table == [
        {
            "stage": "knn",
            "why": "knn.k was 1 and is 2; after embed",
            "last took": "3 s",
            "last held": "1.0 GiB",
        },
        {"stage": "linear", "why": "x", "last took": "", "last held": ""},
    ]
    assert description.startswith("2 of 3 stages will run: about 3 s and 1 that have not run here")
    assert "fetch.spare is used by no stage" in description


def test_after_some_stages_their_headline_numbers_are_compared_with_the_commit(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    write_json("metrics/linear.json", {"trained": {"accuracy": 0.9, "ece": 0.02}})
    write_json("metrics/knn.json", {"trained": {"accuracy": 0.8}})
    committed = {"data": {"linear": 0.85, "ece": 0.02, "knn": 0.7}}
    leaf = {"trained.accuracy": {"old": 1, "new": 2, "diff": 1}}
    paths = ["metrics/leaf/one.json", "metrics/old.json"]
    outs = [SimpleNamespace(def_path=path) for path in (*paths, "plots/old.csv", "results/leaf")]
    metrics = SimpleNamespace(
        diff=lambda a_rev, targets: {"diff": dict.fromkeys(targets, leaf)},
        show=lambda path, revs: {"HEAD": {"data": {path: committed}}},
    )
    stale = {"metrics/knn.json", "metrics/old.json", "summary.json"}
    params = load(ROOT / "params.yaml")
    repo = SimpleNamespace(index=SimpleNamespace(outs=outs), metrics=metrics)
    assert metrics_against_commit(repo, params, stale) == [
        {"metric": "leaf/one: trained.accuracy", "old": 1, "new": 2, "diff": 1},
        {"metric": "summary: linear", "old": 0.85, "new": 0.9, "diff": 0.05},
    ]
