"""Corruption errors against hand-worked cases and repetition of the images."""

import numpy as np
import pytest

from prosmin import metrics, robustness

# Two types, two severities, four images.
OWN = np.array([[[1, 1, 1, 0], [1, 1, 0, 0]], [[1, 1, 1, 1], [0, 1, 0, 0]]], bool)  # errors .25 .5 | 0 .75
OTHER = np.array([[[1, 0, 0, 0], [1, 0, 0, 0]], [[1, 1, 0, 0], [0, 0, 0, 0]]], bool)  # errors .75 .75 | .5 1
CLEAN = np.array([1, 1, 1, 1], bool)  # error 0
OTHER_CLEAN = np.array([1, 1, 1, 0], bool)  # error .25


def test_errors_by_hand():
    assert robustness.error(OWN).tolist() == [[0.25, 0.5], [0, 0.75]]
    assert robustness.mce_unnormalised(OWN) == (0.25 + 0.5 + 0.75) / 4


def test_mce_by_hand():
    """Types by sums: .75 / 1.5 and .75 / 1.5."""
    assert robustness.mce(OWN, OTHER) == 0.5
    assert robustness.mce(OTHER, OWN) == 2.0
    assert robustness.mce(OWN, OWN) == 1.0


def test_relative_mce_by_hand():
    """Added errors .75 and .75 against 1.5 - 2 * .25 = 1 and 1."""
    assert robustness.relative_mce(OWN, CLEAN, OTHER, OTHER_CLEAN) == 0.75
    assert robustness.relative_mce(OTHER, OTHER_CLEAN, OTHER, OTHER_CLEAN) == 1.0


def test_mce_is_a_mean_of_ratios_and_no_ratio_of_means():
    perfect = np.ones_like(OWN)
    perfect[0] = OTHER[0]
    assert robustness.mce(perfect, OTHER) == 0.5  # 1 and 0; the ratio of the sums would be 1.5 / 3
    uneven = OTHER.copy()
    uneven[0] = [[1, 1, 1, 1], [1, 1, 1, 0]]  # errors 0 .25
    assert robustness.mce(perfect, uneven) == pytest.approx((1.5 / 0.25 + 0) / 2)


def test_a_reference_without_errors_leaves_the_ratio_undefined():
    faultless = np.ones_like(OWN)
    assert np.isnan(robustness.mce(OWN, faultless))
    assert np.isnan(robustness.relative_mce(OWN, CLEAN, OTHER, np.zeros(4, bool)))  # corruption helps it


@pytest.mark.filterwarnings("error")
def test_resamples_are_the_same_numbers_on_repeated_images():
    rng = np.random.default_rng(0)
    own, other = rng.random((2, 3, 5, 40)) < [[[[0.8]]], [[[0.5]]]]
    clean, other_clean = rng.random((2, 40)) < [[0.95], [0.9]]
    counts = next(metrics.resamples(40, 7, seed=0))
    for row, repeats in enumerate(counts.astype(int)):
        again = [np.repeat(each, repeats, axis=-1) for each in (own, clean, other, other_clean)]
        values = robustness.relative_mce(own, clean, other, other_clean, counts)
        assert values[row] == pytest.approx(robustness.relative_mce(*again))
        assert robustness.mce(own, other, counts)[row] == pytest.approx(robustness.mce(again[0], again[2]))
        assert robustness.mce_unnormalised(own, counts)[row] == pytest.approx(1 - again[0].mean())


def test_a_model_has_1_against_itself_in_every_resample():
    counts = next(metrics.resamples(4, 50, seed=0))
    values = robustness.mce(OTHER, OTHER, counts)
    assert np.isclose(values, 1).sum() + np.isnan(values).sum() == 50
