"""The prediction stage with untrained networks and real images: its files, and how it fails."""

import contextlib
import shutil

import numpy as np
import pytest
import torch

from prosmin.common import files
from prosmin.common.errors import UserError
from prosmin.corruptions.apply import corrupt
from prosmin.data import dataset
from prosmin.evaluation import prediction
from prosmin.models import store
from stages import fetch
from stages import prediction as stage
from stages.common.command import with_command
from stages.common.pretraining import used
from stages.params.load import load
from tests.stages.conftest import ROOT

WRITTEN = (
    "metrics/prediction/digits.json",
    "plots/prediction/digits.csv",
    "results/prediction/digits/scores.safetensors",
)


@pytest.fixture(scope="module")
def params():
    given = load(ROOT / "params.yaml")
    asked = given.prediction.model_copy(
        update={"views": 2, "corruptions": ("contrast",), "bootstrap": 100}
    )
    few = {
        name: dataset.model_copy(update={"limit": {"train": 120, "val": 40, "test": 40}})
        for name, dataset in given.fetch.items()
        if name in ("digits", "patches")
    }
    return given.model_copy(update={"prediction": asked, "fetch": few})


@contextlib.contextmanager
def at_work(folder, params):
    """The folder with params.yaml and ``keep_networks``, as the current one."""
    shutil.copy(ROOT / "params.yaml", folder)
    keep_networks(folder, params)
    with contextlib.chdir(folder):
        yield


def keep_networks(folder, params, **objective):
    narrow = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 16], "zero_init_last": False}
    settings = store.ModelSettings(
        "resnet18",
        8,
        1,
        (0.3,),
        (0.38,),
        16,
        8,
        cifar_stem=True,
        kwargs=narrow,
        objective=objective,
    )
    pretrained = folder / "results/pretrain"
    pretrained.mkdir(parents=True, exist_ok=True)
    store.save_description(pretrained, settings, {"params": used(params)})
    for seed, weights in enumerate(store.WEIGHTS.values()):
        store.save_state(pretrained / weights, store.build_model(settings, seed).state_dict())


@pytest.fixture(scope="module")
def made(tmp_path_factory, params):
    """Digits and patches, and two small networks that differ in their first weights and no more."""
    folder = tmp_path_factory.mktemp("prediction")
    shutil.copy(ROOT / "params.yaml", folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in params.fetch:
            fetch.main(params, name)
    keep_networks(folder, params)
    return folder


@pytest.fixture
def place(made, monkeypatch):
    monkeypatch.chdir(made)
    return made


def test_it_writes_what_the_library_says_of_each_condition(place, params):
    stage.main(params, "digits")
    metrics, scores = files.read_json(WRITTEN[0]), files.read_arrays(WRITTEN[2])
    curves = files.read_csv(WRITTEN[1])
    images = dataset.load_split("data/digits", "test", 8, 1).images
    known = torch.cat(
        [dataset.load_split("data/digits", split, 8, 1).images for split in ("train", "val")]
    )
    views = params.pretrain.views.whole(8)
    seeing = prediction.Seeing(2, views, params.seed)
    conditions = {
        "clean": images,
        "contrast": corrupt(images, "contrast", 3, params.seed),
    }
    assert list(metrics) == ["trained", "random"]
    for encoder in metrics:
        model = store.load_model("results/pretrain", encoder)
        reference = prediction.fit_reference(model, known, seeing)
        assert list(metrics[encoder]) == list(conditions)
        for condition, content in conditions.items():
            measured = prediction.measure(model, content, reference, seeing)
            expected = prediction.summarise(measured, 100, params.seed) | {"n": 40}
            assert metrics[encoder][condition] == pytest.approx(expected, rel=1e-4, abs=1e-6)
            density = [
                float(row["density"])
                for row in curves
                if (row["encoder"], row["condition"]) == (encoder, condition)
            ]
            np.testing.assert_allclose(density, 20 * measured.pit, rtol=1e-5, atol=1e-6)
            assert np.mean(density) == pytest.approx(1)
        clean = prediction.measure(model, images, reference, seeing)
        np.testing.assert_allclose(scores[f"{encoder}.view_score"], 2 * clean.crps, rtol=1e-4)
        np.testing.assert_allclose(
            scores[f"{encoder}.disagreement_constant"], clean.disagreement_constant, rtol=1e-4
        )
        np.testing.assert_allclose(scores[f"{encoder}.mixture"], clean.mixture, rtol=1e-4)
    assert len(scores) == 2 * len(prediction.view_scores(clean)) and all(
        array.dtype == np.float64 and array.shape == (40,) for array in scores.values()
    )


def test_another_dataset_is_measured_as_it_is_by_the_statistics_of_the_one_trained_on(
    place, params
):
    stage.main(params, "patches")
    metrics = files.read_json("metrics/prediction/patches.json")
    assert list(metrics["trained"]) == list(metrics["random"]) == ["clean"]
    assert metrics["trained"]["clean"]["n"] == 40
    (place / "data/digits").rename(place / "data/away")
    try:
        with pytest.raises(UserError) as error:
            stage.main(params, "patches")
        assert with_command(error.value).endswith(": `dvc repro fetch@digits`")
    finally:
        (place / "data/away").rename(place / "data/digits")


def test_a_second_run_writes_the_same_bytes(place, params):
    stage.main(params, "digits")
    first = [(place / name).read_bytes() for name in WRITTEN]
    stage.main(params, "digits")
    assert [(place / name).read_bytes() for name in WRITTEN] == first


def test_an_objective_that_predicts_no_distribution_leaves_empty_results(place, params):
    try:
        for objective, expected in (
            ({"name": "byol"}, []),
            ({"name": "published"}, ["clean", "contrast"]),
            ({"identification": 1.0, "regression": 0.0}, []),
            ({"identification": 1.0, "heads": "stopped"}, ["clean", "contrast"]),
        ):
            keep_networks(place, params, **objective)
            stage.main(params, "digits")
            metrics, scores = files.read_json(WRITTEN[0]), files.read_arrays(WRITTEN[2])
            assert {encoder: list(values) for encoder, values in metrics.items()} == dict.fromkeys(
                metrics, expected
            )
            assert bool(scores) == bool(files.read_csv(WRITTEN[1])) == bool(expected)
    finally:
        keep_networks(place, params)


def test_an_unknown_dataset_and_a_missing_model_name_what_there_is_and_what_to_run(place, params):
    with pytest.raises(
        UserError, match="not .digit.; params.yaml has digits, patches .did you mean .digits."
    ):
        stage.main(params, "digit")
    (place / "results/pretrain/model.json").rename(place / "away.json")
    try:
        with pytest.raises(UserError) as error:
            stage.main(params, "digits")
        assert with_command(error.value).endswith(": `dvc repro pretrain`")
    finally:
        (place / "away.json").rename(place / "results/pretrain/model.json")
