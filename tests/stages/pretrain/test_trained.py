"""The pretrain stage: what it builds, what it records, and what the environment may say."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from sklearn.datasets import load_digits

import prosmin
from prosmin.common import files
from prosmin.common.errors import UserError
from prosmin.objectives import settings as objectives
from stages import (
    audit,
    calibrate,
    corrupt,
    detectors,
    embed,
    fetch,
    finetune,
    knn,
    linear,
    lowshot,
    ood,
    prediction,
    pretrain,
    transfer,
    uncertainty,
)
from stages import export as export_stage
from stages.common import declared, inputs, layout, pretraining
from stages.common.features import load_features
from stages.common.headlines import rows
from stages.params.load import load
from stages.params.pretrain import FileWeights
from stages.report import __main__ as report
from tests.stages.conftest import ROOT


def test_dvc_looks_at_the_whole_section():
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    keys = declared.graph(content, ROOT / "dvc.yaml")["pretrain"].params
    assert keys == ("dataset", "seed", "pretrain")


def changed(params, **changes):
    return params.model_copy(update={"pretrain": replace(params.pretrain, **changes)})


def test_the_path_of_external_weights_is_not_in_the_description_of_a_model(params):
    def told(**changes):
        return pretraining.used(changed(params, **changes))

    here, there = (FileWeights(source="file", path=path) for path in ("here", "/home/there"))
    assert told(external=here) == told(external=there) != told()


def test_the_description_of_a_model_has_the_keys_of_its_objective_alone(params):
    assert (
        pretraining.used(params)["objective"]
        == yaml.safe_load((ROOT / "params.yaml").read_text())["pretrain"]["objective"]
    )
    content = pretraining.used(changed(params, objective=objectives.SimCLR(temperature=0.9)))
    assert content["objective"] == {"name": "simclr", "temperature": 0.9}
    json.dumps(content)


def test_what_is_built_is_what_params_name(params):
    assert pretraining.model_settings(params.pretrain, [0.3], [0.2]).objective is (
        params.pretrain.objective
    )
    outside = changed(params, external=FileWeights(source="file", path="here"))
    built = pretraining.model_settings(outside.pretrain, [0.3], [0.0])
    assert built.objective == objectives.External() and built.std == (0.001,)


@pytest.mark.parametrize("given", ["two", "0", "-1", "1.5", "", "4097", "9" * 5000])
def test_a_number_of_processes_that_is_none_is_refused(monkeypatch, given):
    monkeypatch.setenv("PROSMIN_PROCESSES", given)
    with pytest.raises(
        UserError, match=f"^PROSMIN_PROCESSES is '{given[:50]}.*; it must be a number of processes"
    ):
        pretrain.processes_of(gpus=0)


def test_there_are_no_more_processes_than_gpus(monkeypatch):
    monkeypatch.delenv("PROSMIN_PROCESSES", raising=False)
    assert (pretrain.processes_of(gpus=0), pretrain.processes_of(gpus=4)) == (1, 4)
    monkeypatch.setenv("PROSMIN_PROCESSES", "3")
    assert (pretrain.processes_of(gpus=0), pretrain.processes_of(gpus=4)) == (3, 3)
    with pytest.raises(UserError, match="^PROSMIN_PROCESSES is 3; there are only 2 GPUs"):
        pretrain.processes_of(gpus=2)


@pytest.mark.parametrize("given", ["often", "-1", "nan", "inf"])
def test_a_pause_between_checkpoints_that_is_none_is_refused(monkeypatch, given):
    monkeypatch.setenv("PROSMIN_CHECKPOINT_SECONDS", given)
    with pytest.raises(
        UserError, match=f"^PROSMIN_CHECKPOINT_SECONDS is '{given}'; it must be a number of seconds"
    ):
        pretrain.checkpoints_of("key")


def test_unlabelled_images_go_through_all_stages_to_export_and_report(tmp_path, monkeypatch):
    for place, picture in enumerate(load_digits().images[:60]):
        (tmp_path / "unlabelled").mkdir(exist_ok=True)
        Image.fromarray((picture * 15).astype(np.uint8)).save(
            tmp_path / f"unlabelled/{place:02d}.png"
        )
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["fetch"]["digits"] = {
        "source": "folder",
        "path": str(tmp_path / "unlabelled"),
        "val_fraction": 0.0,
    }
    content["pretrain"] |= {"epochs": 2, "batch_size": 16, "warmup_epochs": 1}
    content["pretrain"]["encoder"]["kwargs"]["channels"] = [8, 8, 8, 8]
    content["fetch"]["digits_inverted"]["limit"] = {"train": 20, "val": 10, "test": 20}
    content["fetch"]["patches"]["limit"] = {"train": 40, "val": 20, "test": 20}
    content["corrupt"] |= {"types": ["contrast"], "severities": [5]}
    content["prediction"] |= {"views": 2, "corruptions": []}
    for stage in ("ood", "prediction", "corrupt", "transfer"):
        content[stage]["bootstrap"] = 100
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    monkeypatch.chdir(tmp_path)
    params = load()
    fetch.main(params, "digits")
    pretrain.main(params)
    metrics = files.read_json("metrics/pretrain.json")
    assert metrics["images"] == 48 and "knn_accuracy" not in metrics
    embed.main(params, "digits")
    doubts = load_features("digits", "trained").doubts("test")
    assert doubts.keys() == {"projection_norm", "mean_norm", "unexplained"}
    for name in ("digits_inverted", "patches"):
        fetch.main(params, name)
        embed.main(params, name)
    for name in ("digits", "digits_inverted"):
        prediction.main(params, name)
    for stage in (linear, calibrate, knn, lowshot, corrupt, export_stage, report):
        stage.main(params)
        if stage is linear:
            detectors.main(params)
            ood.main(params, "digits_inverted")
            finetune.main(params, "digits")
            transfer.main(params, "patches")
            uncertainty.main(params, "digits")
            audit.main(params, "digits")
    metrics = files.read_json("metrics/ood/digits_inverted.json")
    assert not metrics["labelled"] and {"knn", "sigma"} <= set(metrics["trained"])
    assert "mahalanobis" not in metrics["trained"] and "accuracy_id" not in metrics
    unlabelled = files.read_json("metrics/uncertainty/digits.json")
    assert (
        "crop_test" in unlabelled["trained"]["scores"]["feature_norm"] and "left_out" in unlabelled
    )
    shown = [row.label for row in rows(params)]
    assert not any(
        label.startswith(("linear", "k-NN", "10 labels", "fine-tuned")) for label in shown
    )
    assert {"corruption: feature similarity", "transfer to patches: accuracy"} <= set(shown)
    card = Path("results/export/README.md").read_text()
    assert "corruption: feature similarity" in card and "linear probe" not in card
    given = prosmin.load("results/export", "cpu").predict(torch.zeros(1, 1, 8, 8).byte())
    assert given.labels is None and {"log_sigma"} < set(given.label_free)
    page = Path("results/report/index.html").read_text()
    assert "Left out: the train split of dataset &#39;digits&#39; has no labels." in page
    assert "Left out: the test split of dataset &#39;digits&#39; has no labels." in page


def test_params_that_are_edited_while_it_trains_cost_no_checkpoint(tmp_path, monkeypatch):
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["fetch"]["digits"]["limit"] = {"train": 20, "val": 20, "test": 20}
    content["pretrain"] |= {"epochs": 2, "batch_size": 16, "warmup_epochs": 1}
    content["pretrain"]["encoder"]["kwargs"]["channels"] = [8, 8, 8, 8]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    (tmp_path / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROSMIN_CHECKPOINT_SECONDS", "0")
    params = load()
    fetch.main(params, "digits")
    monkeypatch.setattr(inputs, "_now", inputs.look("pretrain"))
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content | {"seed": 7}, sort_keys=False))
    with pytest.raises(
        UserError,
        match="^params.yaml: seed was 0 when pretrain read it and is 7 now; nothing is writt",
    ):
        pretrain.main(params)
    assert not (tmp_path / "results/pretrain").exists() and list(
        layout.checkpoints().rglob("step-*")
    )
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    pretrain.main(params)
    assert (tmp_path / "results/pretrain").exists() and not list(
        layout.checkpoints().rglob("step-*")
    )
