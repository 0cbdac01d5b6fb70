"""R-AUROC against scikit-learn, agreement with people against SciPy and the metrics of labels."""

from functools import partial

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy
from sklearn.metrics import roc_auc_score

from prosmin.common.errors import UserError
from prosmin.metrics import calibration, classification, intervals, uncertainty


def doubts(decimals=3, n=200):
    """Doubts that tell wrong neighbours a little better than chance, and which are right."""
    rng = np.random.default_rng(0)
    right = rng.random(n) < 0.8
    return (rng.normal(size=n) - 0.5 * right).round(decimals), right


@pytest.mark.parametrize("decimals", [3, 0])
def test_r_auroc_is_scikit_learns_with_a_wrong_neighbour_as_positive(decimals):
    doubt, right = doubts(decimals)
    value = uncertainty.r_auroc(doubt, right)
    assert value == pytest.approx(roc_auc_score(~right, doubt)) and value > 0.5
    low, high = uncertainty.r_auroc_interval(doubt, right, 200, 0)
    assert 0 < low < value < high < 1
    assert uncertainty.r_auroc(np.zeros(200), right) == 0.5


@pytest.mark.parametrize("right", [np.ones(5, bool), np.zeros(5, bool)])
def test_r_auroc_is_undefined_without_right_or_without_wrong_neighbours(right):
    assert uncertainty.r_auroc(np.arange(5.0), right) is None
    assert uncertainty.r_auroc_interval(np.arange(5.0), right, 100, 0) == (None, None)


def test_a_rejection_curve_is_the_recall_of_the_least_doubtful():
    doubt, right = doubts(9)
    kept, recall = uncertainty.rejection_curve(doubt, right, points=20)
    order = np.argsort(doubt)
    assert len(kept) == 20 and kept[-1] == 1 and recall[-1] == pytest.approx(right.mean())
    for share, value in zip(kept, recall, strict=True):
        assert value == pytest.approx(right[order[: round(share * 200)]].mean())


def test_the_rejection_curve_of_a_constant_is_level():
    _, right = doubts()
    kept, recall = uncertainty.rejection_curve(np.zeros(200), right)
    assert len(kept) == 50
    np.testing.assert_allclose(recall, right.mean())


def test_few_images_have_a_point_each():
    kept, recall = uncertainty.rejection_curve(np.array([2.0, 1.0]), np.array([False, True]))
    assert kept.tolist() == [0.5, 1.0] and recall.tolist() == [1.0, 0.5]


def test_a_share_has_wilsons_interval():
    hits = np.array([True] * 7 + [False] * 3)
    scored = classification.with_intervals({"it": partial(uncertainty.share, hits)}, 10, 100, 0)
    assert tuple(scored.values()) == (0.7, *intervals.wilson(0.7, 10))


# --- agreement with people ------------------------------------------------------------------------


def people(n=60, classes=4):
    rng = np.random.default_rng(1)
    distributions = rng.dirichlet(np.full(classes, 0.3), n)
    distributions[0] = np.eye(classes)[0]  # people who all agree
    return rng.normal(size=(n, classes)) * 2, distributions


def test_entropy_is_scipys():
    _, distributions = people()
    np.testing.assert_allclose(
        uncertainty.entropy(distributions), entropy(distributions, axis=1), atol=1e-12
    )
    assert uncertainty.entropy(distributions)[0] == 0


def test_the_nll_of_peoples_labels_is_the_mean_over_people():
    logits, distributions = people()
    logs = np.log(softmax(logits, axis=1))
    expected = np.mean([-(shares @ row) for shares, row in zip(distributions, logs, strict=True)])
    assert uncertainty.nll_human(logits, distributions) == pytest.approx(expected)


def test_people_who_agree_make_the_metrics_of_labels():
    logits, distributions = people()
    labels = distributions.argmax(axis=1)
    agreed = np.eye(4)[labels]
    probabilities = softmax(logits, axis=1)
    for counts in (None, next(intervals.resamples(60, 3, 0))):
        np.testing.assert_allclose(
            uncertainty.nll_human(logits, agreed, counts),
            classification.nll(logits, labels, counts),
        )
        np.testing.assert_allclose(
            uncertainty.ece_human(probabilities, agreed, counts),
            calibration.ece(probabilities, labels, counts),
        )


def test_who_predicts_the_shares_of_people_is_calibrated_and_has_the_lowest_nll():
    logits, distributions = people()
    assert uncertainty.ece_human(distributions, distributions) == pytest.approx(0, abs=1e-12)
    best = uncertainty.nll_human(np.log(distributions + 1e-300), distributions)
    assert best == pytest.approx(uncertainty.entropy(distributions).mean())
    assert best < uncertainty.nll_human(logits, distributions)


def test_the_ece_against_people_by_hand():
    """Two images in one bin: confidence 0.9 and 0.92, chosen by 0.5 and 1 of the people."""
    probabilities = np.array([[0.9, 0.1], [0.08, 0.92]])
    distributions = np.array([[0.5, 0.5], [0.0, 1.0]])
    value = uncertainty.ece_human(probabilities, distributions)
    assert value == pytest.approx((0.9 - 0.5 + 0.92 - 1.0) / 2)


def test_people_of_another_shape_are_refused():
    logits, distributions = people()
    for metric in (uncertainty.nll_human, uncertainty.ece_human):
        with pytest.raises(UserError, match=r"shape \(60, 4\) do not go with human distributions"):
            metric(logits, distributions[:, :3])
