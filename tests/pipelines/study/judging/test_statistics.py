"""Paired t-tests, Holm's correction and verdicts against SciPy and slow derivations."""

import itertools

import numpy as np
import pytest
from scipy.stats import rankdata, ttest_rel

from pipelines.study.judging.statistics import Gain, gain, holm, ranks, t_test, verdict


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
@pytest.mark.parametrize("higher", [True, False])
def test_a_gain_is_the_paired_t_test_of_scipy(seeds, higher):
    rng = np.random.default_rng(seeds)
    for _ in range(20):
        tested, other = rng.normal(0.5, 0.1, (2, seeds))
        value = gain(tested.tolist(), other.tolist(), higher)
        expected = ttest_rel(tested, other) if higher else ttest_rel(other, tested)
        low, high = expected.confidence_interval(0.95)
        assert (value.mean > 0) == (expected.statistic > 0)
        assert (value.p, value.low, value.high) == pytest.approx((expected.pvalue, low, high))
        assert value.apart == (low > 0 or high < 0)


def test_one_seed_tells_nothing_and_neither_do_equal_gains():
    assert gain([0.5], [0.4], True) is None
    assert t_test([0.25, 0.25, 0.25]) == t_test([0.0, 0.0]) == 1.0
    assert gain([0.5, 0.6], [0.4, 0.5], True).p == 1.0  # equal apart from rounding


def closed_holm(p_values):
    """The corrected p value as the definition has it.

    It is the largest p value of a test (Bonferroni) of any set of hypotheses that holds the one.
    """
    places = range(len(p_values))
    sets = [
        chosen for size in places for chosen in itertools.combinations(places, size + 1) if chosen
    ]
    bonferroni = {
        chosen: min(1.0, len(chosen) * min(p_values[i] for i in chosen)) for chosen in sets
    }
    return [max(bonferroni[chosen] for chosen in sets if place in chosen) for place in places]


def test_holm_is_the_closed_test_of_bonferroni():
    assert holm([]) == []
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    rng = np.random.default_rng(0)
    for count in range(1, 7):
        for _ in range(10):
            p_values = np.round(rng.uniform(0, 0.3, count) ** 2, 3).tolist()
            assert holm(p_values) == pytest.approx(closed_holm(p_values))


def test_the_chance_of_any_mark_without_a_difference_is_at_most_five_percent():
    rng = np.random.default_rng(1)
    studies, marked = 400, 0
    for _ in range(studies):
        tested, others = rng.normal(size=4), rng.normal(size=(6, 4))
        p_values = [gain(tested.tolist(), other.tolist(), True).p for other in others]
        marked += min(holm(p_values)) < 0.05
    assert marked / studies < 0.05 + 3 * (0.05 * 0.95 / studies) ** 0.5


@pytest.mark.parametrize(
    ("mean", "corrected", "expected"),
    [(0.1, 0.049, "shown"), (-0.1, 0.049, "contradicted"), (0.1, 0.05, "not shown")],
)
def test_the_corrected_p_value_gives_the_verdict(mean, corrected, expected):
    assert Gain(mean, mean - 1, mean + 1, 0.01, 3, corrected).verdict == expected


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (["shown", "shown"], "shown"),
        (["shown", "not shown"], "not shown"),
        (["shown", "not shown", "contradicted"], "contradicted"),
        ([], "not shown"),
    ],
)
def test_a_claim_is_shown_by_all_and_contradicted_by_one(parts, expected):
    assert verdict(parts) == expected


@pytest.mark.parametrize("higher", [True, False])
def test_ranks_are_those_of_scipy(higher):
    values = [0.3, 0.5, 0.5, 0.1, 0.4]
    assert ranks(values, higher) == rankdata([-v if higher else v for v in values]).tolist()
