"""Calibration errors against torchmetrics, a loop over bins and hand-worked cases; temperature."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from torchmetrics.functional.classification import (
    binary_calibration_error,
    multiclass_calibration_error,
)

from prosmin.common.errors import UserError
from prosmin.metrics import calibration, classification, intervals
from tests.reference import calibration as reference


def predictions(n=600, classes=5, seed=0, sharpen=1.5):
    """Logits that are ``sharpen`` times those that the labels are drawn from."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=1.5, size=(n, classes))
    labels = np.array([rng.choice(classes, p=row) for row in classification.softmax(logits)])
    return logits * sharpen, labels


def binary(*pairs):
    """Probabilities and labels of two classes from pairs (confidence in class 0, is right)."""
    confidence, right = map(np.array, zip(*pairs, strict=True))
    return np.stack([confidence, 1 - confidence], 1), 1 - right.astype(int)


def test_ece_equals_torchmetrics():
    logits, labels = predictions()
    probabilities = classification.softmax(logits)
    oracle = multiclass_calibration_error(
        torch.tensor(probabilities), torch.tensor(labels), 5, n_bins=15, norm="l1"
    )
    assert calibration.ece(probabilities, labels) == pytest.approx(float(oracle), abs=1e-6)


def test_classwise_ece_equals_torchmetrics_averaged_over_classes():
    logits, labels = predictions()
    probabilities = classification.softmax(logits)
    oracle = [
        binary_calibration_error(
            torch.tensor(probabilities[:, c]), torch.tensor(labels == c).int(), 15, "l1"
        )
        for c in range(5)
    ]
    assert calibration.ece_classwise(probabilities, labels) == pytest.approx(
        np.mean(oracle), abs=1e-6
    )


@pytest.mark.parametrize("bins", [1, 4, 15])
@pytest.mark.parametrize("classes", [2, 5, 40])
def test_classwise_ece_of_resamples_is_that_of_each_class_alone(classes, bins):
    """Against dense bins of every class, for confident and for even predictions."""
    for sharpen in (0.3, 1, 8):
        logits, labels = predictions(200, classes, sharpen=sharpen)
        probabilities = classification.softmax(logits)
        probabilities[:3] = np.eye(classes)[[0, 1, 1]]  # on the edges of bins
        counts = np.concatenate(list(intervals.resamples(200, 7, seed=0)))
        expected = np.mean(
            [
                calibration.binned_error(probabilities[:, c], labels == c, counts, bins)
                for c in range(classes)
            ],
            axis=0,
        )
        ours = calibration.ece_classwise(probabilities, labels, counts, bins)
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-12)
        binned = calibration.ClasswiseBins(probabilities, labels)
        assert intervals.scale_of(
            partial(calibration.binned_ece_classwise, binned)
        ) == intervals.scale_of(partial(calibration.ece_classwise, probabilities, labels))


@pytest.mark.parametrize("n", [600, 601, 7])
def test_ece_and_adaptive_ece_equal_the_reference(n):
    logits, labels = predictions(n)
    scored = classification.softmax(logits), labels
    assert calibration.ece(*scored) == pytest.approx(reference.ece(*scored))
    assert calibration.ece_adaptive(*scored) == pytest.approx(reference.ece_adaptive(*scored))


@given(seed=st.integers(0, 10**6), n=st.integers(1, 60), bins=st.integers(1, 20))
@settings(max_examples=40, deadline=None)
def test_adaptive_ece_with_ties_equals_the_reference(seed, n, bins):
    rng = np.random.default_rng(seed)
    probabilities = rng.integers(1, 4, size=(n, 3)).astype(float)
    probabilities /= probabilities.sum(1, keepdims=True)
    labels = rng.integers(0, 3, n)
    oracle = reference.ece_adaptive(probabilities, labels, bins)
    assert calibration.ece_adaptive(probabilities, labels, bins=bins) == pytest.approx(
        oracle, abs=1e-12
    )


def test_adaptive_ece_without_ties_is_that_of_an_even_split():
    logits, labels = predictions(600)
    probabilities = classification.softmax(logits)
    confidence, hit = probabilities.max(1), probabilities.argmax(1) == labels
    parts = np.array_split(np.argsort(confidence), 15)
    oracle = sum(40 * abs(confidence[part].mean() - hit[part].mean()) for part in parts) / 600
    assert calibration.ece_adaptive(probabilities, labels) == pytest.approx(oracle)


def test_a_confidence_on_an_edge_belongs_to_the_bin_below():
    # Bins of a quarter: 0.75 closes (0.5, 0.75] and 0.76 is alone above, so nothing cancels.
    assert calibration.ece(*binary((0.75, True), (0.76, False)), bins=4) == pytest.approx(
        (0.25 + 0.76) / 2
    )


def test_hand_worked_errors():
    pairs = binary((0.6, True), (0.7, False), (0.8, True), (0.9, True))
    # Halves: all four lie in (0.5, 1]: |mean confidence 0.75 - accuracy 0.75| = 0.
    assert calibration.ece(*pairs, bins=2) == pytest.approx(0)
    # Equal mass: {0.6, 0.7} gives |0.65 - 0.5|, {0.8, 0.9} gives |0.85 - 1|, half the samples each.
    assert calibration.ece_adaptive(*pairs, bins=2) == pytest.approx(0.15)
    # Three bins of 4/3 samples: gaps -.4 + .7/3, .7 * 2/3 - .2 * 2/3, -.2 / 3 - .1.
    oracle = (abs(-0.4 + 0.7 / 3) + abs(0.7 * 2 / 3 - 0.2 * 2 / 3) + abs(-0.2 / 3 - 0.1)) / 4
    assert calibration.ece_adaptive(*pairs, bins=3) == pytest.approx(oracle)
    # Class 0 in (0.5, 1] and class 1 in (0, 0.5] mirror each other: both 0.
    assert calibration.ece_classwise(*pairs, bins=2) == pytest.approx(0)


@pytest.mark.parametrize("error", [calibration.ece, calibration.ece_adaptive])
def test_a_constant_prediction_errs_by_confidence_less_accuracy(error):
    assert error(*binary(*[(0.9, i < 12) for i in range(20)])) == pytest.approx(0.3)


@given(seed=st.integers(0, 10**6), n=st.integers(1, 80))
@settings(max_examples=30, deadline=None)
def test_binning_cannot_hide_the_overall_gap(seed, n):
    logits, labels = predictions(n, 3, seed)
    probabilities = classification.softmax(logits)
    gap = abs(probabilities.max(1).mean() - (probabilities.argmax(1) == labels).mean())
    for error in (calibration.ece, calibration.ece_adaptive):
        assert gap - 1e-12 <= error(probabilities, labels) <= 1


def test_calibrated_predictions_have_a_small_error_and_sharpened_ones_a_large_one():
    for error in (calibration.ece, calibration.ece_adaptive, calibration.ece_classwise):
        drawn = [predictions(5000, sharpen=sharpen) for sharpen in (1, 3)]
        true, sharp = (error(classification.softmax(logits), labels) for logits, labels in drawn)
        assert true < 0.03 < 0.08 < sharp


def test_reliability_rows_add_up_to_the_error_and_leave_empty_bins_out():
    logits, labels = predictions(40)
    probabilities = classification.softmax(logits)
    rows = calibration.reliability(probabilities, labels)
    assert all(low < confidence <= high and count for low, high, confidence, _, count in rows)
    assert sum(count for *_, count in rows) == 40
    error = (
        sum(count * abs(confidence - accuracy) for _, _, confidence, accuracy, count in rows) / 40
    )
    assert error == pytest.approx(calibration.ece(probabilities, labels))


def test_the_temperature_undoes_a_known_sharpening():
    logits, labels = predictions(20_000, sharpen=2.5)
    assert calibration.fit_temperature(logits, labels) == pytest.approx(2.5, rel=0.03)


@pytest.mark.parametrize("sharpen", [0.2, 1.0, 4.0])
def test_the_temperature_minimises_the_nll(sharpen):
    logits, labels = predictions(sharpen=sharpen)
    oracle = minimize_scalar(
        lambda t: classification.nll(logits / np.exp(t), labels), bounds=(-3, 3)
    )
    assert calibration.fit_temperature(logits, labels) == pytest.approx(np.exp(oracle.x), rel=1e-4)


def test_the_temperature_scales_with_the_logits():
    logits, labels = predictions()
    temperature = calibration.fit_temperature(logits, labels)
    assert calibration.fit_temperature(3 * logits, labels) == pytest.approx(3 * temperature)


@pytest.mark.parametrize(
    ("labels", "bound"),
    [([0, 1, 2], calibration.TEMPERATURES[0]), ([1, 2, 0], calibration.TEMPERATURES[1])],
)
def test_held_out_samples_that_are_all_right_or_all_wrong_give_the_bound_and_a_warning(
    labels, bound, caplog
):
    assert calibration.fit_temperature(np.eye(3), np.array(labels)) == bound
    assert f"{bound:g} is used" in caplog.text


def test_logits_that_say_nothing_keep_temperature_1():
    assert calibration.fit_temperature(np.ones((4, 3)), np.array([0, 1, 2, 0])) == 1


def test_a_temperature_needs_finite_logits():
    with pytest.raises(UserError, match="1 of 2 samples are not finite"):
        calibration.fit_temperature(np.array([[0, np.inf], [0, 1]]), np.array([0, 1]))
