"""Metrics of detection against pytorch-ood, scikit-learn, SciPy and hand-worked cases."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_ood.metrics import OODMetrics
from pytorch_ood.metrics.functional import fpr_at_tpr
from scipy.stats import bootstrap
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.metrics import roc_curve as sklearn_roc_curve

from prosmin.common.errors import UserError
from prosmin.common.seeds import generator
from prosmin.metrics import detection, intervals


@pytest.mark.parametrize("shape", ["continuous", "tied"])
def test_metrics_are_the_libraries(shape):
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(size=700), rng.normal(size=400) + 1.2
    if shape == "tied":
        inside, outside = inside.round(1), outside.round(1)
    both, target = np.concatenate([inside, outside]), np.repeat([0, 1], [len(inside), len(outside)])
    metrics = detection.evaluate(inside, outside, resamples=100, seed=0)
    assert metrics["auroc"] == pytest.approx(roc_auc_score(target, both), abs=1e-12)
    assert metrics["aupr_ood"] == pytest.approx(average_precision_score(target, both), abs=1e-12)
    assert metrics["aupr_id"] == pytest.approx(
        average_precision_score(1 - target, -both), abs=1e-12
    )
    library = OODMetrics().update(torch.from_numpy(both), torch.from_numpy(-target)).compute()
    assert metrics["auroc"] == pytest.approx(library["AUROC"], abs=1e-9)
    # The library integrates precision by trapezes, which differ from the step sum by under a step.
    assert metrics["aupr_ood"] == pytest.approx(library["AUPR-OUT"], abs=0.01)
    assert metrics["aupr_id"] == pytest.approx(library["AUPR-IN"], abs=0.01)
    # The FPR95 of the library, like that of OpenOOD, rejects 95 % of OOD. With classes and signs
    # swapped it accepts 95 % of ID.
    assert metrics["fpr95_ood"] == pytest.approx(library["FPR95TPR"], abs=1e-6)
    assert metrics["fpr95"] == pytest.approx(
        fpr_at_tpr(torch.from_numpy(-both), torch.from_numpy(target - 1)).item()
    )


few = st.lists(st.integers(-3, 3), min_size=1, max_size=12).map(np.array)


@given(few, few)
@settings(max_examples=150, deadline=None)
def test_metrics_with_ties_are_scikit_learns(inside, outside):
    both, target = np.concatenate([inside, outside]), np.repeat([0, 1], [len(inside), len(outside)])
    assert detection.auroc(inside, outside) == pytest.approx(roc_auc_score(target, both))
    assert detection.average_precision(outside, inside) == pytest.approx(
        average_precision_score(target, both)
    )
    assert detection.average_precision(-inside, -outside) == pytest.approx(
        average_precision_score(1 - target, -both)
    )
    expected = min(np.mean(outside <= t) for t in inside if np.mean(inside <= t) >= 0.95)
    assert detection.fpr95(inside, outside) == expected
    rejected = max((t for t in outside if np.mean(outside >= t) >= 0.95))
    assert detection.fpr95_ood(inside, outside) == np.mean(inside >= rejected)
    # As OpenOOD reads it off scikit-learn's curve: the first threshold that rejects 95 % of OOD.
    ood_fpr, ood_tpr, _ = sklearn_roc_curve(target, both)
    assert detection.fpr95_ood(inside, outside) == pytest.approx(
        ood_fpr[np.argmax(ood_tpr >= 0.95)]
    )
    fpr, tpr, _ = sklearn_roc_curve(target, both, drop_intermediate=False)
    np.testing.assert_allclose(detection.roc_curve(inside, outside), (fpr, tpr))


@given(few, few)
@settings(max_examples=50, deadline=None)
def test_swapping_the_classes_mirrors_auroc(inside, outside):
    assert detection.auroc(inside, outside) == pytest.approx(1 - detection.auroc(outside, inside))


def test_metrics_by_hand():
    """ID 1 2 3, OOD 2 4: of six pairs four are won (2>1, 4>1, 4>2, 4>3), one tied, one lost."""
    inside, outside = np.array([1.0, 2, 3]), np.array([2.0, 4])
    assert detection.auroc(inside, outside) == 4.5 / 6
    assert (
        detection.average_precision(outside, inside) == 0.5 * 1 + 0.5 * 2 / 4
    )  # at 4: 1 of 1; at 2: 2 of 4
    assert detection.fpr95(inside, outside) == 0.5  # all three ID are needed: the threshold is 3
    assert detection.fpr95_ood(inside, outside) == 2 / 3  # both OOD are needed: the threshold is 2


def test_constant_scores_know_nothing():
    metrics = detection.evaluate(np.zeros(30), np.zeros(10), resamples=100, seed=0)
    low, high = metrics.pop("auroc_low"), metrics.pop("auroc_high")
    assert metrics == {
        "auroc": 0.5,
        "aupr_ood": 0.25,
        "aupr_id": 0.75,
        "fpr95": 1.0,
        "fpr95_ood": 1.0,
    }
    assert 0 < low < 0.5 < high < 1  # 40 images show no more than that


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused(bad):
    with pytest.raises(UserError, match="1 of 3 OOD scores are NaN or infinite"):
        detection.evaluate(np.zeros(3), np.array([0, bad, 1]), resamples=100, seed=0)


def test_an_empty_side_is_refused():
    with pytest.raises(UserError, match="no in-distribution scores"):
        detection.evaluate(np.zeros(0), np.zeros(3), resamples=100, seed=0)


@pytest.mark.parametrize("decimals", [None, 1])
def test_the_auroc_interval_is_the_bootstraps(decimals):
    """SciPy's bootstrap of the AUROC, counted pair by pair, is the reference; also with ties."""
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(size=90), rng.normal(size=60) + 1
    if decimals is not None:
        inside, outside = inside.round(decimals), outside.round(decimals)
    reference = bootstrap(
        (inside, outside), lambda a, b: np.mean((b[:, None] > a) + (b[:, None] == a) / 2),
        n_resamples=6000, method="percentile", vectorized=False, rng=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    low, high = detection.auroc_interval(inside, outside, resamples=6000, seed=0)
    assert (low, high) == pytest.approx((reference.low, reference.high), abs=0.007)


def test_a_resample_by_weights_is_the_auroc_of_the_repeated_images():
    rng = np.random.default_rng(3)
    inside, outside = rng.integers(0, 9, 20), rng.integers(3, 12, 15)
    state = generator(5, "resamples of two sets", 20, 15)
    id_weight, ood_weight = (
        intervals.resample_columns(state, n, 1)[:, 0].astype(int) for n in (20, 15)
    )
    assert id_weight.sum() == 20 and ood_weight.sum() == 15
    expected = detection.auroc(np.repeat(inside, id_weight), np.repeat(outside, ood_weight))
    assert detection.auroc_resamples(inside, outside, resamples=1, seed=5) == pytest.approx(
        [expected]
    )


def test_the_interval_depends_on_the_seed_alone():
    inside, outside = np.random.default_rng(0).normal(size=(2, 50))
    first = detection.auroc_interval(inside, outside, resamples=200, seed=0)
    assert first == detection.auroc_interval(inside, outside, resamples=200, seed=0)
    assert first != detection.auroc_interval(inside, outside, resamples=200, seed=1)


def test_several_detectors_at_once_have_the_metrics_of_each_alone():
    """Also where their scores differ in ties, and in more than one block of resamples."""
    rng = np.random.default_rng(4)
    inside, outside = rng.normal(size=(3, 40)), rng.normal(1, 1, size=(3, 25))
    pairs = {"a": (inside[0], outside[0]), "tied": (inside[1].round(), outside[1].round())}
    pairs["b"] = inside[2], outside[2]
    together = detection.evaluate_all(pairs, resamples=150, seed=2)
    assert list(together) == list(pairs)
    for name, pair in pairs.items():
        assert together[name] == detection.evaluate(*pair, resamples=150, seed=2)
    assert detection.evaluate_all({}, resamples=150, seed=2) == {}
    with pytest.raises(UserError, match="1 of 25 OOD scores are NaN"):
        detection.evaluate_all(
            pairs | {"c": (inside[0], np.append(outside[0][1:], np.nan))}, resamples=9, seed=0
        )


def test_a_thinned_roc_curve_keeps_its_ends_and_its_area():
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(size=3000), rng.normal(size=2000) + 1.5
    fpr, tpr = detection.roc_curve(inside, outside)
    assert len(fpr) <= 100
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    assert (np.diff(fpr) >= 0).all() and (np.diff(tpr) >= 0).all()
    assert np.trapezoid(tpr, fpr) == pytest.approx(detection.auroc(inside, outside), abs=2e-3)


def test_examples_are_spread_over_the_scores():
    scores = np.array([5.0, 1, 4, 2, 3])
    assert detection.spread(scores, 3).tolist() == [1, 4, 0]
    assert detection.spread(scores, 9).tolist() == [1, 3, 4, 2, 0]
