"""Metrics against scikit-learn, SciPy and hand-worked cases; counts against repeated samples."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax as scipy_softmax
from scipy.stats import bootstrap
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss
from torchmetrics.functional.classification import multiclass_accuracy

from prosmin.common.errors import UserError
from prosmin.metrics import calibration, classification, intervals


def predictions(n=400, classes=7, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2, size=(n, classes))
    labels = np.array([rng.choice(classes, p=row) for row in scipy_softmax(logits / 1.5, axis=1)])
    return logits, scipy_softmax(logits, axis=1), labels


# Each metric as a function of probabilities, labels and counts.
ALL = {
    "accuracy": classification.accuracy,
    "accuracy_top2": lambda p, y, counts=None: classification.top_k_accuracy(p, y, 2, counts),
    "nll": lambda p, y, counts=None: classification.nll(np.log(p), y, counts),
    "brier": classification.brier,
    "ece": calibration.ece,
    "ece_adaptive": calibration.ece_adaptive,
    "ece_classwise": calibration.ece_classwise,
}
every_metric = pytest.mark.parametrize("metric", ALL.values(), ids=ALL)


def test_accuracy_nll_and_brier_equal_scikit_learn():
    logits, probabilities, labels = predictions()
    assert classification.accuracy(logits, labels) == accuracy_score(labels, logits.argmax(1))
    assert classification.nll(logits, labels) == pytest.approx(
        log_loss(labels, probabilities), rel=1e-12
    )
    oracle = brier_score_loss(labels, probabilities, scale_by_half=False)
    assert classification.brier(probabilities, labels) == pytest.approx(oracle, rel=1e-12)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_top_k_accuracy_equals_torchmetrics(k):
    logits, _, labels = predictions()
    oracle = multiclass_accuracy(
        torch.tensor(logits), torch.tensor(labels), 7, average="micro", top_k=k
    )
    assert classification.top_k_accuracy(logits, labels, k) == pytest.approx(
        float(oracle), abs=1e-6
    )


def test_softmax_equals_scipy():
    logits, probabilities, _ = predictions()
    np.testing.assert_allclose(classification.softmax(logits), probabilities, rtol=1e-12)


@pytest.mark.parametrize(
    ("logits_of_one", "nll", "brier"),
    [
        ([1, 1, 1, 1], np.log(4), 0.75),
        ([1e9, 0, 0, 0], 0, 0),
        ([0, 1e9, 0, 0], 1e9, 2),
        ([1e9, 1e9, 0, 0], np.log(2), 0.5),
    ],
    ids=["uniform", "sure and right", "sure and wrong", "torn"],
)
def test_hand_worked_nll_and_brier_of_label_0(logits_of_one, nll, brier):
    logits, labels = np.array([logits_of_one], float), np.array([0])
    assert classification.nll(logits, labels) == pytest.approx(nll)
    assert classification.brier(classification.softmax(logits), labels) == pytest.approx(brier)


def test_a_tie_goes_to_the_lower_class_for_top_1_and_top_k_alike():
    constant, labels = np.zeros((4, 4)), np.arange(4)
    assert (
        classification.accuracy(constant, labels)
        == classification.top_k_accuracy(constant, labels, 1)
        == 0.25
    )
    assert classification.top_k_accuracy(constant, labels, 3) == 0.75


@every_metric
@given(seed=st.integers(0, 10**6), coarse=st.booleans())
@settings(max_examples=15, deadline=None)
def test_the_order_of_the_samples_does_not_matter(metric, seed, coarse):
    _, probabilities, labels = predictions(50, 4, seed)
    if coarse:  # many equal confidences
        probabilities = np.round(probabilities * 4) + 1
        probabilities /= probabilities.sum(1, keepdims=True)
    order = np.random.default_rng(seed).permutation(50)
    assert metric(probabilities[order], labels[order]) == pytest.approx(
        metric(probabilities, labels), abs=1e-12
    )


@every_metric
def test_counts_mean_what_repeating_the_samples_means(metric):
    _, probabilities, labels = predictions(100, 4)
    counts = np.concatenate(list(intervals.resamples(100, 5, seed=1)))
    rows = [np.repeat(np.arange(100), row.astype(int)) for row in counts]
    repeated = [metric(probabilities[row], labels[row]) for row in rows]
    np.testing.assert_allclose(metric(probabilities, labels, counts), repeated, atol=1e-12)


@every_metric
def test_one_sample_and_one_class_predicted_are_enough(metric):
    assert metric(np.array([[0.2, 0.8, 0.0]]) + 1e-12, np.array([1])) >= 0
    assert metric(np.tile([[0.7, 0.2, 0.1]], (5, 1)), np.zeros(5, int)) >= 0


@every_metric
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p, y: (np.where(np.arange(4) == 2, np.nan, p), y), "not finite"),
        (lambda p, y: (p, y - 1), "label -1 is not one of the 4 classes"),
        (lambda p, y: (p, y + 1), "label 4 is not one of the 4 classes"),
        (lambda p, y: (p, y[:-1]), "do not go with labels of shape"),
        (lambda p, y: (p[:0], y[:0]), "at least 1"),
        (lambda p, y: (p, y.astype(float)), "must be integers"),
    ],
    ids=["NaN", "unlabelled", "unknown class", "too few labels", "empty", "float labels"],
)
def test_what_cannot_be_scored_is_refused(metric, spoil, message):
    probabilities = np.tile([[0.4, 0.3, 0.2, 0.1]], (4, 1))
    with np.errstate(invalid="ignore"), pytest.raises(UserError, match=message):
        metric(*spoil(probabilities, np.arange(4)))


@pytest.mark.parametrize("name", ["brier", "ece", "ece_adaptive", "ece_classwise"])
def test_logits_are_not_taken_for_probabilities(name):
    logits, _, labels = predictions()
    with pytest.raises(UserError, match="not probabilities"):
        ALL[name](logits, labels)


@pytest.mark.parametrize("k", [0, 4, 5])
def test_a_top_k_that_says_nothing_is_refused(k):
    with pytest.raises(UserError, match=f"top-{k} accuracy with 4 classes"):
        classification.top_k_accuracy(np.zeros((2, 4)), np.zeros(2, int), k)


def test_the_interval_of_a_mean_equals_scipy_bootstrap():
    _, probabilities, labels = predictions()
    metrics = classification.with_intervals(
        {"brier": partial(classification.brier, probabilities, labels)}, 400, 4000, seed=0
    )
    squares = ((probabilities - np.eye(7)[labels]) ** 2).sum(1)
    oracle = bootstrap(
        (squares,), np.mean, n_resamples=4000, method="percentile", rng=1
    ).confidence_interval
    width = oracle.high - oracle.low
    assert metrics["brier"] == pytest.approx(squares.mean())
    assert metrics["brier_low"] == pytest.approx(oracle.low, abs=0.06 * width)
    assert metrics["brier_high"] == pytest.approx(oracle.high, abs=0.06 * width)


def test_intervals_are_repeatable_and_nested_by_level():
    logits, _, labels = predictions()
    scored = {"nll": partial(classification.nll, logits, labels)}
    one, again, other = (
        classification.with_intervals(scored, 400, 500, seed) for seed in (0, 0, 1)
    )
    narrow = classification.with_intervals(scored, 400, 500, 0, level=0.5)
    assert one == again != other
    assert one["nll_low"] < narrow["nll_low"] < narrow["nll_high"] < one["nll_high"]


def _coverage(draw, scored, truth, name):
    rng, covered, around = np.random.default_rng(0), 0, 0
    for _ in range(300):
        data = draw(rng)
        values = classification.with_intervals({name: partial(scored, *data)}, len(data[1]), 200, 0)
        covered += values[f"{name}_low"] <= truth <= values[f"{name}_high"]
        around += values[f"{name}_low"] <= values[name] <= values[f"{name}_high"]
    return covered / 300, around / 300


def test_intervals_cover_the_true_accuracy_in_95_of_100_samples():
    def draw(rng, n=200):
        return np.tile([[0.9, 0.1]], (n, 1)), (rng.random(n) > 0.8).astype(int)

    covered, _ = _coverage(draw, classification.accuracy, 0.8, "accuracy")
    assert (
        0.91 <= covered <= 0.985
    )  # 0.95 +- 3 standard errors of 300 samples, and the percentile method's own error


@pytest.mark.parametrize("power", [1.0, 2.0], ids=["calibrated", "over-confident"])
def test_the_interval_covers_the_expected_calibration_error_and_holds_its_own_value(power):
    def draw(rng, n=200):
        confidence = rng.uniform(0.5, 1, n)
        return np.stack([confidence, 1 - confidence], 1), (
            rng.random(n) > confidence**power
        ).astype(int)

    rng = np.random.default_rng(9)
    expected = np.mean([calibration.ece(*draw(rng)) for _ in range(500)])
    covered, around = _coverage(draw, calibration.ece, expected, "ece")
    assert covered >= 0.91
    assert around == 1
