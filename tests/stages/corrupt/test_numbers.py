"""The corrupt stage with untrained networks and real images: its files, and how it fails."""

from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image

from prosmin import corruptions
from prosmin.common import files
from prosmin.common.errors import UserError
from prosmin.common.seeds import sample_rows
from prosmin.corruptions import apply
from prosmin.data import dataset
from prosmin.evaluation.embedding import embed
from prosmin.evaluation.linear_probe import Probe
from prosmin.metrics import calibration, classification, conformal, corruption_error
from prosmin.metrics.corruption_error import Measured
from prosmin.models import store
from stages import corrupt, fetch
from stages.common.command import with_command
from stages.params.evaluation import GROUPS, CorruptionType
from stages.params.fetch import Folder
from tests.stages.corrupt.cells import SEVERITIES, TYPES, changed, generated, written


def test_every_name_allowed_in_params_is_a_type_and_the_other_way_round():
    assert set(get_args(CorruptionType)) == {*apply.TYPES, *GROUPS}


def test_it_writes_what_a_walk_over_the_cells_gives(place, params):
    corrupt.main(params)
    metrics = files.read_json("metrics/corrupt.json")
    rows = iter(files.read_csv("plots/corrupt/accuracy.csv"))
    split = dataset.load_split("data/digits", "test", 8, 1)
    labels = split.labels.numpy()
    hits, clean = {}, {}
    assert list(metrics) == ["trained", "random"]
    for encoder, values in metrics.items():
        network = store.load_encoder("results/pretrain", encoder)
        probe = Probe.load(f"results/linear/{encoder}.safetensors")
        clean[encoder] = probe.logits(embed(network, split.images)).argmax(1) == labels
        assert (
            values["accuracy_clean"] == files.rounded(clean[encoder].mean()) and values["n"] == 360
        )
        assert (
            values["accuracy_clean"] == files.read_json("metrics/linear.json")[encoder]["accuracy"]
        )
        hits[encoder], eces = np.empty((3, 2, 360), bool), np.empty((3, 2))
        coverages, sizes = np.empty((3, 2)), np.empty((3, 2))
        for i, name in enumerate(TYPES):
            for j, severity in enumerate(SEVERITIES):
                logits = probe.logits(
                    embed(network, apply.corrupt(split.images, name, severity, 3))
                )
                hits[encoder][i, j] = logits.argmax(1) == labels
                eces[i, j] = calibration.ece(classification.softmax(logits), labels)
                probabilities = classification.softmax(logits / probe.temperature)
                sets = conformal.prediction_sets(probabilities, probe.threshold)
                coverages[i, j] = conformal.coverage(sets, labels)
                sizes[i, j] = sets.sum() / 360
                row = next(rows)
                assert (row["encoder"], row["type"], row["severity"]) == (
                    encoder,
                    name,
                    str(severity),
                )
                assert float(row["accuracy"]) == pytest.approx(hits[encoder][i, j].mean(), abs=1e-5)
                assert float(row["ece"]) == pytest.approx(eces[i, j], rel=1e-4)
            assert values["errors"][name] == pytest.approx(1 - hits[encoder][i].mean(), abs=1e-6)
        assert values["ece_severity_1"] == pytest.approx(eces[:2, 0].mean(), rel=1e-5)
        assert values["ece_severity_5"] == pytest.approx(eces[:2, 1].mean(), rel=1e-5)
        for j, severity in enumerate(SEVERITIES):
            for name, of_cells in (("coverage", coverages), ("size", sizes)):
                value = values[f"conformal_{name}_severity_{severity}"]
                assert value == pytest.approx(of_cells[:2, j].mean(), rel=1e-5)
        assert "ece_severity_3" not in values and values["benchmark_types"] == 2
        assert values["mce_unnormalised"] == pytest.approx(1 - hits[encoder][:2].mean(), abs=1e-6)
        assert values["mce_unnormalised_extra"] == pytest.approx(
            1 - hits[encoder][2].mean(), abs=1e-6
        )
        assert (
            values["mce_unnormalised_low"]
            < values["mce_unnormalised"]
            < values["mce_unnormalised_high"]
        )
    own, reference = metrics["trained"], metrics["random"]
    model, floor = (
        Measured(hits[encoder][:2], clean[encoder]) for encoder in ("trained", "random")
    )
    assert own["mce"] == pytest.approx(corruption_error.mce(model, floor), abs=1e-5)
    assert own["mce_low"] < own["mce"] < own["mce_high"]
    assert own["relative_mce"] == pytest.approx(
        corruption_error.relative_mce(model, floor), rel=1e-5
    )
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


def test_a_sample_of_the_images_is_measured_and_named(place, params):
    corrupt.main(params)
    every = files.read_json("metrics/corrupt.json")["trained"]
    corrupt.main(changed(params, images=100))
    first, metrics = written(), files.read_json("metrics/corrupt.json")["trained"]
    assert metrics["n"] == 100 and metrics["images"] != every["images"]
    split = dataset.load_split("data/digits", "test", 8, 1)
    rows = sample_rows(360, 100, 3, "corrupted images")
    network = store.load_encoder("results/pretrain", "trained")
    logits = Probe.load("results/linear/trained.safetensors").logits(
        embed(network, split.images[rows])
    )
    accuracy = (logits.argmax(1) == split.labels.numpy()[rows]).mean()
    assert metrics["accuracy_clean"] == files.rounded(accuracy)
    corrupt.main(changed(params, images=100))
    assert written() == first
    corrupt.main(changed(params, images=1000))
    assert files.read_json("metrics/corrupt.json")["trained"] == every


def test_another_seed_draws_other_noise(place, params):
    corrupt.main(params)
    first = written()
    corrupt.main(params.model_copy(update={"seed": 4}))
    assert written() != first


def test_extra_types_alone_have_no_number_of_the_benchmark(place, params):
    """Saturation is nothing to grey images."""
    corrupt.main(changed(params, types=("saturate",)))
    metrics = files.read_json("metrics/corrupt.json")["trained"]
    assert (
        not {"mce", "mce_unnormalised", "relative_mce"} & set(metrics)
        and metrics["benchmark_types"] == 0
    )
    assert metrics["mce_unnormalised_extra"] == pytest.approx(
        1 - metrics["accuracy_clean"], abs=1e-6
    )
    assert metrics["ece_severity_1"] == pytest.approx(
        files.read_json("metrics/linear.json")["trained"]["ece"], rel=1e-4
    )


def test_feature_similarity_is_the_mean_cosine_of_centred_features(place, params):
    corrupt.main(params)
    split = dataset.load_split("data/digits", "test", 8, 1)
    for encoder, values in list(files.read_json("metrics/corrupt.json").items()):
        network = store.load_encoder("results/pretrain", encoder)
        clean = embed(network, split.images).astype(np.float64)
        cosines = []
        for name in (name for name in TYPES if name in corruptions.BENCHMARK):
            for severity in SEVERITIES:
                features = embed(network, generated(split, name, severity)).astype(np.float64)
                for own, other in zip(features - clean.mean(0), clean - clean.mean(0)):
                    cosines.append(own @ other / np.sqrt((own @ own) * (other @ other)))
        assert values["feature_similarity"] == pytest.approx(np.mean(cosines), abs=1e-5)
        assert (
            values["feature_similarity_low"]
            < values["feature_similarity"]
            < values["feature_similarity_high"]
            <= 1
        )


def test_without_labels_the_features_alone_are_compared(place, params):
    for number in range(10):
        path = place / "bare" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((8, 8), 20 * number, np.uint8)).save(path)
    bare = Folder(source="folder", path="bare", test_fraction=0.4)
    asked = params.model_copy(update={"dataset": "bare", "fetch": {**params.fetch, "bare": bare}})
    fetch.main(asked, "bare")
    corrupt.main(changed(asked, reference="errors_of_labelled_images.json"))  # is not read
    metrics = files.read_json("metrics/corrupt.json")
    assert metrics["left_out"] == "the test split of dataset 'bare' has no labels."
    assert {name for name in metrics["trained"] if not name.endswith(("_low", "_high"))} == {
        "feature_similarity",
        "benchmark_types",
        "n",
    }
    rows = files.read_csv("plots/corrupt/accuracy.csv")
    assert {(row["accuracy"], row["ece"]) for row in rows} == {("", "")}
    assert all(-1 <= float(row["feature_similarity"]) <= 1 for row in rows)
    corrupt.main(changed(asked, source="folders", path=str(place)))
    assert set(files.read_json("metrics/corrupt.json")) == {"left_out"}


@pytest.mark.parametrize(
    ("missing", "remedy"),
    [
        ("data/digits/manifest.json", "`dvc repro fetch@digits`"),
        ("results/pretrain/model.json", "`dvc repro pretrain`"),
        ("results/pretrain/random.safetensors", "`dvc repro pretrain`"),
        ("results/linear/random.safetensors", "run `dvc repro` or `python -m stages.linear`"),
    ],
)
def test_missing_inputs_name_the_stage_that_makes_them(place, params, missing, remedy):
    hidden = place / f"{missing}.hidden"
    (place / missing).rename(hidden)
    try:
        with pytest.raises(UserError) as error:
            corrupt.main(params)
        assert with_command(error.value).endswith(remedy)
    finally:
        hidden.rename(place / missing)
