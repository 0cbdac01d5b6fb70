"""The pretrain stage: what it builds, what it records, and what the environment may say."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_digits

import prosmin
from prosmin.common import files
from prosmin.common.errors import ConfigError, UserError
from prosmin.models import store
from prosmin.objectives import settings as objectives
from stages import (
    audit,
    calibrate,
    corrupt,
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
from stages.common import declared, inputs, pretraining
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


def outside(folder, **settings) -> dict:
    """Params of an evaluation of a ResNet that lies in ``folder``, made by timm alone."""
    kwargs = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}
    torch.manual_seed(5)
    model = timm.create_model("resnet18", in_chans=1, **kwargs)
    save_file(model.state_dict(), folder / "theirs.safetensors")
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["pretrain"] |= {
        "image_size": 16,
        "encoder": {"name": "resnet18", "kwargs": kwargs},
        "external": {
            "source": "file",
            "path": str(folder / "theirs.safetensors"),
            "mean": [0.3],
            "std": [0.2],
        }
        | settings,
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return model


def test_an_external_encoder_takes_the_place_of_a_trained_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = outside(tmp_path)
    params = load()
    fetch.main(params, "digits")
    pretrain.main(params)
    images = torch.rand(3, 1, 16, 16)
    model.reset_classifier(0)
    with torch.inference_mode():
        features = store.load_encoder("results/pretrain")(images)
        assert torch.equal(features, model.eval()((images - 0.3) / 0.2))
        assert not torch.equal(features, store.load_encoder("results/pretrain", "random")(images))
    metrics = files.read_json("metrics/pretrain.json")
    assert (
        metrics["encoder_parameters"] == sum(parameter.numel() for parameter in model.parameters())
        and "loss" not in metrics
    )
    assert [row["epoch"] for row in files.read_csv("plots/pretrain/diagnostics.csv")] == ["0"]
    assert files.read_csv("plots/pretrain/loss.csv") == []
    embed.main(params, "digits")
    assert not any(
        "log_sigma" in name or "doubt" in name
        for name in files.read_arrays("results/embed/digits/trained.safetensors")
    )
    linear.main(params)
    export_stage.main(params)
    given = prosmin.load("results/export", "cpu").predict(torch.zeros(1, 1, 16, 16).byte())
    assert given.labels and not given.label_free and given.uncertainty[0] == "entropy"
    said = Path("results/export/README.md").read_text()
    digest = hashlib.sha256(Path("theirs.safetensors").read_bytes()).hexdigest()
    assert f"`theirs.safetensors` (SHA-256 `{digest}`)" in said
    assert "datasets" not in yaml.safe_load(
        said.split("---\n")[1]
    )  # it has seen others, which nobody here knows
    written = [
        path
        for part in ("data", "results", "metrics", "plots")
        for path in Path(part).rglob("*")
        if path.is_file()
    ]
    assert len(written) > 10 and not [
        path for path in written if str(tmp_path).encode() in path.read_bytes()
    ]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"sha256": "0" * 64},
            "external.sha256 is '0{64}'; the file .*theirs.safetensors has [0-9a-f]{64}$",
        ),
        (
            {"mean": None, "std": None},
            "external.mean is None; no config.json .* how their input was normalised; give",
        ),
        (
            {"mean": [0.1] * 3, "std": [0.1] * 3},
            "channels is 1; the input of .* is normalised as 3 channels",
        ),
    ],
)
def test_what_an_external_encoder_lacks_is_one_sentence(tmp_path, monkeypatch, settings, sentence):
    monkeypatch.chdir(tmp_path)
    outside(tmp_path, **settings)
    with pytest.raises(ConfigError, match=sentence):
        pretrain.main(load())


def continued(folder, **initial) -> None:
    """Params of one epoch of training from given weights."""
    content = yaml.safe_load((folder / "params.yaml").read_text())
    given = content["pretrain"].pop("external", None)
    content["pretrain"] |= {"initial": initial or given, "epochs": 1, "warmup_epochs": 0}
    content["fetch"]["digits"]["limit"] = {"train": 256, "val": 64, "test": 64}
    (folder / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def test_training_goes_on_from_given_weights_and_pages_show_them_beside_the_trained(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    theirs = outside(tmp_path)
    continued(tmp_path)
    params = load()
    fetch.main(params, "digits")
    pretrain.main(params)
    images = torch.rand(3, 1, 16, 16)
    theirs.reset_classifier(0)
    with torch.inference_mode():
        features = theirs.eval()((images - 0.3) / 0.2)
        assert torch.equal(features, store.load_encoder("results/pretrain", "random")(images))
        assert not torch.allclose(features, store.load_encoder("results/pretrain")(images))
    _, trained = store.load_description("results/pretrain")
    assert trained["initial"]["weights"] == "theirs.safetensors" and not trained["initial"]["heads"]
    assert "path" not in trained["params"]["initial"]
    first = files.read_arrays("results/pretrain/model.safetensors")

    report.main(params)
    page = Path("results/report/index.html").read_text()
    assert "of the initial network: the same network at the weights that training started" in page
    assert (
        "was pretrained, from theirs.safetensors, SHA-256" in page
        and "untrained network" not in page
    )

    Path("results/pretrain").rename("earlier")
    continued(tmp_path, source="run", path="earlier")
    params = load()
    pretrain.main(params)
    before = files.read_arrays("results/pretrain/random.safetensors")
    online = [name for name in first if not name.startswith("target.")]
    assert all(np.array_equal(first[name], before[name]) for name in online)
    assert store.load_description("results/pretrain")[1]["initial"]["heads"]

    continued(tmp_path, source="run", path="results/pretrain")
    with pytest.raises(ConfigError, match="^initial.path is 'results/pretrain'; this run writes"):
        pretrain.main(load())


def test_initial_weights_and_external_ones_exclude_each_other(tmp_path):
    outside(tmp_path)
    content = yaml.safe_load((tmp_path / "params.yaml").read_text())
    content["pretrain"]["initial"] = {"source": "run", "path": "earlier"}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    with pytest.raises(UserError, match=r"pretrain.initial is .*; it needs training; external has"):
        load(tmp_path / "params.yaml")


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
        pretrain.CHECKPOINTS.rglob("step-*")
    )
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    pretrain.main(params)
    assert (tmp_path / "results/pretrain").exists() and not list(
        pretrain.CHECKPOINTS.rglob("step-*")
    )
