"""95 % intervals hold a known truth as often as they claim, over 1000 synthetic test sets."""

from functools import partial

import numpy as np
import pytest
from scipy.stats import binomtest, multinomial, norm, t

from prosmin.metrics import (
    calibration,
    classification,
    corruption_error,
    detection,
    intervals,
    selective,
)
from prosmin.metrics.paired import auroc_difference, difference
from prosmin.metrics.prediction import rank_correlation

REPETITIONS = 1000


def share_inside(interval, truth: float, repetitions: int = REPETITIONS) -> float:
    limits = [interval(seed=seed) for seed in range(repetitions)]
    return float(np.mean([low <= truth <= high for low, high in limits]))


def test_the_interval_of_a_mean_is_that_of_members_that_move_together():
    value, low, high = intervals.mean_of([(0.5, 0.4, 0.7), (0.9, 0.8, 0.9)])
    assert (value, low, high) == pytest.approx((0.7, 0.6, 0.8))
    assert intervals.mean_of([(0.5, None, None), (0.7, 0.6, 0.8)]) == (0.6, None, None)


def of(metric, n, seed, resamples=300):
    values = classification.with_intervals({"it": metric}, n, resamples, seed)
    return values["it_low"], values["it_high"]


def accuracy(seed: int) -> tuple[float, float]:
    """400 images of which each is right with probability 0.8."""
    labels = np.zeros(400, int)
    right = np.random.default_rng(seed).random(400) < 0.8
    return of(
        partial(classification.accuracy, np.stack([right, ~right], 1).astype(float), labels),
        400,
        seed,
    )


def brier(seed: int) -> tuple[float, float]:
    """300 images of two classes, calibrated p uniform in [0, 1]: the mean of 2 p (1 - p) is 1/3."""
    rng = np.random.default_rng(seed)
    p = rng.random(300)
    labels = (rng.random(300) < p).astype(int)
    return of(partial(classification.brier, np.stack([1 - p, p], 1), labels), 300, seed)


def nll(seed: int) -> tuple[float, float]:
    """The same images: the mean of -p log p - (1 - p) log(1 - p) is 1/2 nat."""
    rng = np.random.default_rng(seed)
    p = rng.random(300)
    labels = (rng.random(300) < p).astype(int)
    return of(partial(classification.nll, np.log(np.stack([1 - p, p], 1)), labels), 300, seed)


def auroc(seed: int) -> tuple[float, float]:
    """150 ID scores of N(0, 1) and 150 OOD scores of N(1, 1)."""
    rng = np.random.default_rng(seed)
    return detection.auroc_interval(
        rng.normal(size=150), rng.normal(size=150) + 1, resamples=300, seed=seed
    )


def nearly_all_right(seed: int, share: float = 0.995) -> tuple[float, float]:
    """360 images, as in the default run."""
    right = np.random.default_rng(seed).random(360) < share
    return of(
        partial(
            classification.accuracy, np.stack([right, ~right], 1).astype(float), np.zeros(360, int)
        ),
        360,
        seed,
    )


def rare_confident_errors(metric, seed: int) -> tuple[float, float]:
    """360 images with probability 0.999 for one class; 0.001 are of the other class: calibrated."""
    wrong = (np.random.default_rng(seed).random(360) < 0.001).astype(int)
    probabilities = np.tile([0.999, 0.001], (360, 1))
    return of(
        partial(
            metric, np.log(probabilities) if metric is classification.nll else probabilities, wrong
        ),
        360,
        seed,
        100,
    )


def nearly_all_found(seed: int) -> tuple[float, float]:
    """360 scores on either side, normal, 4.5 standard deviations apart: an AUROC of 0.9993."""
    rng = np.random.default_rng(seed)
    return detection.auroc_interval(
        rng.normal(size=360), rng.normal(size=360) + 4.5, resamples=100, seed=seed
    )


def equal_models(seed: int) -> tuple[float, float]:
    """The difference of two models of accuracy 0.995 that err apart."""
    rng = np.random.default_rng(seed)
    both = [rng.random(360) < 0.995 for _ in range(2)]
    pair = [
        partial(
            classification.accuracy, np.stack([right, ~right], 1).astype(float), np.zeros(360, int)
        )
        for right in both
    ]
    return difference(*pair, 360, 100, seed)[1:]


@pytest.mark.parametrize(
    ("interval", "truth"),
    [(accuracy, 0.8), (brier, 1 / 3), (nll, 0.5), (auroc, norm.cdf(1 / np.sqrt(2)))],
    ids=["accuracy", "brier", "nll", "auroc"],
)
def test_intervals_cover_what_they_say(interval, truth):
    assert 0.93 <= share_inside(interval, truth) <= 0.97


@pytest.mark.parametrize(
    ("interval", "truth"),
    [
        (nearly_all_right, 0.995),
        (partial(nearly_all_right, share=0.999), 0.999),
        (partial(rare_confident_errors, classification.brier), 2 * 0.001 * 0.999),
        (
            partial(rare_confident_errors, classification.nll),
            -0.999 * np.log(0.999) - 0.001 * np.log(0.001),
        ),
        (nearly_all_found, norm.cdf(4.5 / np.sqrt(2))),
        (equal_models, 0.0),
    ],
    ids=["accuracy 0.995", "accuracy 0.999", "brier", "nll", "auroc", "difference"],
)
def test_they_still_do_near_the_ends_of_the_range(interval, truth):
    """A percentile bootstrap covers 31 to 83 % in the first five."""
    assert share_inside(interval, truth, 300) >= 0.93


ALL_RIGHT = corruption_error.Measured(np.ones((2, 2, 360), bool), np.ones(360, bool))
PERFECT = np.log(np.eye(10)[np.arange(360) % 10] * 0.999 + 0.0001), np.arange(360) % 10


@pytest.mark.parametrize(
    ("metric", "ends"),
    [
        (partial(classification.accuracy, *PERFECT), (0, 1)),
        (partial(classification.top_k_accuracy, *PERFECT, 5), (0, 1)),
        (partial(classification.nll, *PERFECT), (0, np.inf)),
        (partial(classification.brier, np.eye(10)[PERFECT[1]], PERFECT[1]), (0, 2)),
        (partial(selective.aurc, np.eye(10)[PERFECT[1]], PERFECT[1]), (0, 1)),
        *((partial(error, np.eye(10)[PERFECT[1]], PERFECT[1]), (0, 1))
          for error in (calibration.ece, calibration.ece_adaptive, calibration.ece_classwise)),
        (partial(rank_correlation, np.arange(360.0), np.arange(360.0)), (-1, 1)),
        (partial(corruption_error.mce_unnormalised, ALL_RIGHT), (0, 1)),
        (partial(classification.mean_share, np.ones(360)), (0, 1)),
    ],
)  # fmt: skip
def test_no_value_at_an_end_has_an_interval_without_width_or_beyond_the_range(metric, ends):
    values = classification.with_intervals({"it": metric}, 360, 100, 0)
    assert ends[0] <= values["it_low"] <= values["it"] <= values["it_high"] <= ends[1]
    assert values["it_high"] - values["it_low"] > 1e-4


def test_an_auroc_of_1_is_an_interval_and_two_of_them_need_not_be_equal():
    pairs = [(np.arange(60) / 60 * part, 1 + np.arange(40) / 40) for part in (1, 0.5)]
    low, high = detection.auroc_interval(*pairs[0], resamples=100, seed=0)
    assert 0.9 < low < high == 1
    gain = auroc_difference(*pairs, 100, 0)
    assert gain.value == 0 and -0.1 < gain.low < 0 < gain.high < 0.1


@pytest.mark.parametrize("right, count", [(0, 1), (1, 1), (3, 7), (180, 200), (200, 200)])
def test_wilsons_is_scipys(right, count):
    oracle = binomtest(right, count).proportion_ci(0.95, "wilson")
    low, high = intervals.wilson(np.array([right / count]), np.array([float(count)]))
    assert (low[0], high[0]) == pytest.approx((oracle.low, oracle.high), abs=1e-9)
    hits = np.arange(count) < right
    interval = of(
        partial(
            classification.accuracy, np.stack([hits, ~hits], 1).astype(float), np.zeros(count, int)
        ),
        count,
        0,
    )
    assert interval == pytest.approx((oracle.low, oracle.high), abs=1e-9)


def test_over_seeds_it_is_students():
    values = [0.90, 0.93, 0.91, 0.95, 0.92]
    low, high = t.interval(0.95, 4, np.mean(values), np.std(values, ddof=1) / np.sqrt(5))
    assert intervals.student(values) == pytest.approx((0.922, low, high))


def test_over_draws_of_the_labels_it_is_students_and_wilsons_together():
    values = [0.90, 0.93, 0.91, 0.95, 0.92]
    low, high = t.interval(0.95, 4, 0.922, np.std(values, ddof=1) / np.sqrt(5))
    ends = intervals.wilson(0.922, 500)
    below, above = np.hypot(0.922 - low, 0.922 - ends[0]), np.hypot(high - 0.922, ends[1] - 0.922)
    assert intervals.over_draws(values, 500) == pytest.approx((0.922, 0.922 - below, 0.922 + above))
    assert (
        intervals.over_draws([1.0, 0.9, 1.0], 50)[2] == 1
        and intervals.over_draws([0.0, 0.1, 0.0], 50)[1] == 0
    )
    assert intervals.over_draws([1.0, 1.0, 1.0], 50) == pytest.approx(
        (1, intervals.wilson(1, 50)[0], 1)
    )


def test_resamples_are_multinomial_and_repeatable_in_blocks(monkeypatch):
    # 300 rows per block, so the last block of 2000 rows is shorter.
    monkeypatch.setattr(intervals, "_BLOCK", 50 * 300)
    blocks = list(intervals.resamples(50, 2000, seed=3))
    counts = np.concatenate(blocks)
    assert [len(block) for block in blocks] == [300] * 6 + [200]
    assert (counts.sum(1) == 50).all()
    expected = multinomial(50, np.full(50, 1 / 50)).cov()
    np.testing.assert_allclose(counts.mean(0), 1, atol=0.12)
    np.testing.assert_allclose(np.cov(counts.T), expected, atol=0.2)
    np.testing.assert_array_equal(
        counts, np.concatenate(list(intervals.resamples(50, 2000, seed=3)))
    )
    assert not np.array_equal(counts, np.concatenate(list(intervals.resamples(50, 2000, seed=4))))


def test_resamples_in_columns_are_draws_with_replacement_of_the_same_generator():
    rng, again = np.random.default_rng(5), np.random.default_rng(5)
    counts = intervals.resample_columns(rng, 7, 4)
    drawn = again.integers(7, size=(7, 4))
    expected = [[(drawn[:, column] == row).sum() for column in range(4)] for row in range(7)]
    np.testing.assert_array_equal(counts, expected)


def test_all_metrics_see_the_same_resamples_and_none_draws_none():
    values = np.random.default_rng(0).random(30)
    metrics = {
        "one": partial(classification.mean, values),
        "two": partial(classification.mean, values),
    }
    drawn = intervals.on_resamples(metrics, 30, 50, seed=1)
    assert drawn["one"].shape == (50,)
    np.testing.assert_array_equal(drawn["one"], drawn["two"])
    assert intervals.on_resamples({}, 30, 50, seed=1) == {}
