"""The corrupt stage with real (untrained) networks and real images: what it writes, repeatably, and how it fails."""

from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image

from prosmin import calibration, corruptions, data, export, files, metrics, robustness
from prosmin.embedding import embed
from prosmin.errors import UserError
from prosmin.probes import Probe
from stages import corrupt, fetch, linear
from stages.embed import main as embed_dataset
from stages.params import BENCHMARK, EXTRA, GROUPS, CorruptionType, Folder, load
from tests.stages.conftest import ROOT

TYPES = ("impulse_noise", "contrast")
SEVERITIES = (1, 5)


@pytest.fixture(scope="module")
def params():
    given = load(ROOT / "params.yaml")
    asked = given.corrupt.model_copy(update={"types": TYPES, "severities": SEVERITIES})
    return given.model_copy(update={"corrupt": asked, "seed": 3})


@pytest.fixture(scope="module")
def made(tmp_path_factory, params):
    """Digits, two small networks that differ in their first weights and no more, their features and probes."""
    folder = tmp_path_factory.mktemp("corrupt")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        fetch.main(params, "digits")
        narrow = {"layers": [1, 1, 1, 1], "channels": [8, 16, 16, 32], "zero_init_last": False}
        settings = export.ModelSettings("resnet18", 8, 1, (0.3,), (0.38,), 32, 16, cifar_stem=True, kwargs=narrow)
        pretrained = folder / "results/pretrain"
        pretrained.mkdir(parents=True)
        export.save_description(pretrained, settings, {})
        for seed, weights in enumerate(export.WEIGHTS.values()):
            export.save_state(pretrained / weights, export.build_model(settings, seed).state_dict())
        embed_dataset(params, "digits")
        linear.main(params)
    return folder


@pytest.fixture
def place(made, monkeypatch):
    monkeypatch.chdir(made)
    return made


def written():
    return [open(name, "rb").read() for name in ("metrics/corrupt.json", "plots/corrupt/accuracy.csv")]


def test_every_name_allowed_in_params_is_a_type_and_the_other_way_round():
    assert (BENCHMARK, EXTRA) == (corruptions.BENCHMARK, corruptions.EXTRA)
    assert set(get_args(CorruptionType)) == {*corruptions.TYPES, *GROUPS}


def test_it_writes_what_a_walk_over_the_cells_gives(place, params):
    corrupt.main(params)
    found = files.read_json("metrics/corrupt.json")
    rows = iter(files.read_csv("plots/corrupt/accuracy.csv"))
    split = data.load_split("data/digits", "test", 8, 1)
    labels = split.labels.numpy()
    hits, clean = {}, {}
    assert list(found) == ["trained", "random"]
    for encoder, values in found.items():
        network = export.load_encoder("results/pretrain", encoder)
        probe = Probe.load(f"results/linear/{encoder}.safetensors")
        clean[encoder] = probe.logits(embed(network, split.images)).argmax(1) == labels
        assert values["accuracy_clean"] == files.rounded(clean[encoder].mean()) and values["n"] == 360
        assert values["accuracy_clean"] == files.read_json("metrics/linear.json")[encoder]["accuracy"]
        hits[encoder], eces = np.empty((2, 2, 360), bool), np.empty((2, 2))
        for i, name in enumerate(TYPES):
            for j, severity in enumerate(SEVERITIES):
                logits = probe.logits(embed(network, corruptions.corrupt(split.images, name, severity, 3)))
                hits[encoder][i, j] = logits.argmax(1) == labels
                eces[i, j] = calibration.ece(metrics.softmax(logits), labels)
                row = next(rows)
                assert (row["encoder"], row["type"], row["severity"]) == (encoder, name, str(severity))
                assert float(row["accuracy"]) == pytest.approx(hits[encoder][i, j].mean(), abs=1e-5)
                assert float(row["ece"]) == pytest.approx(eces[i, j], rel=1e-4)
            assert values["error"][name] == pytest.approx(1 - hits[encoder][i].mean(), abs=1e-6)
        assert values["ece_severity_1"] == pytest.approx(eces[:, 0].mean(), rel=1e-5)
        assert values["ece_severity_5"] == pytest.approx(eces[:, 1].mean(), rel=1e-5)
        assert "ece_severity_3" not in values
        assert values["mce_unnormalised"] == pytest.approx(1 - hits[encoder].mean(), abs=1e-6)
        assert values["mce_unnormalised_low"] < values["mce_unnormalised"] < values["mce_unnormalised_high"]
    own, reference = found["trained"], found["random"]
    assert own["mce"] == pytest.approx(robustness.mce(hits["trained"], hits["random"]), abs=1e-5)
    assert own["mce_low"] < own["mce"] < own["mce_high"]
    expected = robustness.relative_mce(hits["trained"], clean["trained"], hits["random"], clean["random"])
    assert own["relative_mce"] == pytest.approx(expected, rel=1e-5)
    assert reference["mce"] == reference["mce_low"] == reference["mce_high"] == 1.0
    with pytest.raises(StopIteration):
        next(rows)


def test_the_same_params_give_the_same_bytes_whatever_the_batch_and_the_global_seed(place, params):
    corrupt.main(params)
    first = written()
    torch.manual_seed(99)
    corrupt.main(params)
    assert written() == first
    other = params.corrupt.model_copy(update={"severities": (5, 1), "batch_size": 100})
    corrupt.main(params.model_copy(update={"corrupt": other}))
    assert written() == first


def test_another_seed_draws_other_noise(place, params):
    corrupt.main(params)
    first = written()
    corrupt.main(params.model_copy(update={"seed": 4}))
    assert written() != first


def test_a_ratio_without_a_reference_is_null(place, params):
    """Saturation is nothing to grey images: it adds no error that a relative error could be measured by."""
    grey = params.corrupt.model_copy(update={"types": ("saturate",)})
    corrupt.main(params.model_copy(update={"corrupt": grey}))
    found = files.read_json("metrics/corrupt.json")["trained"]
    assert found["relative_mce"] is None
    assert found["mce_unnormalised"] == pytest.approx(1 - found["accuracy_clean"], abs=1e-6)


def test_images_without_labels_are_refused(place, params):
    for number in range(10):
        path = place / "bare" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((8, 8), 20 * number, np.uint8)).save(path)
    bare = Folder(source="folder", path="bare", test_fraction=0.4)
    asked = params.model_copy(update={"dataset": "bare", "fetch": {**params.fetch, "bare": bare}})
    fetch.main(asked, "bare")
    with pytest.raises(UserError, match="4 of 4 images in the test split of dataset 'bare' have no label"):
        corrupt.main(asked)


@pytest.mark.parametrize(
    ("missing", "remedy"),
    [
        ("data/digits/manifest.json", "stages.fetch digits"),
        ("results/pretrain/model.json", "stages.pretrain"),
        ("results/pretrain/random.safetensors", "stages.pretrain"),
        ("results/linear/random.safetensors", "stages.linear"),
    ],
)
def test_missing_inputs_name_the_stage_that_makes_them(place, params, missing, remedy):
    hidden = place / f"{missing}.hidden"
    (place / missing).rename(hidden)
    try:
        with pytest.raises(UserError, match=f"python -m {remedy}"):
            corrupt.main(params)
    finally:
        hidden.rename(place / missing)
