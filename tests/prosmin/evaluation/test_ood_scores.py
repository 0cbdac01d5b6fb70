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
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from prosmin.common.errors import ConfigError, UserError
from prosmin.common.seeds import drawn
from prosmin.evaluation import ood_scores
from prosmin.metrics import detection

DEFAULTS = ood_scores.Settings()


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
        sigma, head = features[part].mean(1), (probe.coef_, probe.intercept_)
        return ood_scores.Sample(
            features[part], log_sigma=sigma, logits=logits, labels=labels[part], head=head
        )

    inside = np.flatnonzero(known)
    return sample(inside[:900]), sample(inside[900:]), sample(np.flatnonzero(~known))


def test_msp_is_the_librarys(digits):
    _, inside, _ = digits
    expected = MaxSoftmax.score(torch.from_numpy(inside.logits.astype(np.float64)))
    np.testing.assert_allclose(
        np.expm1(ood_scores.msp(*digits[:2], DEFAULTS)), expected, rtol=1e-12
    )


@pytest.mark.parametrize("margin", [8, 14, 20, 26, 33, 40, 60, 400])
def test_a_sure_probe_does_not_tie(margin):
    """MSP and entropy of three classes against 60 digits, in the same order; so AUROC is that of exact numbers."""
    rng = np.random.default_rng(0)
    gaps = np.column_stack([margin + rng.normal(size=300) * 2, margin + 6 + rng.normal(size=300)])
    logits = np.column_stack([np.zeros(300), -gaps])
    query = ood_scores.Sample(np.zeros((300, 1)), logits=logits)
    with localcontext(prec=400):
        exact_msp, exact_entropy = [], []
        for row in logits.tolist():
            weights = [Decimal(value).exp() for value in row]
            shares = [each / sum(weights) for each in weights]
            exact_msp.append((1 - shares[0]).ln())
            exact_entropy.append(-sum(share * share.ln() for share in shares))
        for found, exact in (
            (ood_scores.msp(query, query, DEFAULTS), exact_msp),
            (ood_scores.entropy(query, query, DEFAULTS), exact_entropy),
        ):
            np.testing.assert_allclose(found, [float(each) for each in exact], rtol=1e-9)
            assert np.argsort(found).tolist() == sorted(range(300), key=exact.__getitem__)


def test_max_logit_and_entropy_are_the_librarys(digits):
    _, inside, _ = digits
    logits = torch.from_numpy(inside.logits.astype(np.float64))
    np.testing.assert_allclose(
        ood_scores.max_logit(*digits[:2], DEFAULTS), MaxLogit.score(logits), rtol=1e-12
    )
    # The library clips probabilities at 1e-7.
    np.testing.assert_allclose(
        ood_scores.entropy(*digits[:2], DEFAULTS), Entropy.score(logits), atol=2e-5
    )
    np.testing.assert_allclose(
        ood_scores.entropy(*digits[:2], DEFAULTS), entropy(logits.softmax(1), axis=1), atol=1e-12
    )


@pytest.mark.parametrize("temperature", [0.5, 1.0, 10.0])
def test_energy_is_the_librarys(digits, temperature):
    _, inside, _ = digits
    expected = EnergyBased.score(torch.from_numpy(inside.logits.astype(np.float64)), t=temperature)
    np.testing.assert_allclose(
        ood_scores.energy(*digits[:2], ood_scores.Settings(temperature=temperature)),
        expected,
        rtol=1e-12,
    )


def test_energy_of_large_logits_does_not_overflow():
    query = ood_scores.Sample(np.zeros((1, 1)), logits=np.array([[2000.0, 0.0]], np.float32))
    assert ood_scores.energy(query, query, DEFAULTS) == -2000.0
    assert (
        ood_scores.msp(query, query, DEFAULTS) == -2000.0
    )  # log(1 - p), where p itself would be 1
    assert ood_scores.entropy(query, query, DEFAULTS) == 0.0


@pytest.mark.parametrize("k", [1, 10, 900])
def test_knn_is_the_librarys(digits, k):
    train, inside, _ = digits
    library = KNN(None, k=k).fit_features(
        torch.from_numpy(train.features).double(), torch.from_numpy(train.labels)
    )
    expected = library.predict_features(torch.from_numpy(inside.features).double())
    np.testing.assert_allclose(
        ood_scores.knn(train, inside, ood_scores.Settings(k=k)), expected, rtol=1e-5
    )


def test_knn_keeps_its_digits_where_float32_features_almost_coincide():
    rng = np.random.default_rng(0)
    base = rng.normal(size=64)
    train, query = ((base + 1e-4 * rng.normal(size=(50, 64))).astype(np.float32) for _ in range(2))
    exact = [each.astype(np.float64) for each in (query, train)]
    unit = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in exact]
    found = ood_scores.knn(
        ood_scores.Sample(train), ood_scores.Sample(query), ood_scores.Settings(k=50)
    )
    np.testing.assert_allclose(found, cdist(*unit).max(axis=1), rtol=0.01)


def test_knn_in_blocks_is_knn_at_once(digits, monkeypatch):
    train, inside, _ = digits
    whole = ood_scores.knn(train, inside, DEFAULTS)
    monkeypatch.setattr(ood_scores, "BLOCK", 7 * len(train.features))
    np.testing.assert_allclose(ood_scores.knn(train, inside, DEFAULTS), whole, rtol=1e-6)


def test_knn_refuses_more_neighbours_than_images(digits):
    with pytest.raises(ConfigError, match="k is 901; there are 900 training features"):
        ood_scores.knn(*digits[:2], ood_scores.Settings(k=901))


def test_mahalanobis_without_shrinkage_orders_as_the_librarys(digits):
    """The library leaves out the division by N and halves the square: the same score times 1 / (2 N)."""
    train, inside, _ = digits
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
        ood_scores.mahalanobis(train, inside, ood_scores.Settings(shrinkage=0)), expected, rtol=1e-3
    )


@pytest.mark.parametrize("shrinkage", [0.0, 0.1, 0.9])
def test_mahalanobis_is_the_definition_written_out(digits, shrinkage):
    train, inside, _ = digits
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
        ood_scores.mahalanobis(train, inside, ood_scores.Settings(shrinkage=shrinkage)),
        expected,
        rtol=1e-8,
    )


def test_mahalanobis_leaves_out_images_without_a_label(digits):
    train, inside, _ = digits
    stray = ood_scores.Sample(
        np.concatenate([train.features, 100 + train.features[:50]]),
        labels=np.concatenate([train.labels, np.full(50, -1)]),
    )
    np.testing.assert_array_equal(
        ood_scores.mahalanobis(stray, inside, DEFAULTS),
        ood_scores.mahalanobis(train, inside, DEFAULTS),
    )


def test_mahalanobis_of_dead_features_needs_shrinkage(digits):
    train, inside, _ = digits
    dead = [
        ood_scores.Sample(np.pad(each.features, ((0, 0), (0, 1))), labels=each.labels)
        for each in (train, inside)
    ]
    with pytest.raises(ConfigError, match="^shrinkage is 0; the covariance of the 65 features"):
        ood_scores.mahalanobis(*dead, ood_scores.Settings(shrinkage=0))
    assert np.isfinite(ood_scores.mahalanobis(*dead, ood_scores.Settings(shrinkage=0.01))).all()


def test_mahalanobis_of_a_collapsed_encoder_is_refused():
    constant = ood_scores.Sample(np.ones((20, 3), np.float32), labels=np.arange(20) % 2)
    with pytest.raises(ConfigError, match="collapsed"):
        ood_scores.mahalanobis(constant, constant, DEFAULTS)


def test_relative_mahalanobis_without_shrinkage_orders_as_the_librarys(digits):
    train, inside, _ = digits
    library = RMD(None).fit_features(
        torch.from_numpy(train.features).double(), torch.from_numpy(train.labels)
    )
    for name in ("mu", "precision"):
        setattr(library, name, getattr(library, name).double())
    expected = library.predict_features(torch.from_numpy(inside.features).double()) * len(
        train.features
    )
    found = ood_scores.relative_mahalanobis(train, inside, ood_scores.Settings(shrinkage=0))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(found).max())


@pytest.mark.parametrize("dim", [None, 1, 48])
def test_vim_is_the_librarys(digits, dim):
    train, inside, _ = digits
    weight, bias = map(torch.from_numpy, train.head)
    library = ViM(None, d=dim or 32, w=weight, b=bias)
    library.fit_features(torch.from_numpy(train.features), torch.from_numpy(train.labels))
    expected = library.predict_features(torch.from_numpy(inside.features))
    np.testing.assert_allclose(
        ood_scores.vim(train, inside, ood_scores.Settings(vim_dim=dim)),
        expected,
        rtol=1e-3,
        atol=1e-2,
    )


def test_vim_refuses_a_principal_space_that_leaves_nothing_out(digits):
    with pytest.raises(ConfigError, match="^vim_dim is 64; there are 64 features; allowed: fewer"):
        ood_scores.vim(*digits[:2], ood_scores.Settings(vim_dim=64))


# --- all of them ----------------------------------------------------------------------------------

ALL = [*ood_scores.DETECTORS, *ood_scores.COMBINED]


@pytest.fixture(scope="module")
def scores(digits):
    train, *queries = digits
    return [ood_scores.score_all(train, query, DEFAULTS) for query in queries]


@pytest.mark.parametrize("name", ALL)
def test_scores_are_high_where_the_answer_is_obvious(name):
    """ID: two tight classes, a sure probe, a small sigma. OOD: far from both, an undecided probe, a large sigma."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    centres = np.array([[5.0, 0.0, 0.0], [0.0, 5.0, 0.0]])
    head = (np.array([[1.0, -1, 0], [-1, 1, 0]]), np.array([1.0, 0]))

    def sample(centres, log_sigma):
        features = centres + rng.normal(size=(60, 3)) / 10
        logits = features @ head[0].T + head[1]
        sigmas = log_sigma + rng.normal(size=60) / 10
        return ood_scores.Sample(
            features, log_sigma=sigmas, logits=logits, labels=labels, head=head
        )

    train, inside = (sample(centres[labels], -2.0) for _ in range(2))
    outside = sample(np.array([-5.0, -5.0, -5.0]), 1.0)
    low, high = (ood_scores.score_all(train, each, DEFAULTS)[name] for each in (inside, outside))
    found = detection.evaluate(low, high, resamples=100, seed=0)
    assert found["auroc"] == found["aupr_ood"] == found["aupr_id"] == 1.0
    assert found["fpr95"] == 0.0


def test_a_score_belongs_to_its_image_whatever_the_order_and_the_company(digits, scores):
    train, inside, _ = digits
    shuffled = np.random.default_rng(0).permutation(len(inside.features))[:50]
    found = ood_scores.score_all(train, inside.rows(shuffled), DEFAULTS)
    assert list(found) == ALL
    for name, values in found.items():
        np.testing.assert_allclose(
            values, scores[0][name][shuffled], rtol=1e-5, atol=1e-9, err_msg=name
        )


def test_an_image_twice_has_one_score(digits):
    """Ties stay ties, so that an image in both sets counts half."""
    train, inside, _ = digits
    found = ood_scores.score_all(train, inside.rows(np.repeat(np.arange(20), 2)), DEFAULTS)
    for name, values in found.items():
        np.testing.assert_allclose(values[::2], values[1::2], rtol=1e-6, err_msg=name)


def test_a_combined_score_is_the_largest_z_score_by_held_out_training_images(digits, scores):
    """A fifth of the 900 training images is scored by the detector that is fitted to the others."""
    train, inside, _ = digits
    fifth = np.isin(np.arange(900), drawn(900, 180, 0, "held out of combined"))
    rest, held = train.rows(~fifth), train.rows(fifth)
    parts = []
    for function in (ood_scores.knn, ood_scores.mahalanobis):
        known, asked = (
            np.log(function(rest, held, DEFAULTS)),
            np.log(function(train, inside, DEFAULTS)),
        )
        parts.append((asked - known.mean()) / known.std())
    np.testing.assert_allclose(scores[0]["combined"], np.max(parts, axis=0))
    parts.append((inside.log_sigma - held.log_sigma.mean()) / held.log_sigma.std())
    np.testing.assert_allclose(scores[0]["combined_sigma"], np.max(parts, axis=0), atol=1e-5)


@pytest.mark.parametrize("order", ["in turn", "sorted"])
def test_a_combined_score_does_not_ask_in_which_order_the_classes_come(order):
    """8000 images of ten classes, sigma larger for some of them; OOD is what lies wider around the same means."""
    rng = np.random.default_rng(3)
    centres = rng.normal(size=(10, 24)) * 2

    def sample(labels, spread):
        features = centres[labels] + spread * rng.normal(size=(len(labels), 24))
        return ood_scores.Sample(
            features, 0.4 * (labels % 5) + rng.normal(size=len(labels)) / 4, labels=labels
        )

    train, inside = sample(np.arange(8000) % 10, 1.0), sample(rng.integers(0, 10, 1000), 1.0)
    outside = sample(rng.integers(0, 10, 1000), 1.3)
    rows = np.argsort(train.labels, kind="stable") if order == "sorted" else np.arange(8000)
    found = []
    for each in (rows, rng.permutation(8000)):
        scores = [
            ood_scores.score_all(train.rows(each), query, DEFAULTS) for query in (inside, outside)
        ]
        found.append(
            [detection.auroc(*(every[name] for every in scores)) for name in ood_scores.COMBINED]
        )
    assert np.abs(np.subtract(*found)).max() < 0.01


def test_a_combined_score_survives_an_image_of_the_training_set_and_a_constant_sigma(digits):
    train, _, _ = digits
    flat = ood_scores.Sample(train.features, np.zeros(900), train.logits, train.labels, train.head)
    found = ood_scores.score_all(flat, flat, ood_scores.Settings(k=1))
    assert all(np.isfinite(found[name]).all() for name in ood_scores.COMBINED)
    assert (found["combined_sigma"] >= 0).all()


def test_a_k_that_the_training_images_allow_is_allowed_without_the_held_out_ones(digits):
    train, inside, _ = digits
    assert "combined" in ood_scores.score_all(train, inside, ood_scores.Settings(k=900))


@pytest.mark.parametrize(
    ("lacking", "left"),
    [
        ({"labels", "logits", "head"}, ["knn", "sigma"]),
        ({"log_sigma"}, [name for name in ALL if "sigma" not in name]),
        ({"head"}, [name for name in ALL if name != "vim"]),
    ],
)
def test_what_the_samples_lack_leaves_the_detectors_that_need_it_out(digits, lacking, left):
    bare = [replace(each, **dict.fromkeys(lacking)) for each in digits[:2]]
    assert list(ood_scores.score_all(*bare, DEFAULTS)) == left


def test_features_that_are_not_finite_are_refused():
    with pytest.raises(UserError, match="features of 1 of 2 images are NaN or infinite"):
        ood_scores.Sample(np.array([[0.0, np.nan], [1.0, 1.0]]))
