"""Skill by hand, and the rank correlation against SciPy."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from prosmin.metrics import intervals
from prosmin.metrics.prediction import mean_score, rank_correlation, skill


def test_skill_is_the_share_of_the_score_of_the_control_that_is_saved():
    score, control = np.array([1.0, 2.0, 0.0]), np.array([2.0, 2.0, 2.0])
    assert mean_score(score) == 1.0 and skill(score, control) == 0.5
    counts = np.array([[3.0, 0.0, 0.0], [0.0, 3.0, 0.0]])
    np.testing.assert_allclose(skill(score, control, counts), [0.5, 0.0])


@pytest.mark.parametrize("decimals", [None, 0])
def test_the_rank_correlation_is_scipys_of_the_repeated_samples(decimals):
    rng = np.random.default_rng(0)
    one = rng.normal(size=40)
    other = one + rng.normal(size=40)
    if decimals is not None:
        one, other = one.round(decimals), other.round(decimals)
    assert rank_correlation(one, other) == pytest.approx(spearmanr(one, other).statistic)
    for counts in intervals.resamples(40, 3, 0):
        expected = [
            spearmanr(*(np.repeat(values, row.astype(int)) for values in (one, other))).statistic
            for row in counts
        ]
        np.testing.assert_allclose(rank_correlation(one, other, counts), expected)


def test_the_rank_correlation_of_a_constant_is_0():
    assert rank_correlation(np.ones(5), np.arange(5.0)) == 0
