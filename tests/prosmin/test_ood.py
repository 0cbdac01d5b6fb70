"""Detectors and metrics against pytorch-ood, scikit-learn, SciPy and hand-worked cases."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_ood.detector import KNN, EnergyBased, Mahalanobis, MaxSoftmax
from pytorch_ood.metrics import OODMetrics
from pytorch_ood.metrics.functional import fpr_at_tpr
from scipy.spatial.distance import cdist
from scipy.stats import bootstrap
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.metrics import roc_curve as sklearn_roc_curve

from prosmin import ood
from prosmin.errors import ConfigError, UserError

DEFAULTS = ood.Settings()


@pytest.fixture(scope="module")
def digits():
    """Digits 0-7 as training and ID test images, 8 and 9 as OOD; the raw pixels (with a little noise, so that
    constant pixels leave a covariance that can be inverted) stand in for features."""
    pixels, labels = load_digits(return_X_y=True)
    features = (pixels + np.random.default_rng(0).normal(size=pixels.shape)).astype(np.float32)
    known = labels < 8
    probe = LogisticRegression(max_iter=300).fit(features[known][:900], labels[known][:900])

    def sample(part):
        logits = probe.decision_function(features[part]).astype(np.float32)
        return ood.Sample(features[part], log_sigma=features[part].mean(1), logits=logits, labels=labels[part])

    inside = np.flatnonzero(known)
    return sample(inside[:900]), sample(inside[900:]), sample(np.flatnonzero(~known))


@pytest.fixture(scope="module")
def scores(digits):
    train, inside, outside = digits
    return {
        name: (each.score(train, inside, DEFAULTS), each.score(train, outside, DEFAULTS))
        for name, each in ood.DETECTORS.items()
    }


# --- detectors ------------------------------------------------------------------------------------


def test_msp_is_the_librarys(digits):
    _, inside, _ = digits
    expected = MaxSoftmax.score(torch.from_numpy(inside.logits.astype(np.float64)))
    np.testing.assert_allclose(ood.msp(*digits[:2], DEFAULTS), expected, rtol=1e-12)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 10.0])
def test_energy_is_the_librarys(digits, temperature):
    _, inside, _ = digits
    expected = EnergyBased.score(torch.from_numpy(inside.logits.astype(np.float64)), t=temperature)
    np.testing.assert_allclose(ood.energy(*digits[:2], ood.Settings(temperature=temperature)), expected, rtol=1e-12)


def test_energy_of_large_logits_does_not_overflow():
    query = ood.Sample(np.zeros((1, 1)), logits=np.array([[2000.0, 0.0]], np.float32))
    assert ood.energy(query, query, DEFAULTS) == -2000.0
    assert ood.msp(query, query, DEFAULTS) == -1.0


@pytest.mark.parametrize("k", [1, 10, 900])
def test_knn_is_the_librarys(digits, k):
    train, inside, _ = digits
    library = KNN(None, k=k).fit_features(torch.from_numpy(train.features).double(), torch.from_numpy(train.labels))
    expected = library.predict_features(torch.from_numpy(inside.features).double())
    np.testing.assert_allclose(ood.knn(train, inside, ood.Settings(k=k)), expected, rtol=1e-5)


def test_knn_keeps_its_digits_where_float32_features_almost_coincide():
    rng = np.random.default_rng(0)
    base = rng.normal(size=64)
    train, query = ((base + 1e-4 * rng.normal(size=(50, 64))).astype(np.float32) for _ in range(2))
    exact = [each.astype(np.float64) for each in (query, train)]
    unit = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in exact]
    found = ood.knn(ood.Sample(train), ood.Sample(query), ood.Settings(k=50))
    np.testing.assert_allclose(found, cdist(*unit).max(axis=1), rtol=0.01)


def test_knn_in_blocks_is_knn_at_once(digits, monkeypatch):
    train, inside, _ = digits
    whole = ood.knn(train, inside, DEFAULTS)
    monkeypatch.setattr(ood, "BLOCK", 7 * len(train.features))
    np.testing.assert_allclose(ood.knn(train, inside, DEFAULTS), whole, rtol=1e-6)


def test_knn_refuses_more_neighbours_than_images(digits):
    with pytest.raises(ConfigError, match="k is 901; there are 900 training features"):
        ood.knn(*digits[:2], ood.Settings(k=901))


def test_mahalanobis_without_shrinkage_orders_as_the_librarys(digits):
    """The library leaves out the division by N and halves the square: the same score times 1 / (2 N)."""
    train, inside, _ = digits
    library = Mahalanobis(None).fit_features(torch.from_numpy(train.features).double(), torch.from_numpy(train.labels))
    library.mu, library.precision = library.mu.double(), library.precision.double()
    expected = library.predict_features(torch.from_numpy(inside.features).double()) * 2 * len(train.features)
    np.testing.assert_allclose(ood.mahalanobis(train, inside, ood.Settings(shrinkage=0)), expected, rtol=1e-3)


@pytest.mark.parametrize("shrinkage", [0.0, 0.1, 0.9])
def test_mahalanobis_is_the_definition_written_out(digits, shrinkage):
    train, inside, _ = digits
    features, labels = train.features.astype(np.float64), train.labels
    residual = np.concatenate([features[labels == c] - features[labels == c].mean(0) for c in range(8)])
    tied = np.cov(residual, rowvar=False, bias=True)
    shrunk = (1 - shrinkage) * tied + shrinkage * np.trace(tied) / 64 * np.eye(64)
    means = np.stack([features[labels == c].mean(0) for c in range(8)])
    expected = cdist(inside.features, means, "mahalanobis", VI=np.linalg.inv(shrunk)).min(axis=1) ** 2
    np.testing.assert_allclose(ood.mahalanobis(train, inside, ood.Settings(shrinkage=shrinkage)), expected, rtol=1e-8)


def test_mahalanobis_leaves_out_images_without_a_label(digits):
    train, inside, _ = digits
    stray = ood.Sample(
        np.concatenate([train.features, 100 + train.features[:50]]),
        labels=np.concatenate([train.labels, np.full(50, -1)]),
    )
    np.testing.assert_array_equal(ood.mahalanobis(stray, inside, DEFAULTS), ood.mahalanobis(train, inside, DEFAULTS))


def test_mahalanobis_of_dead_features_needs_shrinkage(digits):
    train, inside, _ = digits
    dead = [ood.Sample(np.pad(each.features, ((0, 0), (0, 1))), labels=each.labels) for each in (train, inside)]
    with pytest.raises(ConfigError, match="^shrinkage is 0; the covariance of the 65 features"):
        ood.mahalanobis(*dead, ood.Settings(shrinkage=0))
    assert np.isfinite(ood.mahalanobis(*dead, ood.Settings(shrinkage=0.01))).all()


def test_mahalanobis_of_a_collapsed_encoder_is_refused():
    constant = ood.Sample(np.ones((20, 3), np.float32), labels=np.arange(20) % 2)
    with pytest.raises(ConfigError, match="collapsed"):
        ood.mahalanobis(constant, constant, DEFAULTS)


@pytest.mark.parametrize("name", ood.DETECTORS)
def test_scores_are_high_where_the_answer_is_obvious(name):
    """ID: two tight classes, a sure probe, a small sigma. OOD: far from both, an undecided probe, a large sigma."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    centres = np.array([[5.0, 0.0], [0.0, 5.0]])

    def sample(features, logits, log_sigma):
        return ood.Sample(features, log_sigma=np.full(60, log_sigma), logits=logits, labels=labels)

    train, inside = (
        sample(centres[labels] + rng.normal(size=(60, 2)) / 10, 9.0 * np.eye(2)[labels], -2.0) for _ in range(2)
    )
    outside = sample(-5.0 + rng.normal(size=(60, 2)) / 10, rng.normal(size=(60, 2)) / 10, 1.0)
    low, high = (ood.DETECTORS[name].score(train, each, DEFAULTS) for each in (inside, outside))
    found = ood.evaluate(low, high, resamples=100, seed=0)
    assert found["auroc"] == found["aupr_ood"] == found["aupr_id"] == 1.0
    assert found["fpr95"] == 0.0


def test_label_free_detectors_score_a_sample_without_labels_or_logits(digits):
    train, inside, _ = digits
    bare = [ood.Sample(each.features, log_sigma=each.log_sigma) for each in (train, inside)]
    free = [name for name, each in ood.DETECTORS.items() if not each.needs_labels]
    assert sorted(free) == ["knn", "sigma"]
    for name in free:
        assert ood.DETECTORS[name].score(*bare, DEFAULTS).shape == (len(inside.features),)


# --- metrics --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ood.DETECTORS)
def test_metrics_on_real_scores_are_the_libraries(scores, name):
    inside, outside = scores[name]
    both, target = np.concatenate([inside, outside]), np.repeat([0, 1], [len(inside), len(outside)])
    found = ood.evaluate(inside, outside, resamples=100, seed=0)
    assert found["auroc"] == pytest.approx(roc_auc_score(target, both), abs=1e-12)
    assert found["aupr_ood"] == pytest.approx(average_precision_score(target, both), abs=1e-12)
    assert found["aupr_id"] == pytest.approx(average_precision_score(1 - target, -both), abs=1e-12)
    library = OODMetrics().update(torch.from_numpy(both), torch.from_numpy(-target)).compute()
    assert found["auroc"] == pytest.approx(library["AUROC"], abs=1e-9)
    # The library integrates precision by trapezes, which differs from the step sum by less than a step.
    assert found["aupr_ood"] == pytest.approx(library["AUPR-OUT"], abs=0.01)
    assert found["aupr_id"] == pytest.approx(library["AUPR-IN"], abs=0.01)
    # The library's FPR95 detects 95 % of OOD; with both classes and signs swapped it accepts 95 % of ID.
    assert found["fpr95"] == pytest.approx(fpr_at_tpr(torch.from_numpy(-both), torch.from_numpy(target - 1)).item())


few = st.lists(st.integers(-3, 3), min_size=1, max_size=12).map(np.array)


@given(few, few)
@settings(max_examples=150, deadline=None)
def test_metrics_with_ties_are_scikit_learns(inside, outside):
    both, target = np.concatenate([inside, outside]), np.repeat([0, 1], [len(inside), len(outside)])
    assert ood.auroc(inside, outside) == pytest.approx(roc_auc_score(target, both))
    assert ood.average_precision(outside, inside) == pytest.approx(average_precision_score(target, both))
    assert ood.average_precision(-inside, -outside) == pytest.approx(average_precision_score(1 - target, -both))
    expected = min(np.mean(outside <= t) for t in inside if np.mean(inside <= t) >= 0.95)
    assert ood.fpr95(inside, outside) == expected
    fpr, tpr, _ = sklearn_roc_curve(target, both, drop_intermediate=False)
    np.testing.assert_allclose(ood.roc_curve(inside, outside), (fpr, tpr))


@given(few, few)
@settings(max_examples=50, deadline=None)
def test_swapping_the_classes_mirrors_auroc(inside, outside):
    assert ood.auroc(inside, outside) == pytest.approx(1 - ood.auroc(outside, inside))


def test_metrics_by_hand():
    """ID 1 2 3, OOD 2 4: of six pairs four are won (2>1, 4>1, 4>2, 4>3), one is tied (2=2), one is lost (2<3)."""
    inside, outside = np.array([1.0, 2, 3]), np.array([2.0, 4])
    assert ood.auroc(inside, outside) == 4.5 / 6
    assert ood.average_precision(outside, inside) == 0.5 * 1 + 0.5 * 2 / 4  # at 4: 1 of 1; at 2: 2 of 4
    assert ood.fpr95(inside, outside) == 0.5  # all three ID are needed: the threshold is 3


def test_constant_scores_know_nothing():
    found = ood.evaluate(np.zeros(30), np.zeros(10), resamples=100, seed=0)
    assert found == {
        **dict.fromkeys(("auroc", "auroc_low", "auroc_high"), 0.5), "aupr_ood": 0.25, "aupr_id": 0.75, "fpr95": 1.0,
    }  # fmt: skip


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused(bad):
    with pytest.raises(UserError, match="1 of 3 OOD scores are NaN or infinite"):
        ood.evaluate(np.zeros(3), np.array([0, bad, 1]), resamples=100, seed=0)


def test_features_that_are_not_finite_are_refused():
    with pytest.raises(UserError, match="features of 1 of 2 images are NaN or infinite"):
        ood.Sample(np.array([[0.0, np.nan], [1.0, 1.0]]))


def test_an_empty_side_is_refused():
    with pytest.raises(UserError, match="no in-distribution scores"):
        ood.evaluate(np.zeros(0), np.zeros(3), resamples=100, seed=0)


@pytest.mark.parametrize("decimals", [None, 1])
def test_the_auroc_interval_is_the_bootstraps(decimals):
    """Against SciPy's generic bootstrap of the AUROC counted pair by pair, with and without ties."""
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(size=90), rng.normal(size=60) + 1
    if decimals is not None:
        inside, outside = inside.round(decimals), outside.round(decimals)
    reference = bootstrap(
        (inside, outside), lambda a, b: np.mean((b[:, None] > a) + (b[:, None] == a) / 2),
        n_resamples=6000, method="percentile", vectorized=False, rng=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    low, high = ood.auroc_interval(inside, outside, resamples=6000, seed=0)
    assert (low, high) == pytest.approx((reference.low, reference.high), abs=0.007)


def test_a_resample_by_weights_is_the_auroc_of_the_repeated_images():
    rng = np.random.default_rng(3)
    inside, outside = rng.integers(0, 9, 20), rng.integers(3, 12, 15)
    state = np.random.default_rng([5, 20, 15])
    id_weight, ood_weight = (ood._resample(state, n, 1)[:, 0].astype(int) for n in (20, 15))
    assert id_weight.sum() == 20 and ood_weight.sum() == 15
    expected = ood.auroc(np.repeat(inside, id_weight), np.repeat(outside, ood_weight))
    assert ood.auroc_interval(inside, outside, resamples=1, seed=5) == pytest.approx((expected, expected))


def test_the_interval_depends_on_the_seed_alone():
    inside, outside = np.random.default_rng(0).normal(size=(2, 50))
    first = ood.auroc_interval(inside, outside, resamples=200, seed=0)
    assert first == ood.auroc_interval(inside, outside, resamples=200, seed=0)
    assert first != ood.auroc_interval(inside, outside, resamples=200, seed=1)


def test_a_thinned_roc_curve_keeps_its_ends_and_its_area():
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(size=3000), rng.normal(size=2000) + 1.5
    fpr, tpr = ood.roc_curve(inside, outside)
    assert len(fpr) <= 100
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    assert (np.diff(fpr) >= 0).all() and (np.diff(tpr) >= 0).all()
    assert np.trapezoid(tpr, fpr) == pytest.approx(ood.auroc(inside, outside), abs=2e-3)


def test_examples_are_spread_over_the_scores():
    scores = np.array([5.0, 1, 4, 2, 3])
    assert ood.spread(scores, 3).tolist() == [1, 4, 0]
    assert ood.spread(scores, 9).tolist() == [1, 3, 4, 2, 0]
