"""The uncertainty stage with small networks and real images, against oracles, and how it fails."""

from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet as pq
import pytest
from scipy.stats import entropy, spearmanr
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from prosmin.common import files
from prosmin.common.errors import ConfigError, UserError
from prosmin.data.dataset import load_human_labels
from prosmin.evaluation.uncertainty import SCORES
from prosmin.metrics.uncertainty import ece_human, nll_human
from stages import embed, fetch, linear, uncertainty
from stages.common import parts
from stages.common.features import Features
from stages.linear import load_probe
from stages.params.load import load
from tests.stages.conftest import ROOT
from tests.stages.test_prediction import at_work

LIMIT = {"train": 120, "val": 40, "test": 60}
NETWORKS = ("mean_norm", "unexplained", "projection_norm", "log_sigma")  # of ProSMIN by the CRPS
LABEL_FREE = (*NETWORKS, "feature_norm", "knn_distance", "loss_ranking")


@pytest.fixture(scope="module")
def params(tmp_path_factory):
    """Digits labelled by people, and other datasets: without val, with test alone, unlabelled."""
    path = tmp_path_factory.mktemp("people") / "people.parquet"
    truth = load_digits().target
    shares = (
        np.random.default_rng(0).dirichlet(np.full(10, 0.2), len(truth)) + 2 * np.eye(10)[truth]
    )
    table = {f"p{label}": shares[:, label] / shares.sum(axis=1) for label in range(10)}
    pq.write_table(pyarrow.table(table), path)
    given = load(ROOT / "params.yaml")
    digits = given.fetch["digits"]
    sets = {
        "digits": digits.model_copy(update={"limit": LIMIT, "human_labels": str(path)}),
        "patches": given.fetch["patches"].model_copy(update={"limit": LIMIT}),
        "without_val": digits.model_copy(
            update={"limit": {"train": 100, "test": 60}, "val_fraction": 0.0}
        ),
        "test_alone": digits.model_copy(update={"test_fraction": 1.0, "limit": {"test": 50}}),
        "inverted": given.fetch["digits_inverted"].model_copy(update={"limit": LIMIT}),
    }
    head = given.uncertainty.head.model_copy(update={"images": 50, "epochs": 2})
    asked = {"datasets": tuple(sets), "head": head, "bootstrap": 100, "k": 3}
    return given.model_copy(
        update={
            "fetch": sets,
            "uncertainty": given.uncertainty.model_copy(update=asked),
            "linear": given.linear.model_copy(update={"bootstrap": 100}),
        }
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory, params):
    folder = tmp_path_factory.mktemp("uncertainty")
    with at_work(folder, params):
        for name in params.fetch:
            fetch.main(params, name)
            embed.main(params, name)
        linear.main(params)
        for name in params.fetch:
            uncertainty.main(params, name)
    return folder


@pytest.fixture(autouse=True)
def here(made, monkeypatch):
    monkeypatch.chdir(made)


def measured(name):
    return files.read_metrics(f"metrics/uncertainty/{name}.json")


def arrays(name, encoder):
    return files.read_arrays(f"results/embed/{name}/{encoder}.safetensors")


def neighbours(bank, images, k):
    """Indices and cosine distances by scikit-learn."""
    distances, index = NearestNeighbors(n_neighbors=k, metric="cosine").fit(bank).kneighbors(images)
    return index, distances


@pytest.mark.parametrize("encoder", ["trained", "random"])
@pytest.mark.parametrize("name", ["digits", "patches"])
def test_recall_and_r_auroc_are_those_of_scikit_learn(name, encoder):
    metrics, content = measured(name)[encoder], arrays(name, encoder)
    test, labels = content["test.features"], content["test.labels"]
    right = labels[neighbours(test, test, 2)[0][:, 1]] == labels
    near = neighbours(content["train.features"], test, 1)[0][:, 0]
    right_train = content["train.labels"][near] == labels
    assert metrics["recall_at_1"] == pytest.approx(right.mean(), abs=1e-6)
    assert metrics["recall_at_1_train_neighbours"] == pytest.approx(right_train.mean(), abs=1e-6)
    assert metrics["n"] == 60 and tuple(metrics["scores"]) == LABEL_FREE
    bank = arrays("digits", encoder)["train.features"]
    doubts = {score: content[f"test.doubt.{score}"] for score in NETWORKS[:3]} | {
        "log_sigma": content["test.log_sigma"],
        "feature_norm": -np.linalg.norm(test, axis=1),
        "knn_distance": neighbours(bank, test, 3)[1][:, 2],
    }
    for score, doubt in doubts.items():
        values = metrics["scores"][score]
        assert values["r_auroc"] == pytest.approx(roc_auc_score(~right, doubt), abs=1e-3), score
        low, high = values["r_auroc_low"], values["r_auroc_high"]
        assert 0 <= low <= values["r_auroc"] <= high <= 1
        near = roc_auc_score(~right_train, doubt)
        assert values["r_auroc_train_neighbours"] == pytest.approx(near, abs=1e-3), score
        assert 0 <= values["crop_test_low"] <= values["crop_test"] <= values["crop_test_high"] <= 1


@pytest.mark.parametrize("encoder", ["trained", "random"])
def test_the_score_is_chosen_among_the_own_scores_by_val(encoder):
    metrics, content = measured("digits"), arrays("digits", encoder)
    val, labels = content["val.features"], content["val.labels"]
    right = labels[neighbours(val, val, 2)[0][:, 1]] == labels
    scores = metrics[encoder]["scores"]
    assert metrics[encoder]["recall_at_1_val"] == pytest.approx(right.mean(), abs=1e-6)
    norms = -np.linalg.norm(val, axis=1)
    assert scores["feature_norm"]["r_auroc_val"] == pytest.approx(roc_auc_score(~right, norms))
    own = [score for score in scores if SCORES[score].own]
    chosen = max(own, key=lambda score: scores[score]["r_auroc_val"])
    assert metrics["chosen"][encoder] == chosen and "knn_distance" not in own
    for end in ("", "_low", "_high"):
        for metric in ("r_auroc", "human_correlation"):
            assert metrics[encoder][f"{metric}{end}"] == scores[chosen][f"{metric}{end}"]


def test_people_are_agreed_with_as_scipy_says():
    human = load_human_labels("data/digits")
    assert human.shape == (60, 10)
    for encoder in ("trained", "random"):
        metrics, content = measured("digits")[encoder], arrays("digits", encoder)
        rank = spearmanr(content["test.doubt.projection_norm"], entropy(human, axis=1)).statistic
        score = metrics["scores"]["projection_norm"]
        assert score["human_correlation"] == pytest.approx(rank, abs=1e-5)
        assert score["human_correlation_low"] < rank < score["human_correlation_high"]
        probe = load_probe(encoder)
        logits = probe.logits(content["test.features"])
        assert metrics["nll_human"] == pytest.approx(nll_human(logits, human), abs=1e-5)
        scaled = np.exp(logits / probe.temperature)
        probabilities = scaled / scaled.sum(axis=1, keepdims=True)
        expected = ece_human(probabilities, human)
        assert metrics["ece_human_calibrated"] == pytest.approx(expected, abs=1e-5)
    assert "nll_human" not in measured("patches")["trained"]
    assert "human_correlation" not in measured("patches")["trained"]["scores"]["feature_norm"]


def test_the_plot_has_a_rejection_curve_per_score_that_ends_at_the_recall_of_all():
    rows = files.read_csv("plots/uncertainty/digits.csv")
    for encoder in ("trained", "random"):
        recall = measured("digits")[encoder]["recall_at_1"]
        for score in LABEL_FREE:
            curve = [row for row in rows if (row["encoder"], row["score"]) == (encoder, score)]
            kept = [float(row["kept"]) for row in curve]
            assert len(curve) == 50 and kept == sorted(kept) and kept[-1] == 1
            assert float(curve[-1]["recall_at_1"]) == pytest.approx(recall, abs=1e-5)


def test_without_val_a_fifth_of_train_takes_its_place():
    metrics = measured("without_val")
    assert {"recall_at_1_val", "r_auroc"} <= metrics["trained"].keys() and metrics["chosen"]


def test_a_dataset_of_test_images_alone_has_no_choice_and_no_training_neighbours():
    metrics = measured("test_alone")
    assert "chosen" not in metrics and "r_auroc" not in metrics["trained"]
    assert list(metrics["trained"]) == [
        *("recall_at_1", "recall_at_1_low", "recall_at_1_high"),
        *("scores", "n"),
    ]
    assert metrics["trained"]["scores"]["knn_distance"]["r_auroc"] is not None


def test_without_labels_the_crop_test_alone_is_measured():
    metrics = measured("inverted")
    assert metrics["left_out"] == "the test split of dataset 'inverted' has no labels."
    assert list(metrics["trained"]) == ["scores", "n"]
    for values in metrics["trained"]["scores"].values():
        assert set(values) == {"crop_test", "crop_test_low", "crop_test_high"}
    assert files.read_csv("plots/uncertainty/inverted.csv") == []


def test_a_second_run_writes_the_same_bytes(params):
    paths = [Path(f"{kind}/uncertainty/digits") for kind in ("metrics", "plots")]
    paths = [next(path.parent.glob(f"{path.name}.*")) for path in paths]
    before = [path.read_bytes() for path in paths]
    uncertainty.main(params, "digits")
    assert [path.read_bytes() for path in paths] == before


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("digit", UserError, "needs one of uncertainty.datasets, not 'digit'.*mean 'digits'"),
        ("digits", ConfigError, "^k is 121; there are 120 training images; allowed: 1 to 120"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(params, name, error, message):
    asked = params.uncertainty.model_copy(update={"k": 121})
    with pytest.raises(error, match=message):
        uncertainty.main(params.model_copy(update={"uncertainty": asked}), name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test.features": np.zeros((59, 16), np.float32)}, r"of test are \[59, 16\], where"),
        ({"test.doubt.other": np.zeros(60, np.float32)}, "its scores of test are .*, other, "),
    ],
)
def test_features_of_other_images_or_networks_are_one_sentence(
    params, monkeypatch, change, message
):
    content = dict(arrays("digits", "trained")) | change
    rows = len(content["test.features"])
    content = {
        field: values[:rows] if field.startswith("test.") else values
        for field, values in content.items()
    }
    changed = Features("digits", content)
    monkeypatch.setattr(parts, "load_features", lambda name, encoder: changed)
    with pytest.raises(UserError, match=f"digits/trained.safetensors cannot be read .*{message}"):
        uncertainty.main(params, "digits")


def test_a_dataset_to_train_on_without_train_split_is_one_sentence(params):
    with pytest.raises(UserError, match="dataset 'test_alone' has no train split; it has test"):
        uncertainty.main(params.model_copy(update={"dataset": "test_alone"}), "test_alone")
