"""Conformal sets against a slow derivation, and their coverage on data that are exchangeable."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from prosmin.common.errors import UserError
from prosmin.evaluation.linear_probe import evaluate_probe
from prosmin.metrics import classification, conformal, intervals
from tests.reference import conformal as reference


def predictions(seed, n, classes, spread=1.5):
    """Probabilities, and labels that follow them."""
    rng = np.random.default_rng(seed)
    probabilities = classification.softmax(spread * rng.normal(size=(n, classes)))
    labels = (probabilities.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
    return probabilities, np.minimum(labels, classes - 1)


@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 60),
    classes=st.integers(1, 9),
    level=st.sampled_from([0.5, 0.9, 0.95]),
)
@settings(max_examples=60, deadline=None)
def test_threshold_and_sets_equal_the_slow_derivation(seed, n, classes, level):
    probabilities, labels = predictions(seed, n, classes)
    threshold = conformal.fit_threshold(probabilities, labels, level)
    assert threshold == pytest.approx(reference.threshold(probabilities, labels, level), abs=1e-12)
    sets = conformal.prediction_sets(probabilities, threshold)
    for row, members in zip(probabilities, sets, strict=True):
        assert np.flatnonzero(members).tolist() == reference.prediction_set(row, threshold)


def test_of_equally_probable_classes_the_lower_comes_first():
    rows = np.array([[0.25, 0.5, 0.25], [1 / 3, 1 / 3, 1 / 3]])
    expected = [[0.5, 0, 0.75], [0, 1 / 3, 2 / 3]]
    np.testing.assert_allclose(conformal.scores(rows), expected)
    assert conformal.prediction_sets(rows, 0.5).tolist() == [[True, True, False]] * 2


def test_every_set_holds_the_most_probable_class_and_one_alone_where_that_covers_the_level():
    probabilities, _ = predictions(0, 200, 5)
    labels = probabilities.argmax(axis=1)
    labels[:10] = (labels[:10] + 1) % 5  # an accuracy of 95 %
    threshold = conformal.fit_threshold(probabilities, labels)
    sets = conformal.prediction_sets(probabilities, threshold)
    assert threshold == 0
    np.testing.assert_array_equal(sets.argmax(axis=1), probabilities.argmax(axis=1))
    assert conformal.size(sets.sum(axis=1)) == 1 and conformal.coverage(sets, labels) == 0.95


def test_with_fewer_than_nine_labels_every_set_holds_all_classes():
    probabilities, labels = predictions(0, 8, 4)
    threshold = conformal.fit_threshold(probabilities, labels)
    assert threshold == np.inf and conformal.prediction_sets(probabilities, threshold).all()
    nine = conformal.fit_threshold(*predictions(0, 9, 4))
    assert np.isfinite(nine)


def test_the_coverage_over_draws_of_both_samples_is_the_level():
    """The theory: between the level and the level plus 1 / (n + 1), here 0.9 and 0.9099."""
    covered = []
    for seed in range(400):
        probabilities, labels = predictions(seed, 200, 6)
        threshold = conformal.fit_threshold(probabilities[:100], labels[:100])
        sets = conformal.prediction_sets(probabilities[100:], threshold)
        covered.append(conformal.coverage(sets, labels[100:]))
    _, low, high = intervals.student(covered)
    assert low < 0.91 and high > 0.9 and high - low < 0.01


def test_the_protocol_of_the_probe_covers_the_level_over_20_seeds_of_the_split():
    """Few pixels, so that the accuracy, 0.52, is below the level. Val chose l2 and temperature."""
    pixels, labels = load_digits(return_X_y=True)
    features, covered = pixels[:, 18:24].astype(np.float32), []
    for seed in range(20):
        parts = np.split(np.random.default_rng(seed).permutation(len(labels)), [800, 1100])
        splits = [(features[rows], labels[rows]) for rows in parts]
        covered.append(evaluate_probe(*splits, [0.001, 0.01, 0.1], 2, 0).metrics)
    coverages = [metrics["conformal_coverage"] for metrics in covered]
    _, low, high = intervals.student(coverages)
    assert low < 0.9034 and high > 0.9 and high - low < 0.03
    assert all(2 < metrics["conformal_size"] < 5 for metrics in covered)


@pytest.mark.parametrize("threshold", [-0.1, float("nan")])
def test_a_threshold_that_is_no_score_is_refused(threshold):
    with pytest.raises(UserError, match="the conformal threshold is .*; it must be at least 0"):
        conformal.prediction_sets(np.array([[0.4, 0.6]]), threshold)


def test_logits_are_refused():
    with pytest.raises(UserError, match="not probabilities"):
        conformal.fit_threshold(np.array([[3.0, -1.0]]), np.zeros(1, int))


def test_a_resample_by_counts_is_the_value_of_the_repeated_samples():
    probabilities, labels = predictions(0, 60, 5)
    sets = conformal.prediction_sets(probabilities, 0.6)
    for counts in intervals.resamples(60, 3, 0):
        repeated = [np.repeat(np.arange(60), row.astype(int)) for row in counts]
        coverages = [conformal.coverage(sets[rows], labels[rows]) for rows in repeated]
        np.testing.assert_allclose(conformal.coverage(sets, labels, counts), coverages)
        sizes = [conformal.size(sets[rows].sum(1)) for rows in repeated]
        np.testing.assert_allclose(conformal.size(sets.sum(1), counts), sizes)
