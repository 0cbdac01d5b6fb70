"""Runs with other settings: DVC experiments, made beside the folder and not in it."""

import contextlib
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from dvc.cli import main

from pipelines.flows.grid import Sweep, prepare
from pipelines.graph.experiment import apply, check, experiment, fit_summary
from pipelines.graph.healing import keeping_checkpoints
from prosmin.common.errors import UserError
from prosmin.common.files import write_json
from stages.common import layout
from stages.params.load import load
from tests.pipelines.clones import ROOT, edit, noted
from tests.pipelines.flows.test_graph_flow import outcomes
from tests.pipelines.projects import until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(200)]


def test_set_makes_an_experiment_and_leaves_the_folder_as_it_was(project):
    project.run("dvc", "repro", "-q")
    project.commit()
    (project.folder / "work.py").write_text(
        (project.folder / "work.py").read_text() + "# an edit that is not committed\n"
    )
    before, status = project.left(), project.git("status", "--short")
    said = project.flow("--set", "pretrain.epochs=3", "knn.k=[1, 7]", "--name", "first")
    assert set(outcomes(said).values()) == {"ran"}  # the edit is part of it
    assert (project.left(), project.git("status", "--short"), project.git("stash", "list")) == (
        before,
        status,
        "",
    )
    assert not list((project.folder / ".prosmin/experiments").iterdir())
    shown = json.loads(project.run("dvc", "params", "diff", "--json", "main", "first"))
    assert shown["params.yaml"] == {
        "pretrain.epochs": {"old": 80, "new": 3, "diff": -77},
        "knn.k": {"old": "[1, 5, 10, 20, 50]", "new": "[1, 7]"},
    }
    metrics = json.loads(project.run("dvc", "metrics", "diff", "--json", "main", "first"))
    assert len(metrics) == 2
    assert "first" in project.run("dvc", "exp", "list")
    assert "an experiment first already" in project.flow("--name", "first", expect=2)

    changes = ["-S", "pretrain.epochs=3", "-S", "knn.k=[1, 7]"]
    project.run("dvc", "exp", "run", "--temp", *changes, "--name", "theirs")
    saved = [
        line.split()[0]
        for line in project.git("show-ref").splitlines()
        if line.endswith(("/first", "/theirs"))
    ]
    assert len(saved) == 2
    assert (
        project.git("diff", "--stat", *saved, "--", ".", ":!.dvc/tmp") == ""
    )  # DVC keeps a note of its own there

    project.git("checkout", "-q", "work.py")
    project.run("dvc", "exp", "apply", "first")
    assert "up to date" in project.run("dvc", "status")


def test_an_experiment_that_fails_leaves_neither_a_result_nor_a_folder(project):
    said = project.flow(
        "middle", "--set", "pretrain.epochs=3", "--name", "broken", expect=1, BREAK="middle"
    )
    assert "middle failed" in said and outcomes(said)["source@a"] == "ran"
    assert "broken" not in project.run("dvc", "exp", "list")
    assert not list((project.folder / ".prosmin/experiments").iterdir())
    assert project.flow("--set", "pretrain.epochs=-3", expect=1).splitlines()[-1] == (
        "error: params.yaml: pretrain.epochs is -3; it must be at least 1"
    )


def test_an_experiment_that_did_not_end_finds_its_checkpoints_again(project, monkeypatch):
    monkeypatch.chdir(project.folder)
    for name in ("name", "email"):
        project.git("config", f"user.{name}", "test@example.org")
    alone = layout.checkpoints()
    with experiment(["seed=3"], "one") as running:
        kept = layout.checkpoints()
        assert kept == running.checkpoints and running.folder not in kept.parents
        (kept / "key").mkdir()
        with contextlib.chdir(running.origin), keeping_checkpoints("one") as taken:
            assert taken is None and layout.checkpoints() == kept
    assert layout.checkpoints() == alone and not running.folder.exists()
    with experiment(["seed=3"], "one") as running:
        assert (layout.checkpoints() / "key").is_dir()
        assert main(["repro", "-q", "source@a"]) == 0
        running.save("source@a", {})
        assert not kept.exists()


ODD = [
    ("export.license=${oc.env:SECRET,none}", "must not hold '${'"),
    ("seed='${oc.decode:1}'", "must not hold '${'"),
    ("knn.k=[1,${now:%Y}]", "must not hold '${'"),
    ("pretrain.epochs=range(1,3)", "it must be one value"),
    ("pretrain.epochs=glob(*)", "it must be one value"),
    ("pretrain.epochs=choice(1,2)", "it must be one value"),
    ("pretrain.epochs=1,2", "it must be one value"),
    ("pretrain.epochs=interval(1,2)", "it must be one value"),
    ("pretrain.epochs=[1", "cannot be read"),
    ("pretrain.epochs=" + "9" * 5000, "is too long or too deep to be read"),
    ("pretrain.epochs=" + "9" * 4000, "is too long or too deep to be read"),
]


@pytest.mark.parametrize(("change", "says"), ODD, ids=[change[:30] for change, _ in ODD])
def test_a_change_is_one_value_as_it_stands(project, monkeypatch, change, says):
    """From the command line, from the form of the dashboard and from the grid of a sweep."""
    monkeypatch.chdir(project.folder)
    monkeypatch.setenv("SECRET", "token")
    key, _, value = change.partition("=")
    sweep = Sweep(grid={key: [value]}, rank="metrics/a.json:b", lowest=True)
    for refuse in (lambda: check([change]), lambda: prepare(sweep)):
        with pytest.raises(UserError, match=re.escape(says)) as caught:
            refuse()
        assert (
            str(caught.value).startswith(f"{key} is ") and len(str(caught.value).splitlines()) == 1
        )
        assert "token" not in str(caught.value)
    check(["pretrain.epochs=3", "knn.k=[1, 7]", "export.license='range(1,3)'"])


def test_params_hold_no_reference_to_what_is_elsewhere(project, monkeypatch):
    monkeypatch.chdir(project.folder)
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("license: null", "license: x-${oc.env:HOME}"))
    for refuse in (load, lambda: check(["seed=1"]), lambda: apply(["seed=1"])):
        with pytest.raises(
            UserError, match=r"params.yaml holds .*'x-\$\{oc.env:HOME\}' holds '\$\{'"
        ):
            refuse()
    assert "oc.env:HOME" in Path("params.yaml").read_text()


@pytest.mark.parametrize(
    "snapshot", ["--upload-pack=x", "HEAD", "main", "a" * 40 + "+--help", "../x"]
)
def test_a_snapshot_is_the_id_of_a_commit(project, monkeypatch, snapshot):
    monkeypatch.chdir(project.folder)
    with (
        pytest.raises(UserError, match="snapshot is .* the full id of a commit"),
        experiment([], "x", snapshot),
    ):
        pass


def test_plain_dvc_sweeps_too(project):
    """DVC's queue, as docs/orchestration.md has it: two at a time, then what its workers lost."""
    missing = grid = [(1, 3), (1, 4), (2, 3), (2, 4)]
    queue = ("dvc", "exp", "run", "--queue")
    project.run(*queue, "-S", "seed=range(1,3)", "-S", "pretrain.epochs=3,4", "middle")
    for _ in range(4):
        assert project.run("dvc", "queue", "status").count("Queued") == len(missing)
        project.run("dvc", "queue", "start", "-j", "2")
        # DVC's own answer takes a second of CPU.
        until(lambda: not project.processes() and at_rest(project), 100)
        shown = json.loads(project.run("dvc", "exp", "show", "--json"))
        (head,) = [commit for commit in shown if commit["rev"] != "workspace"]
        values = [
            experiment["revs"][0]["data"]["params"]["params.yaml"]["data"]
            for experiment in head["experiments"] or ()
        ]
        made = sorted((params["seed"], params["pretrain"]["epochs"]) for params in values)
        missing = [point for point in grid if point not in made]
        if not missing:
            break
        project.run("dvc", "queue", "remove", "--all")
        for seed, epochs in missing:
            changes = ("-S", f"seed={seed}", "-S", f"pretrain.epochs={epochs}")
            project.run(*queue, *changes, "middle")
    assert made == grid
    assert project.git("status", "--short") == ""


def at_rest(project) -> bool:
    said = project.run("dvc", "queue", "status")
    return not {"Queued", "Running"} & set(said.split()) and "0 active, 0 idle" in said


SUMMED = """
stages:
  linear: {cmd: x, params: [linear], outs: [metrics/linear.json: {cache: false}]}
  knn: {cmd: x, params: [knn], outs: [metrics/knn.json: {cache: false}]}
  report: {cmd: x, deps: [metrics], metrics: [summary.json: {cache: false}]}
"""


def test_after_some_stages_the_summary_has_their_numbers_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    Path("dvc.yaml").write_text(SUMMED)
    for name in ("linear", "knn"):
        write_json(f"metrics/{name}.json", {"trained": {"accuracy": 0.9}})
    write_json("summary.json", {"linear": 0.9, "knn": 0.9})
    Path("dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": dict(noted())}))
    whole = Path("summary.json").read_bytes()
    fit_summary()
    assert Path("summary.json").read_bytes() == whole
    edit(tmp_path, {"linear.bootstrap": 500})
    fit_summary()
    assert json.loads(Path("summary.json").read_text()) == {"knn": 0.9}
