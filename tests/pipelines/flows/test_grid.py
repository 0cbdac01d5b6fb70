"""The file of a sweep, its points, and the table that ranks them."""

from pathlib import Path

import pytest
from dvc.api import DVCFileSystem

from pipelines.compare.revisions import stale
from pipelines.flows.grid import Sweep, expand, load_sweep, table, written
from pipelines.graph.experiment import apply, check
from prosmin.common.errors import UserError
from stages.params.load import load
from tests.pipelines.clones import edit
from tests.pipelines.projects import ROOT

RANK = "metrics/leaf/one.json:trained.accuracy"


@pytest.mark.integration
@pytest.mark.timeout(200)
def test_what_a_point_has_not_made_is_left_out_though_its_commit_has_it(project, monkeypatch):
    project.run("dvc", "repro", "-q")
    project.commit()
    project.flow("leaf@one", "--set", "pretrain.epochs=5", "--name", "part")
    monkeypatch.chdir(project.folder)
    (row,) = table(
        Sweep(grid={"seed": [0]}, rank=RANK, show=[RANK.replace("one", "two")]),
        {"part": {"seed": 0}},
        {},
    )
    assert row["leaf/one: trained.accuracy"] and row["leaf/two: trained.accuracy"] == ""
    (project.folder.parent / "there").mkdir()
    other = stale(DVCFileSystem(rev="part"), project.folder.parent / "there")
    assert {
        "metrics/leaf/two.json",
        "results/total",
    } <= other and "metrics/leaf/one.json" not in other


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([1, "a"], [1, "a"]),
        ("range(3)", [0, 1, 2]),
        ("range(1, 8, 3)", [1, 4, 7]),
        ("range(2,0,-1)", [2, 1]),
    ],
)
def test_lists_and_ranges_are_expanded(given, expected):
    assert expand(given) == expected


@pytest.mark.parametrize(
    "wrong",
    [
        "range(0)",
        "range(a)",
        "1,2",
        "range(1,2,0)",
        "range(10**9)",
        f"range({10**9})",
        f"range({10**30})",
        [],
    ],
)
def test_what_is_neither_is_refused(wrong):
    assert expand(wrong) == []
    with pytest.raises(ValueError, match="must be a list or a range"):
        Sweep(grid={"seed": wrong}, rank=RANK)


def test_a_sweep_of_more_points_than_anyone_can_run_is_refused():
    with pytest.raises(ValueError, match="there are 1000000 points; there must be at most 10000"):
        Sweep(grid={key: "range(100)" for key in "abc"}, rank=RANK)


def test_every_combination_is_a_point():
    points = Sweep(grid={"a": [1, 2], "b": "range(2)"}, rank=RANK).points()
    assert points == [{"a": 1, "b": 0}, {"a": 1, "b": 1}, {"a": 2, "b": 0}, {"a": 2, "b": 1}]


@pytest.mark.parametrize(
    ("metric", "said", "lowest"),
    [
        ("accuracy_val", None, False),
        ("nll", None, True),
        ("ece_calibrated", None, True),
        ("nll", False, False),
        ("mine", True, True),
    ],
)
def test_the_best_point_is_first_as_its_metric_is_better(metric, said, lowest):
    rank = f"metrics/pieces.json:trained.{metric}"
    assert Sweep(grid={"seed": [1, 2]}, rank=rank, lowest=said).lowest_first is lowest


def test_a_metric_without_a_direction_needs_one():
    with pytest.raises(
        ValueError, match="of which it is not known which way is better; give lowest: true or false"
    ):
        Sweep(
            grid={"seed": [1, 2]}, rank="metrics/prediction/digits.json:trained.clean.coverage_90"
        )


def test_a_wrong_file_is_reported_whole(tmp_path, monkeypatch):
    (tmp_path / "wrong.yaml").write_text("grid: {seed: 3}\nrank: accuracy\nslot: 2\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        load_sweep(Path("wrong.yaml"))
    assert str(caught.value).splitlines() == [
        "wrong.yaml: grid: seed is 3; it must be a list or a range that is not empty, "
        "such as range(1, 9, 2)",
        "wrong.yaml: rank is 'accuracy'; it must be a file and a key in it, "
        "such as metrics/linear.json:trained.accuracy",
        "wrong.yaml: slot is not a known key (did you mean 'lowest'?); "
        "allowed: grid, lowest, rank, show, stages",
    ]


def test_a_section_is_written_in_the_grammar_of_dvc():
    assert written({"name": "dino", "prototypes": 16, "x": None}) == (
        "{name: dino, prototypes: 16, x: null}"
    )


@pytest.mark.parametrize(
    "path", sorted((ROOT / "sweeps").glob("*.yaml")), ids=lambda path: path.stem
)
def test_every_value_of_the_sweeps_that_come_with_the_project_is_allowed(
    path, monkeypatch, tmp_path
):
    """Each value once, and the whole way of a point, which takes a while, for the last one."""
    monkeypatch.chdir(tmp_path)
    points = load_sweep(path).points()
    assert len(points) >= 2
    text, seen = (ROOT / "params.yaml").read_text(), set()
    for point in points:
        values = {(key, written(value)) for key, value in point.items()}
        if values <= seen and point is not points[-1]:
            continue
        seen |= values
        (tmp_path / "params.yaml").write_text(text)
        edit(tmp_path, point)
        params = load()
    (tmp_path / "params.yaml").write_text(text)
    changes = [f"{key}={written(value)}" for key, value in points[-1].items()]
    check(changes)
    apply(changes)
    assert load() == params
