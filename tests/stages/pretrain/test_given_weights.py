"""The pretrain stage with weights of others, instead of training and to begin it."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import prosmin
from prosmin.common import files
from prosmin.common.errors import ConfigError, UserError
from prosmin.models import store
from stages import detectors, embed, fetch, linear, pretrain
from stages import export as export_stage
from stages.params.load import load
from stages.report import __main__ as report
from tests.stages.pretrain.given import continued, outside


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
    detectors.main(params)
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
