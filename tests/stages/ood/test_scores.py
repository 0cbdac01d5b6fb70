"""The ood stage on real features and images: what it writes, repeatably."""

import numpy as np
import pytest
import yaml
from PIL import Image
from sklearn.metrics import auc, roc_auc_score

from prosmin.common import files
from prosmin.common.errors import UserError
from prosmin.data import dataset
from prosmin.evaluation import ood_scores
from prosmin.evaluation.ood_scores import Detector
from stages import detectors, fetch, ood
from stages.params.load import Params
from stages.report.figures import lines
from tests.stages.ood.conftest import PREDICTED, outputs, predicted

# In the order of the metrics file.
DETECTORS = [
    *(name for name, entry in ood_scores.DETECTORS.items() if entry.score),
    *(name for name, entry in ood_scores.DETECTORS.items() if entry.parts),
    *PREDICTED,
]
WRITTEN = [
    "metrics/ood/patches.json",
    "plots/ood/patches.csv",
    "results/ood/patches/examples.safetensors",
    "results/ood/patches/scores.safetensors",
]


def test_it_writes_scores_metrics_curves_and_examples(ready, params):
    ood.main(params, "patches")
    assert sorted(outputs(ready)) == WRITTEN
    metrics = files.read_json("metrics/ood/patches.json")
    facts = ["distance", "labelled", "n_id", "n_ood", "n_seen_in_training", "accuracy_id"]
    assert list(metrics) == ["trained", "random", *facts] and metrics["n_seen_in_training"] == 0
    assert (metrics["distance"], metrics["labelled"], metrics["n_id"], metrics["n_ood"]) == (
        "far",
        True,
        250,
        250,
    )
    probes = files.read_json("metrics/linear.json")
    scores = files.read_arrays("results/ood/patches/scores.safetensors")
    curves = files.read_csv("plots/ood/patches.csv")
    for encoder in ("trained", "random"):
        assert metrics["accuracy_id"][encoder] == probes[encoder]["accuracy"]
        assert list(metrics[encoder]) == DETECTORS
        for detector, values in metrics[encoder].items():
            inside, outside = (scores[f"{encoder}.{detector}.{kind}"] for kind in ("id", "ood"))
            assert inside.dtype == np.float64 and inside.shape == outside.shape == (250,)
            expected = roc_auc_score(np.repeat([0, 1], 250), np.concatenate([inside, outside]))
            assert values["auroc"] == files.rounded(expected)
            assert values["auroc_low"] <= values["auroc"] <= values["auroc_high"]
            curve = [
                row for row in curves if (row["encoder"], row["detector"]) == (encoder, detector)
            ]
            points = np.array([(row["fpr"], row["tpr"]) for row in curve], float)
            assert 2 < len(points) <= 100 and auc(*points.T) == pytest.approx(
                values["auroc"], abs=0.01
            )
    assert metrics["trained"]["mahalanobis"]["auroc"] > 0.95
    np.testing.assert_array_equal(
        scores["trained.sigma.id"], ready.features["digits", "trained"]["test.log_sigma"]
    )


def with_k(params, k):
    return params.model_copy(update={"ood": params.ood.model_copy(update={"k": k})})


def test_the_detectors_are_fitted_to_train_and_val(ready, params):
    """A copy of a train or val image has its nearest neighbour at no distance."""
    for split, row in (("train", 3), ("val", 5)):
        arrays = ready.features["digits", "trained"]
        ready.features["patches", "trained"]["test.features"][row] = arrays[f"{split}.features"][
            row
        ]
    ready.write()
    changed = with_k(params, 1)
    detectors.main(changed)
    ood.main(changed, "patches")
    score = files.read_arrays("results/ood/patches/scores.safetensors")["trained.knn.ood"]
    assert score[[3, 5]].tolist() == [0, 0] and (np.delete(score, [3, 5]) > 0).all()


def test_examples_are_the_images_of_their_scores_from_the_lowest_to_the_highest(ready, params):
    ood.main(params, "patches")
    examples = files.read_arrays("results/ood/patches/examples.safetensors")
    scores = files.read_arrays("results/ood/patches/scores.safetensors")
    for prefix, name, kind, shape in (
        ("", "patches", "ood", (3, 16, 16)),
        ("id_", "digits", "id", (1, 8, 8)),
    ):
        images, index = examples[f"{prefix}images"], examples[f"{prefix}index"]
        assert images.shape == (ood.EXAMPLES, *shape) and index.dtype == np.int64
        expected = dataset.load_split(f"data/{name}", "test").images.numpy()[index]
        np.testing.assert_array_equal(images, expected)
        spread = scores[f"trained.knn.{kind}"]
        assert (np.diff(spread[index]) >= 0).all()
        assert spread[index[0]] == spread.min() and spread[index[-1]] == spread.max()


def test_examples_of_differing_sizes_become_squares_of_the_smallest(ready, params):
    """JPEG files of 300x400 and 40x30 pixels: the left half black, the right half white."""
    for number, (height, width) in enumerate([(300, 400), (40, 30)] * 15):
        picture = np.zeros((height, width, 3), np.uint8)
        picture[:, width // 2 :] = 255
        path = ready.folder / "photographs" / f"{number:02}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(picture).save(path, quality=95)
    content = yaml.safe_load((ready.folder / "params.yaml").read_text())
    half = {"val_fraction": 0, "test_fraction": 0.5}
    content["fetch"]["photographs"] = {"source": "folder", "path": "photographs", **half}
    content["ood"]["sets"] = {"photographs": "far"}
    changed = Params.model_validate(content)
    fetch.main(changed, "photographs")
    for encoder in ("trained", "random"):
        ready.features["photographs", encoder] = {
            name: values[:15]
            for name, values in ready.features["patches", encoder].items()
            if name.startswith("test.")
        }
    ready.write()
    predicted("photographs", np.arange(15))
    ood.main(changed, "photographs")
    images = files.read_arrays("results/ood/photographs/examples.safetensors")["images"]
    assert images.shape == (15, 3, 30, 30)
    assert images[..., :13].max() < 20 and images[..., 17:].min() > 235


def test_without_labels_the_label_free_detectors_are_left_and_marked(ready, params):
    ready.unlabel()
    detectors.main(params)
    ood.main(params, "patches")
    metrics = files.read_json("metrics/ood/patches.json")
    assert metrics["labelled"] is False and "accuracy_id" not in metrics
    free = [name for name in DETECTORS if ood_scores.DETECTORS[name].label_free]
    assert list(metrics["trained"]) == list(metrics["random"]) == free


def test_images_of_the_training_set_are_counted_and_warned_of(ready, params, caplog):
    """Two of train, one of val; one of the test images too, which the encoder has not seen."""
    for encoder in ("trained", "random"):
        arrays = ready.features["digits", encoder]
        copies = [
            arrays["train.digest"][[3, 7]],
            arrays["val.digest"][:1],
            arrays["test.digest"][:1],
        ]
        ready.features["patches", encoder]["test.digest"][:4] = np.concatenate(copies)
    ready.write()
    ood.main(params, "patches")
    assert files.read_json("metrics/ood/patches.json")["n_seen_in_training"] == 3
    assert (
        "3 of 250 images of OOD set patches are, to the pixel, training images of digits"
        in caplog.text
    )


def test_a_network_that_predicts_no_sigma_leaves_its_detectors_out(ready, params):
    for encoder in ("trained", "random"):
        for name in ("digits", "patches"):
            arrays = ready.features[name, encoder]
            ready.features[name, encoder] = {
                key: value for key, value in arrays.items() if "log_sigma" not in key
            }
    ready.write()
    for name in ("digits", "patches"):
        files.write_arrays(f"results/prediction/{name}/scores.safetensors", {})
    detectors.main(params)
    ood.main(params, "patches")
    metrics = files.read_json("metrics/ood/patches.json")
    assert list(metrics["trained"]) == [
        name for name in DETECTORS if "sigma" not in name and name not in PREDICTED
    ]


def test_a_new_detector_is_a_function_and_its_entry(ready, params, monkeypatch):
    """Metrics, curves and scores follow from the entry, and the report has its label and line."""

    def norm(known, query, settings):
        return np.linalg.norm(query.features, axis=1)

    entry = Detector("norm of the features", norm, colour="purple", dash=":", drawn=True)
    monkeypatch.setitem(ood_scores.DETECTORS, "norm", entry)
    with pytest.raises(UserError, match="trained.safetensors cannot be read .it has no 'id.norm'"):
        ood.main(params, "patches")
    detectors.main(params)
    ood.main(params, "patches")
    metrics = files.read_json("metrics/ood/patches.json")
    scores = files.read_arrays("results/ood/patches/scores.safetensors")
    features = ready.features["patches", "random"]["test.features"]
    np.testing.assert_array_equal(scores["random.norm.ood"], np.linalg.norm(features, axis=1))
    assert set(metrics["trained"]) == {*DETECTORS, "norm"}
    assert "norm" in {row["detector"] for row in files.read_csv("plots/ood/patches.csv")}
    line = lines.detector_line("norm")
    assert (line.label, line.colour, line.dash) == ("norm of the features", "purple", ":")
    assert lines.detectors_drawn(metrics["trained"])[-1] == "norm"


def test_an_ood_set_needs_no_labels_and_no_other_split_than_test(ready, params):
    ood.main(params, "patches")
    first = outputs(ready)
    for encoder in ("trained", "random"):
        arrays = ready.features["patches", encoder]
        ready.features["patches", encoder] = {
            name: array for name, array in arrays.items() if name.startswith("test.")
        }
        ready.features["patches", encoder]["test.labels"][:] = -1
    ready.write()
    ood.main(params, "patches")
    assert outputs(ready) == first


def test_a_second_run_and_the_command_write_the_same_bytes(ready, params):
    ood.main(params, "patches")
    first = outputs(ready)
    done = ready.python("-m", "stages.ood", "patches")
    assert done.returncode == 0 and "ood: patches, trained encoder: AUROC msp" in done.stderr
    assert outputs(ready) == first
