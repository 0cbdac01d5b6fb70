"""The runs of a study: merged changes, names, folders, settings refused before anything runs."""

from pathlib import Path

import pytest
import yaml

from pipelines.flows.grid import written
from pipelines.graph.experiment import apply
from pipelines.study.file import Study, load_study
from pipelines.study.plan import (
    Plan,
    check_run,
    in_place,
    located,
    merged,
    parsed,
    plan_of,
    quoted,
)
from prosmin.common.errors import UserError
from stages.params.load import load
from tests.pipelines.projects import ROOT
from tests.pipelines.study.test_file import SMALL, changed


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    return tmp_path


def test_a_change_below_a_section_changes_the_section():
    assert merged(
        {"a": 1, "b.c": 2}, {"o": {"name": "x", "t": 1}, "b": {"d": 3}}, {"o.t": 5, "o.u.v": 6}
    ) == {"a": 1, "o": {"name": "x", "t": 5, "u": {"v": 6}}, "b": {"d": 3}}


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({}, "untrained"),
        ({"pretrain.initial": None}, "untrained"),
        ({"pretrain.initial": {"source": "run", "path": "/earlier"}}, "initial"),
        ({"pretrain.initial.path": "/earlier"}, "initial"),
    ],
)
def test_the_encoder_before_training_is_named_after_its_weights(given, word):
    study = Study.model_validate(changed(base={**SMALL["base"], **given}))
    assert Plan("small", study, {}).shown(study.test)["random"] == word


def test_the_runs_have_all_changes_and_names_of_their_own():
    plan = Plan("small", Study.model_validate(SMALL), parsed(["corrupt.images=5"]))
    run = plan.choice_run("simclr", 1, {"pretrain.objective.temperature": 0.5})
    assert run.changes == {
        "pretrain.epochs": 1,
        "pretrain.objective": {"name": "simclr", "temperature": 0.5},
        "corrupt.images": 5,
        "pretrain.splits": ["train"],  # val chooses, so nothing learns from it
        "seed": 0,
    }
    assert run.stages == ("linear",) and run.name.startswith("small-simclr-point-1-")
    final = [plan.final_run("prosmin", {"pretrain.lr": lr}, 0) for lr in (0.002, 0.005)]
    assert final[0].changes == {
        "pretrain.epochs": 2,
        "corrupt.images": 5,
        "pretrain.lr": 0.002,
        "seed": 0,
    }
    later = Plan("small", plan.study, plan.overrides, "another commit")
    final.append(later.final_run("prosmin", {"pretrain.lr": 0.002}, 0))
    assert len({run.name for run in final}) == 3  # the choice and the commit are part of the name


@pytest.mark.parametrize("value", ["[1", "!!int ''", "!!bool x", "2026-13-45", "[" * 3000])
def test_a_value_that_is_no_yaml_is_one_sentence(value):
    with pytest.raises(UserError, match=r"^seed is .*, which is not YAML$"):
        parsed([f"seed={value}"])


def test_wrong_settings_are_refused_before_anything_runs(place):
    methods = {
        **SMALL["methods"],
        "simclr": {
            "set": {"pretrain.objective": {"name": "simclr", "tau": 1}},
            "grid": {"pretrain.lr": [0.1, 0.2]},
        },
    }
    Path("s.yaml").write_text(yaml.safe_dump(changed(methods=methods)))
    plan = Plan("s", load_study(Path("s.yaml")), {})
    with pytest.raises(UserError, match=r"^simclr: params.yaml: pretrain.objective.tau is not a "):
        check_run(plan.final_run("simclr", {}, 0), {})
    plan = Plan("s", plan.study, parsed(["pretrain.epoch=3"]))
    with pytest.raises(UserError, match="pretrain.epoch is not in params.yaml"):
        check_run(plan.final_run("prosmin", {}, 0), {})


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ([], "give the folder 'cifar', such as --folder cifar=/a/path"),
        (["cifra=."], "--folder 'cifra=.' must be NAME=PATH, NAME one of: cifar"),
        (["cifar=nowhere"], "--folder cifar is 'nowhere', which is no folder"),
    ],
)
def test_a_folder_that_is_missing_is_one_sentence(place, given, sentence):
    with pytest.raises(UserError) as caught:
        located(Study.model_validate(changed(folders=["cifar"])), given)
    assert str(caught.value) == sentence


def test_a_file_whose_name_cannot_name_experiments_needs_another(place):
    with pytest.raises(UserError, match="^'my study' cannot be the name of a study; give --name"):
        plan_of(Path("my study.yaml"), "my study", [], [])


def test_a_path_with_odd_characters_arrives_as_it_is(place):
    folder = place / "it's a [folder], =1"
    folder.mkdir()
    study = Study.model_validate(changed(folders=["own"]))
    folders = located(study, [f"own={folder}"])
    value = {
        "photos": {"source": "folder", "path": "<own>/train"},
        "digits": {"source": "builtin", "name": "digits"},
    }
    asked = in_place(value, folders)
    assert asked["photos"]["path"] == f"{folder}/train"
    apply(
        [
            f"fetch={written(quoted(asked))}",
            "dataset=photos",
            "ood.sets={digits: near}",
            "transfer.targets=[]",
            "finetune.datasets=[]",
            "uncertainty.datasets=[]",
            "audit.datasets=[photos]",
        ]
    )
    assert load().fetch["photos"].path == f"{folder}/train"


@pytest.mark.parametrize("path", sorted((ROOT / "studies").glob("*.yaml")), ids=lambda p: p.stem)
def test_the_studies_of_the_project_can_be_run(path, place, monkeypatch):
    monkeypatch.setattr("pipelines.study.plan.dag.read", lambda stages: None)
    monkeypatch.setattr("pipelines.study.plan.check", lambda changes: None)  # slow, and tried above
    monkeypatch.setattr("pipelines.study.plan.git", lambda *words, fails: "0" * 40)
    folders = [f"{name}={place}" for name in load_study(path).folders]
    plan, _ = plan_of(path, path.stem, [], folders)
    assert len(plan.study.methods) >= 4
