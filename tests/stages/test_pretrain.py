"""The pretrain stage: what params name is what the library has, and what the environment may say."""

import hashlib
import inspect
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import nn

from prosmin import objectives, scoring
from prosmin.common import files
from prosmin.common.errors import ConfigError, UserError
from prosmin.data.dataset import Split
from prosmin.models import store
from prosmin.models.networks import Encoder
from prosmin.training import diagnostics
from stages import (
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
)
from stages import export as export_stage
from stages.common import declared, inputs
from stages.common.headlines import rows
from stages.params import load as sections
from stages.params.load import load
from stages.report import __main__ as report
from tests.stages.conftest import ROOT

NAMES = get_args(sections.Objective.model_fields["name"].annotation)


def test_params_name_the_objectives_and_rules_that_there_are():
    assert set(NAMES) == set(objectives.OBJECTIVES)
    assert set(get_args(sections.Objective.model_fields["rule"].annotation)) == set(scoring.RULES)


@pytest.mark.parametrize("name", NAMES)
def test_the_keys_of_an_objective_are_those_of_its_class(params, name):
    objective = params.pretrain.objective.model_copy(update={"name": name})
    given = pretrain.objective_of(params.pretrain.model_copy(update={"objective": objective}))
    keywords = inspect.signature(objectives.OBJECTIVES[name]).parameters
    assert set(given) - {"name"} == {
        key for key, each in keywords.items() if each.kind == each.KEYWORD_ONLY
    }
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(64, 6))
    backbone.num_features = 6
    model = objectives.build(Encoder(backbone, [0.5], [0.25]), 12, 4, **given)
    views = [
        torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)
    ]
    assert torch.isfinite(model(views))


def test_dvc_looks_at_each_key_but_those_of_objectives_that_are_not_chosen(params):
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    for name in NAMES:
        content["pretrain"]["objective"]["name"] = name
        keys = set(declared.graph(content, ROOT / "dvc.yaml")["pretrain"].params)
        fields = set(sections.Pretrain.model_fields) - {"baselines"} | {f"baselines.{name}"}
        assert keys == {"dataset", "seed"} | {f"pretrain.{field}" for field in fields}
        assert declared.value(content, f"pretrain.baselines.{name}") is not None


def test_what_decides_nothing_is_not_in_the_description_of_a_model(params):
    def told(**changes):
        return pretrain.used(params.pretrain.model_copy(update=changes))

    other = params.pretrain.baselines.model_copy(
        update={"simclr": sections.Contrastive(temperature=0.9)}
    )
    assert told(baselines=other) == told() and "simclr" not in told()["baselines"]
    chosen = params.pretrain.objective.model_copy(update={"name": "simclr"})
    assert told(baselines=other, objective=chosen) != told(objective=chosen)
    here, there = (
        sections.FileWeights(source="file", path=path) for path in ("here", "/home/there")
    )
    assert told(external=here) == told(external=there) != told()


def test_weight_decay_stays_unless_it_is_given_an_end(params):
    assert pretrain.train_settings_of(params.pretrain).weight_decay == (0.05, 0.05)
    rising = params.pretrain.model_copy(update={"weight_decay_end": 0.5})
    assert pretrain.train_settings_of(rising).weight_decay == (0.05, 0.5)


def test_local_views_of_several_sizes_are_as_many_of_each(params):
    local = sections.LocalViews(count=2, size=(6, 4), scale=(0.1, 0.3))
    views = params.pretrain.views.model_copy(update={"local": local})
    found = pretrain.view_settings_of(params.pretrain.model_copy(update={"views": views}))
    assert [each.size for each in found] == [8, 8, 6, 6, 4, 4]
    assert {each.scale for each in found[2:]} == {(0.1, 0.3)} and found[0].scale == (0.5, 1.0)


@pytest.mark.parametrize("given", ["two", "0", "-1", "1.5", ""])
def test_a_number_of_processes_that_is_none_is_refused(monkeypatch, given):
    monkeypatch.setenv("PROSMIN_PROCESSES", given)
    with pytest.raises(
        UserError, match=f"^PROSMIN_PROCESSES is '{given}'; it must be a number of processes"
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


@pytest.mark.parametrize("labelled", [True, False])
def test_the_monitor_watches_a_draw_of_all_classes(monkeypatch, labelled):
    """Of a set that is sorted by class: as many classes, and an effective rank as high, as of the same set in any order."""
    monkeypatch.setattr(pretrain, "WATCHED", 140)
    monkeypatch.setattr(pretrain, "BANK", 300)
    pictures, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(pictures * 15).to(torch.uint8).view(-1, 1, 8, 8)
    ranks = []
    for rows in (
        np.argsort(labels, kind="stable"),
        np.random.default_rng(1).permutation(len(labels)),
    ):
        kinds = torch.from_numpy(labels[rows]) if labelled else torch.full((len(rows),), -1)
        whole = Split(images[rows], kinds, None)
        monitor = pretrain.monitor_of(
            {"train": whole, "val": whole} if labelled else {"train": whole}, seed=0
        )
        ranks.append(diagnostics.rankme(monitor.images.flatten(1).float()))
        assert len(monitor.images) == 140
        if labelled:
            assert len(monitor.bank) == 300
            assert len(monitor.labels.unique()) == len(monitor.bank_labels.unique()) == 10
    assert ranks[0] == pytest.approx(ranks[1], rel=0.03)


def test_a_monitor_of_few_images_has_them_all_in_their_order():
    images = torch.arange(60 * 64, dtype=torch.int32).to(torch.uint8).view(60, 1, 8, 8)
    split = Split(images, torch.arange(60) % 3, ("a", "b", "c"))
    monitor = pretrain.monitor_of({"train": split, "val": split}, seed=0)
    assert (
        monitor.images.equal(images)
        and monitor.bank.equal(images)
        and monitor.labels.equal(split.labels)
    )


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
    found = files.read_json("metrics/pretrain.json")
    assert found["images"] == 48 and "knn_accuracy" not in found
    embed.main(params, "digits")
    for name in ("digits_inverted", "patches"):
        fetch.main(params, name)
        embed.main(params, name)
    for name in ("digits", "digits_inverted"):
        prediction.main(params, name)
    for stage in (linear, knn, lowshot, corrupt, export_stage, report):
        stage.main(params)
        if stage is linear:
            ood.main(params, "digits_inverted")
            finetune.main(params, "digits")
            transfer.main(params, "patches")
    found = files.read_json("metrics/ood/digits_inverted.json")
    assert not found["labelled"] and {"knn", "sigma"} <= set(found["trained"])
    assert "mahalanobis" not in found["trained"] and "accuracy_id" not in found
    shown = [row.label for row in rows(params)]
    assert not any(
        label.startswith(("linear", "k-NN", "10 labels", "fine-tuned")) for label in shown
    )
    assert {"corruption: feature similarity", "transfer to patches: accuracy"} <= set(shown)
    card = Path("results/export/README.md").read_text()
    assert "corruption: feature similarity" in card and "linear probe" not in card
    page = Path("results/report/index.html").read_text()
    assert "Left out: the train split of dataset &#39;digits&#39; has no labels." in page


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
        found = store.load_encoder("results/pretrain")(images)
        assert torch.equal(found, model.eval()((images - 0.3) / 0.2))
        assert not torch.equal(found, store.load_encoder("results/pretrain", "random")(images))
    metrics = files.read_json("metrics/pretrain.json")
    assert (
        metrics["encoder_parameters"] == sum(each.numel() for each in model.parameters())
        and "loss" not in metrics
    )
    assert [row["epoch"] for row in files.read_csv("plots/pretrain/diagnostics.csv")] == ["0"]
    assert files.read_csv("plots/pretrain/loss.csv") == []
    embed.main(params, "digits")
    assert not any(
        "log_sigma" in name
        for name in files.read_arrays("results/embed/digits/trained.safetensors")
    )
    export_stage.main(params)
    said = Path("results/export/README.md").read_text()
    assert (
        f"`theirs.safetensors` (SHA-256 `{hashlib.sha256(Path('theirs.safetensors').read_bytes()).hexdigest()}`)"
        in said
    )
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
