"""Neighbours and scores against scikit-learn and torch, measures against their oracles."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import entropy, spearmanr
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from prosmin.common.compute import search
from prosmin.common.errors import ConfigError, UserError
from prosmin.evaluation import uncertainty
from prosmin.objectives.doubts import DOUBTS


def clusters(n=120, features=6, classes=3, seed=0):
    """Features [n, features] that scatter widely about the mean of their class, and labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    means = np.random.default_rng(9).normal(size=(classes, features))
    return (means[labels] + rng.normal(size=(n, features))).astype(np.float32), labels


# --- neighbours -----------------------------------------------------------------------------------


@pytest.mark.parametrize("tile", [(256, 8192), (4, 30)])
def test_the_nearest_other_image_is_scikit_learns(monkeypatch, tile):
    monkeypatch.setitem(search.TILE, "cpu", tile)
    features, labels = clusters()
    neighbours = (
        NearestNeighbors(n_neighbors=2, metric="cosine").fit(features).kneighbors(features)[1]
    )
    right = uncertainty.right_among_themselves(features, labels)
    np.testing.assert_array_equal(right, labels[neighbours[:, 1]] == labels)
    assert 0.3 < right.mean() < 1


def test_an_image_is_never_its_own_neighbour():
    """Three copies of one image, of which two have one label, and one image apart."""
    features = np.array([[1, 0], [1, 0], [1, 0], [0, 1]], np.float32)
    right = uncertainty.right_among_themselves(features, np.array([0, 0, 1, 1]))
    assert right.tolist() == [True, True, False, False]


def test_one_image_has_no_neighbour():
    with pytest.raises(UserError, match="there is 1 image; a nearest neighbour needs at least two"):
        uncertainty.right_among_themselves(np.ones((1, 2), np.float32), np.zeros(1, int))


def test_the_nearest_training_image_is_scikit_learns():
    bank, images = clusters(80, seed=1), clusters(40, seed=2)
    index = NearestNeighbors(n_neighbors=1, metric="cosine").fit(bank[0]).kneighbors(images[0])[1]
    expected = bank[1][index[:, 0]] == images[1]
    np.testing.assert_array_equal(uncertainty.right_in_bank(bank, images), expected)


# --- scores ---------------------------------------------------------------------------------------


def test_the_knn_distance_is_scikit_learns():
    bank, images = clusters(80, seed=1)[0], clusters(40, seed=2)[0]
    distances = NearestNeighbors(n_neighbors=5, metric="cosine").fit(bank).kneighbors(images)[0]
    np.testing.assert_allclose(
        uncertainty.knn_distance(bank, images, 5), distances[:, 4], atol=1e-6
    )
    with pytest.raises(ConfigError, match="^k is 81; there are 80 training images"):
        uncertainty.knn_distance(bank, images, 81)


def test_short_features_mean_doubt():
    scores = uncertainty.feature_norm(np.array([[3, 4], [0, 1]], np.float32))
    assert scores.tolist() == [-5, -1]


def test_the_identification_loss_is_torchs_cross_entropy(monkeypatch):
    first, second = clusters(30, seed=1)[0], clusters(30, seed=2)[0]
    mean, std = first.mean(0), first.std(0)
    losses = uncertainty.identification_losses(first, second, mean, std, 0.2)
    one, other = (
        torch.nn.functional.normalize(torch.from_numpy((views - mean) / std))
        for views in (first, second)
    )
    own = torch.arange(30)
    cross = torch.nn.functional.cross_entropy
    expected = [
        cross(logits / 0.2, own, reduction="none") for logits in (one @ other.T, other @ one.T)
    ]
    np.testing.assert_allclose(losses, (sum(expected) / 2).numpy(), rtol=1e-5)
    in_blocks = uncertainty._one_way(one.numpy(), other.numpy(), 0.2, size=7)
    np.testing.assert_allclose(in_blocks, expected[0].numpy(), rtol=1e-5)


def test_a_pair_of_equal_views_that_no_other_image_shares_is_easy():
    views = np.eye(4, dtype=np.float32)
    easy = uncertainty.identification_losses(views, views, np.zeros(4), np.ones(4), 0.1)
    views[1] = views[0]
    hard = uncertainty.identification_losses(views, views, np.zeros(4), np.ones(4), 0.1)
    assert (easy < 0.001).all() and hard[:2] == pytest.approx(np.log(2), abs=0.001)


def test_every_doubt_of_the_networks_is_a_score_and_the_order_is_that_of_the_registry():
    assert DOUBTS.keys() < uncertainty.SCORES.keys()
    assert all(uncertainty.SCORES[name].own for name in DOUBTS)
    scores = dict.fromkeys(["own_score", "knn_distance", "width"], np.zeros(1))
    assert list(uncertainty.ordered(scores)) == ["width", "knn_distance", "own_score"]


def test_the_document_has_the_definitions_of_the_registry():
    document = (Path(__file__).parents[3] / "docs/evaluation.md").read_text()
    rows = []
    for name, entry in uncertainty.SCORES.items():
        definition = entry.definition.replace("|", r"\|")
        rows.append(f"| `{name}` | {definition} |{' yes' if entry.own else ''} |")
    assert "\n".join(rows) in document


def test_scores_that_are_not_finite_are_one_sentence():
    with pytest.raises(UserError, match="1 of 2 scores 'width' of digits are NaN or infinite"):
        uncertainty.check_doubts({"width": np.array([0, np.nan])}, "digits")


# --- measures -------------------------------------------------------------------------------------


@pytest.fixture
def measured():
    rng = np.random.default_rng(3)
    right, near = rng.random(150) < 0.7, rng.random(150) < 0.8
    human = rng.dirichlet([0.5] * 3, 150)
    doubts = {"width": rng.normal(size=150) - right, "knn_distance": rng.random(150).round(1)}
    cropped = {name: values + rng.normal(0.2, 1, 150) for name, values in doubts.items()}
    return doubts, cropped, uncertainty.Truth(right, near, human)


def test_the_measures_are_those_of_scikit_learn_and_scipy(measured):
    doubts, cropped, truth = measured
    metrics = uncertainty.measure(doubts, cropped, truth, 100, 0)
    for name, values in metrics.items():
        doubt = doubts[name]
        assert values["r_auroc"] == pytest.approx(roc_auc_score(~truth.right, doubt))
        near = roc_auc_score(~truth.right_train, doubt)
        assert values["r_auroc_train_neighbours"] == pytest.approx(near)
        assert values["crop_test"] == pytest.approx((cropped[name] > doubt).mean())
        rank = spearmanr(doubt, entropy(truth.human, axis=1)).statistic
        assert values["human_correlation"] == pytest.approx(rank)
        for metric in ("r_auroc", "r_auroc_train_neighbours", "crop_test", "human_correlation"):
            assert values[f"{metric}_low"] < values[metric] < values[f"{metric}_high"]


def test_without_labels_the_crop_test_alone_is_measured(measured):
    doubts, cropped, _ = measured
    metrics = uncertainty.measure(doubts, cropped, None, 100, 0)
    assert set(metrics["width"]) == {"crop_test", "crop_test_low", "crop_test_high"}


def test_a_crop_of_equal_doubt_is_not_more_doubtful(measured):
    doubts, _, truth = measured
    assert uncertainty.measure(doubts, doubts, truth, 100, 0)["width"]["crop_test"] == 0


def test_recall_has_an_interval_and_its_suffix():
    recall = uncertainty.recall(np.array([True, True, False]), "_train_neighbours")
    assert list(recall) == [f"recall_at_1_train_neighbours{end}" for end in ("", "_low", "_high")]
    assert recall["recall_at_1_train_neighbours"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("on_val", "chosen"),
    [
        ({"width": 0.55, "feature_norm": 0.6, "knn_distance": 0.7}, "feature_norm"),
        ({"feature_norm": 0.6, "width": 0.6}, "width"),
        ({"width": None, "feature_norm": 0.4}, "feature_norm"),
        ({"width": None, "knn_distance": 0.7}, None),
        ({}, None),
    ],
)
def test_the_best_own_score_on_val_is_chosen(on_val, chosen):
    assert uncertainty.choose(on_val) == chosen


def test_agreement_is_before_and_after_temperature_scaling(measured):
    logits, human = np.random.default_rng(0).normal(size=(150, 3)), measured[2].human
    metrics = uncertainty.agreement(logits, 2.0, human, 100, 0)
    cooled = uncertainty.agreement(logits / 2, 1.0, human, 100, 0)
    names = {"nll_human", "ece_human", "nll_human_calibrated", "ece_human_calibrated"}
    assert set(metrics) == {f"{name}{end}" for name in names for end in ("", "_low", "_high")}
    for name in ("nll_human", "ece_human"):
        assert metrics[f"{name}_calibrated"] == pytest.approx(cooled[name])
