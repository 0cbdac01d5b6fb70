"""Detectors against pytorch-ood, SciPy and their definitions written out."""

from dataclasses import replace
from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch
from pytorch_ood.detector import (
    KNN,
    RMD,
    EnergyBased,
    Entropy,
    Mahalanobis,
    MaxLogit,
    MaxSoftmax,
    ViM,
)
from scipy.spatial.distance import cdist
from scipy.stats import entropy
from sklearn.covariance import ShrunkCovariance
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler, normalize

from prosmin.common.compute import search
from prosmin.common.errors import ConfigError, UserError
from prosmin.evaluation.ood_detectors import Sample, Settings
from prosmin.evaluation.ood_scores import Fitted

DEFAULTS = Settings()


def scored(name, train, query, settings=DEFAULTS):
    """The scores of one detector that is fitted to ``train``."""
    return Fitted.fit(train, settings, [name]).score(query)[name]


def test_msp_is_the_librarys(ood_digits):
    _, inside, _ = ood_digits
    expected = MaxSoftmax.score(torch.from_numpy(inside.logits.astype(np.float64)))
    np.testing.assert_allclose(np.expm1(scored("msp", *ood_digits[:2])), expected, rtol=1e-12)


@pytest.mark.parametrize("margin", [8, 14, 20, 26, 33, 40, 60, 400])
def test_a_sure_probe_does_not_tie(margin):
    """MSP and entropy of three classes against at least 60 digits: the order is the exact one."""
    rng = np.random.default_rng(0)
    gaps = np.column_stack([margin + rng.normal(size=300) * 2, margin + 6 + rng.normal(size=300)])
    logits = np.column_stack([np.zeros(300), -gaps])
    query = Sample(np.zeros((300, 1)), logits=logits)
    with localcontext(prec=60 + margin):  # 1 - p has that many digits less
        exact_msp, exact_entropy = [], []
        for row in logits.tolist():
            weights = [Decimal(value).exp() for value in row]
            shares = [weight / sum(weights) for weight in weights]
            exact_msp.append((1 - shares[0]).ln())
            exact_entropy.append(-sum(share * share.ln() for share in shares))
        for scores, exact in (
            (scored("msp", query, query), exact_msp),
            (scored("entropy", query, query), exact_entropy),
        ):
            np.testing.assert_allclose(scores, [float(value) for value in exact], rtol=1e-9)
            assert np.argsort(scores).tolist() == sorted(range(300), key=exact.__getitem__)


def test_max_logit_and_entropy_are_the_librarys(ood_digits):
    _, inside, _ = ood_digits
    logits = torch.from_numpy(inside.logits.astype(np.float64))
    np.testing.assert_allclose(
        scored("max_logit", *ood_digits[:2]), MaxLogit.score(logits), rtol=1e-12
    )
    # The library clips probabilities at 1e-7.
    np.testing.assert_allclose(scored("entropy", *ood_digits[:2]), Entropy.score(logits), atol=2e-5)
    np.testing.assert_allclose(
        scored("entropy", *ood_digits[:2]),
        entropy(logits.softmax(1), axis=1),
        atol=1e-12,
    )


@pytest.mark.parametrize("temperature", [0.5, 1.0, 10.0])
def test_energy_is_the_librarys(ood_digits, temperature):
    _, inside, _ = ood_digits
    expected = EnergyBased.score(torch.from_numpy(inside.logits.astype(np.float64)), t=temperature)
    np.testing.assert_allclose(
        scored("energy", *ood_digits[:2], Settings(temperature=temperature)),
        expected,
        rtol=1e-12,
    )


def test_energy_of_large_logits_does_not_overflow():
    query = Sample(np.zeros((1, 1)), logits=np.array([[2000.0, 0.0]], np.float32))
    assert scored("energy", query, query) == -2000.0
    assert scored("msp", query, query) == -2000.0  # log(1 - p), where p itself would be 1
    assert scored("entropy", query, query) == 0.0


@pytest.mark.parametrize("k", [1, 10, 900])
def test_knn_is_the_librarys(ood_digits, k):
    train, inside, _ = ood_digits
    library = KNN(None, k=k).fit_features(
        torch.from_numpy(train.features).double(), torch.from_numpy(train.labels)
    )
    expected = library.predict_features(torch.from_numpy(inside.features).double())
    np.testing.assert_allclose(scored("knn", train, inside, Settings(k=k)), expected, rtol=1e-5)


def test_knn_keeps_its_digits_where_float32_features_almost_coincide():
    rng = np.random.default_rng(0)
    base = rng.normal(size=64)
    train, query = ((base + 1e-4 * rng.normal(size=(50, 64))).astype(np.float32) for _ in range(2))
    exact = [features.astype(np.float64) for features in (query, train)]
    unit = [features / np.linalg.norm(features, axis=1, keepdims=True) for features in exact]
    scores = scored("knn", Sample(train), Sample(query), Settings(k=50))
    np.testing.assert_allclose(scores, cdist(*unit).max(axis=1), rtol=0.01)


def test_knn_in_tiles_is_knn_at_once(ood_digits, monkeypatch):
    train, inside, _ = ood_digits
    whole = scored("knn", train, inside)
    monkeypatch.setitem(search.TILE, "cpu", (7, 50))
    np.testing.assert_allclose(scored("knn", train, inside), whole, rtol=1e-6)


def test_knn_refuses_more_neighbours_than_images(ood_digits):
    with pytest.raises(ConfigError, match="k is 901; there are 900 training images"):
        scored("knn", *ood_digits[:2], Settings(k=901))


def test_mahalanobis_without_shrinkage_orders_as_the_librarys(ood_digits):
    """The library does not divide by N and halves the square: the same score times 1 / (2 N)."""
    train, inside, _ = ood_digits
    library = Mahalanobis(None).fit_features(
        torch.from_numpy(train.features).double(), torch.from_numpy(train.labels)
    )
    library.mu, library.precision = library.mu.double(), library.precision.double()
    expected = (
        library.predict_features(torch.from_numpy(inside.features).double())
        * 2
        * len(train.features)
    )
    np.testing.assert_allclose(
        scored("mahalanobis", train, inside, Settings(shrinkage=0)),
        expected,
        rtol=1e-3,
    )


@pytest.mark.parametrize("shrinkage", [0.0, 0.1, 0.9])
def test_mahalanobis_is_the_definition_written_out(ood_digits, shrinkage):
    train, inside, _ = ood_digits
    features, labels = train.features.astype(np.float64), train.labels
    residual = np.concatenate(
        [features[labels == c] - features[labels == c].mean(0) for c in range(8)]
    )
    tied = np.cov(residual, rowvar=False, bias=True)
    shrunk = (1 - shrinkage) * tied + shrinkage * np.trace(tied) / 64 * np.eye(64)
    means = np.stack([features[labels == c].mean(0) for c in range(8)])
    expected = (
        cdist(inside.features, means, "mahalanobis", VI=np.linalg.inv(shrunk)).min(axis=1) ** 2
    )
    np.testing.assert_allclose(
        scored("mahalanobis", train, inside, Settings(shrinkage=shrinkage)),
        expected,
        rtol=1e-8,
    )


def test_mahalanobis_normalised_is_mahalanobis_of_unit_vectors(ood_digits):
    train, inside, _ = ood_digits
    unit = [replace(sample, features=normalize(sample.features)) for sample in (train, inside)]
    np.testing.assert_allclose(
        scored("mahalanobis_normalised", train, inside),
        scored("mahalanobis", *unit),
        rtol=1e-5,
    )


@pytest.mark.parametrize("shrinkage", [0.0, 0.1, 0.7])
def test_one_gaussian_is_the_librarys(ood_digits, shrinkage):
    """The covariance without labels, shrunk towards its mean variance, in scikit-learn."""
    train, inside, _ = ood_digits
    library = ShrunkCovariance(shrinkage=shrinkage).fit(train.features.astype(np.float64))
    scores = scored(
        "gaussian", Sample(train.features), Sample(inside.features), Settings(shrinkage=shrinkage)
    )
    np.testing.assert_allclose(scores, library.mahalanobis(inside.features), rtol=1e-6)


@pytest.mark.parametrize("shrinkage", [0.01, 0.1])
def test_ssd_is_the_librarys_gaussian_behind_its_normaliser_and_scaler(ood_digits, shrinkage):
    train, inside, _ = ood_digits
    prepare = make_pipeline(Normalizer(), StandardScaler())
    known = prepare.fit_transform(train.features.astype(np.float64))
    library = ShrunkCovariance(shrinkage=shrinkage).fit(known)
    expected = library.mahalanobis(prepare.transform(inside.features.astype(np.float64)))
    scores = scored(
        "ssd", Sample(train.features), Sample(inside.features), Settings(shrinkage=shrinkage)
    )
    np.testing.assert_allclose(scores, expected, rtol=1e-3)


def test_normalised_detectors_do_not_see_the_length_of_a_feature(ood_digits):
    train, inside, _ = ood_digits
    longer = replace(inside, features=3 * inside.features)
    for name in ("ssd", "mahalanobis_normalised", "knn"):
        np.testing.assert_allclose(
            scored(name, train, longer), scored(name, train, inside), rtol=1e-4
        )
    np.testing.assert_allclose(
        scored("feature_norm", train, longer),
        -3 * np.linalg.norm(inside.features, axis=1),
        rtol=1e-6,
    )


def test_mahalanobis_leaves_out_images_without_a_label(ood_digits):
    train, inside, _ = ood_digits
    stray = Sample(
        np.concatenate([train.features, 100 + train.features[:50]]),
        labels=np.concatenate([train.labels, np.full(50, -1)]),
    )
    np.testing.assert_array_equal(
        scored("mahalanobis", stray, inside),
        scored("mahalanobis", train, inside),
    )


def test_mahalanobis_of_dead_features_needs_shrinkage(ood_digits):
    train, inside, _ = ood_digits
    dead = [
        Sample(np.pad(sample.features, ((0, 0), (0, 1))), labels=sample.labels)
        for sample in (train, inside)
    ]
    with pytest.raises(ConfigError, match="^shrinkage is 0; the covariance of the 65 features"):
        scored("mahalanobis", *dead, Settings(shrinkage=0))
    assert np.isfinite(scored("mahalanobis", *dead, Settings(shrinkage=0.01))).all()


def test_mahalanobis_of_a_collapsed_encoder_is_refused():
    constant = Sample(np.ones((20, 3), np.float32), labels=np.arange(20) % 2)
    with pytest.raises(ConfigError, match="collapsed"):
        scored("mahalanobis", constant, constant)


def test_relative_mahalanobis_without_shrinkage_orders_as_the_librarys(ood_digits):
    train, inside, _ = ood_digits
    library = RMD(None).fit_features(
        torch.from_numpy(train.features).double(), torch.from_numpy(train.labels)
    )
    for name in ("mu", "precision"):
        setattr(library, name, getattr(library, name).double())
    expected = library.predict_features(torch.from_numpy(inside.features).double()) * len(
        train.features
    )
    scores = scored("relative_mahalanobis", train, inside, Settings(shrinkage=0))
    np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-3 * np.abs(scores).max())


@pytest.mark.parametrize("dim", [None, 1, 48])
def test_vim_is_the_librarys(ood_digits, dim):
    train, inside, _ = ood_digits
    weight, bias = map(torch.from_numpy, train.head)
    library = ViM(None, d=dim or 32, w=weight, b=bias)
    library.fit_features(torch.from_numpy(train.features), torch.from_numpy(train.labels))
    expected = library.predict_features(torch.from_numpy(inside.features))
    np.testing.assert_allclose(
        scored("vim", train, inside, Settings(vim_dim=dim)),
        expected,
        rtol=1e-3,
        atol=1e-2,
    )


def test_vim_refuses_a_principal_space_that_leaves_nothing_out(ood_digits):
    with pytest.raises(ConfigError, match="^vim_dim is 64; there are 64 features; allowed: fewer"):
        scored("vim", *ood_digits[:2], Settings(vim_dim=64))


def test_features_that_are_not_finite_are_refused():
    with pytest.raises(UserError, match="features of 1 of 2 images are NaN or infinite"):
        Sample(np.array([[0.0, np.nan], [1.0, 1.0]]))
