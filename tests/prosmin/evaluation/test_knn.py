"""k-NN against scikit-learn, its ties, and the choice of k and temperature."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from prosmin.common.compute import search
from prosmin.common.errors import ConfigError, UserError
from prosmin.evaluation import knn


@pytest.fixture(scope="module")
def digits():
    features, labels = load_digits(return_X_y=True)
    features, order = features.astype(np.float32), np.random.default_rng(0).permutation(len(labels))
    return [(features[part], labels[part]) for part in np.split(order[:1000], [500, 700])]


def sklearn_knn(k, temperature):
    return KNeighborsClassifier(
        k, weights=lambda distance: np.exp((1 - distance) / temperature), metric="cosine"
    )


@pytest.mark.parametrize("tile", [search.TILE["cpu"], (7, 90)], ids=["one tile", "many tiles"])
def test_neighbours_are_scikit_learns(digits, tile, monkeypatch):
    monkeypatch.setitem(search.TILE, "cpu", tile)
    similarity, index = knn.neighbours(digits[0][0], digits[2][0], 20)
    oracle = NearestNeighbors(n_neighbors=20, metric="cosine").fit(digits[0][0].astype(float))
    distance, _ = oracle.kneighbors(digits[2][0].astype(float))
    np.testing.assert_allclose(similarity, 1 - distance, atol=1e-5)
    bank, queries = (
        part / np.linalg.norm(part, axis=1, keepdims=True) for part in (digits[0][0], digits[2][0])
    )
    np.testing.assert_allclose((bank[index] * queries[:, None]).sum(2), similarity, atol=1e-5)


@pytest.mark.parametrize("k", [1, 5, 50])
@pytest.mark.parametrize("temperature", [0.02, 0.2])
def test_votes_are_scikit_learns(digits, k, temperature):
    (bank, labels), (queries, _) = digits[0], digits[2]
    similarity, index = knn.neighbours(bank, queries, k)
    votes = knn.vote(similarity, labels[index], temperature, 10)
    oracle = sklearn_knn(k, temperature).fit(bank.astype(float), labels)
    np.testing.assert_allclose(votes, oracle.predict_proba(queries.astype(float)), atol=1e-3)


def test_hand_worked_vote():
    # Two neighbours of class 1 at 0.5, one of class 0 at 0.9, T = 0.2: 2 e^2.5 against e^4.5.
    votes = knn.vote(np.array([[0.9, 0.5, 0.5]]), np.array([[0, 1, 1]]), 0.2, 3)
    share = 1 / (1 + 2 * np.exp(-2))
    np.testing.assert_allclose(votes, [[share, 1 - share, 0]])


def test_a_low_temperature_gives_the_nearest_neighbour_and_no_overflow():
    votes = knn.vote(np.array([[1.0, 0.9, 0.9]]), np.array([[2, 1, 1]]), 1e-5, 3)
    np.testing.assert_array_equal(votes, [[0, 0, 1]])


def test_of_equally_similar_rows_the_first_of_the_bank_is_the_neighbour():
    directions = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]], np.float32)
    bank, queries = directions[np.random.default_rng(0).integers(0, 4, 200)], directions
    exact = queries @ bank.T
    for k in (1, 30, 100, 199, 200):
        similarity, index = knn.neighbours(bank, queries, k)
        np.testing.assert_array_equal(index, np.argsort(-exact, axis=1, kind="stable")[:, :k])
        np.testing.assert_array_equal(similarity, np.take_along_axis(exact, index, axis=1))


def test_a_feature_vector_of_zeros_is_similar_to_nothing():
    similarity, _ = knn.neighbours(np.eye(2, dtype=np.float32), np.zeros((1, 2), np.float32), 2)
    assert similarity.tolist() == [[0, 0]]


def test_the_grid_is_scored_on_val_and_test_is_read_with_train_and_val_as_the_bank(digits):
    train, val, test = digits
    metrics, grid = knn.evaluate_knn(train, val, test, [20, 1, 5], [0.2, 0.02], 100, 0)
    assert [row[:2] for row in grid] == [(k, t) for k in (1, 5, 20) for t in (0.02, 0.2)]
    accurate = max(row[2] for row in grid)
    assert (metrics["k"], metrics["temperature"], accurate) in grid
    for k, temperature, accuracy in grid:
        oracle = sklearn_knn(k, temperature).fit(train[0].astype(float), train[1])
        assert accuracy == oracle.score(val[0].astype(float), val[1])
    both = [np.concatenate(parts) for parts in zip(train, val, strict=True)]
    oracle = sklearn_knn(metrics["k"], metrics["temperature"]).fit(both[0].astype(float), both[1])
    assert metrics["accuracy"] == oracle.score(test[0].astype(float), test[1])
    assert (
        metrics["accuracy_low"] < metrics["accuracy"] < metrics["accuracy_high"]
        and metrics["n"] == 300
    )


def test_the_bank_for_test_holds_val_as_well():
    west, north = np.array([[1, 0]], np.float32), np.array([[0, 1]], np.float32)
    train = np.concatenate([west, west + 0.1 * north, north]), np.array([0, 0, 1])
    val = np.concatenate([west - north, north]), np.array([1, 1])
    metrics, _ = knn.evaluate_knn(
        train, val, (west - 0.9 * north, np.array([1])), [1], [0.1], 100, 0
    )
    assert metrics["accuracy"] == 1  # by train alone the neighbour is of class 0


def test_of_equally_accurate_settings_the_smaller_k_then_the_higher_temperature_is_chosen():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 20)
    apart = np.eye(2)[labels].astype(np.float32) + rng.normal(scale=0.01, size=(40, 2)).astype(
        np.float32
    )
    metrics, grid = knn.evaluate_knn(
        (apart, labels), (apart, labels), (apart, labels), [9, 3], [0.1, 0.5], 100, 0
    )
    assert {row[2] for row in grid} == {1.0}
    assert (metrics["k"], metrics["temperature"]) == (3, 0.5)


def test_a_k_above_the_bank_names_the_setting(digits):
    with pytest.raises(ConfigError, match=r"k is 501; there are 500 training images") as caught:
        knn.evaluate_knn(*digits, [5, 501], [0.1], 100, 0)
    assert caught.value.key == "k"


def test_features_that_are_not_finite_are_refused(digits):
    broken = digits[2][0].copy()
    broken[0, 0] = np.inf
    with pytest.raises(UserError, match="not finite"):
        knn.neighbours(digits[0][0], broken, 1)


def test_k_is_chosen_by_a_draw_of_a_large_val(digits, monkeypatch):
    """All of val where it is small; else a draw that the seed fixes. Test has all as the bank."""
    train, val, test = digits
    settings = [1, 5], [0.1], 100
    whole, grid = knn.evaluate_knn(train, val, test, *settings, 0)
    monkeypatch.setattr(knn, "HELD_OUT", 200)
    assert knn.evaluate_knn(train, val, test, *settings, 0) == (whole, grid)
    monkeypatch.setattr(knn, "HELD_OUT", 50)
    drawn, few = knn.evaluate_knn(train, val, test, *settings, 0)
    assert knn.evaluate_knn(train, val, test, *settings, 0) == (drawn, few)
    assert all(round(accuracy * 50, 9) == round(accuracy * 50) for *_, accuracy in few)
    k, temperature = drawn["k"], drawn["temperature"]
    alone, _ = knn.evaluate_knn(train, val, test, [k], [temperature], 100, 0)
    assert drawn["accuracy"] == alone["accuracy"]
