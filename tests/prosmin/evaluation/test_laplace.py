"""The posterior against the whole Hessian by automatic differentiation, and against sampling."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from prosmin.evaluation import laplace, linear_probe
from prosmin.evaluation.laplace import Posterior, moderate
from prosmin.metrics.classification import softmax

PIXELS, LABELS = load_digits(return_X_y=True)
CLASSES = 4
SHOWN = LABELS < CLASSES
FEATURES, TRUTH = PIXELS[SHOWN][:, 18:24], LABELS[SHOWN]  # few pixels: a probe that is not sure


@pytest.fixture(scope="module")
def probe():
    return linear_probe.fit(FEATURES, TRUTH, CLASSES, 0.001)


def inputs_of(probe, features):
    standard = (features - probe.mean) / probe.std
    return np.column_stack([standard, np.ones(len(features))])


def whole_hessian(probe, features, labels):
    """Of the summed NLL in all weights, [C (F + 1)] squared, by automatic differentiation."""
    inputs = torch.from_numpy(inputs_of(probe, features))
    weights = torch.from_numpy(np.column_stack([probe.weight, probe.bias]).astype(np.float64))
    truth = torch.from_numpy(labels)

    def loss(flat):
        logits = inputs @ flat.view(CLASSES, -1).T
        return torch.nn.functional.cross_entropy(logits, truth, reduction="sum")

    return torch.autograd.functional.hessian(loss, weights.flatten()).numpy()


def variances_of(hessian, precision, probe, features):
    """Variance of the centred logits under the Gaussian with this Hessian, by its inverse."""
    covariance = np.linalg.inv(hessian + precision * np.eye(len(hessian)))
    centre = np.eye(CLASSES) - 1 / CLASSES
    rows = []
    for inputs in inputs_of(probe, features):
        slopes = centre @ np.kron(np.eye(CLASSES), inputs)  # of the centred logits in the weights
        rows.append(np.diag(slopes @ covariance @ slopes.T))
    return np.array(rows)


def ours(probe, precision, features=FEATURES[:40]):
    posterior = Posterior.fit(probe, [(FEATURES, TRUTH)])
    return posterior.variances(posterior.squares(probe, features), precision)


@pytest.mark.parametrize("precision", [0.1, 10.0, 1000.0])
def test_it_is_the_inverse_of_the_product_of_the_mean_factors(probe, precision):
    inputs, p = inputs_of(probe, FEATURES), softmax(probe.logits(FEATURES))
    first = np.mean([np.outer(x, x) for x in inputs], axis=0)
    second = np.mean([np.diag(q) - np.outer(q, q) for q in p], axis=0)
    expected = variances_of(len(FEATURES) * np.kron(second, first), precision, probe, FEATURES[:40])
    np.testing.assert_allclose(ours(probe, precision), expected, rtol=1e-6)


@pytest.mark.parametrize("precision", [0.1, 10.0])
def test_with_equal_probabilities_it_is_that_of_the_whole_hessian(probe, precision):
    """Then the factors are independent, and the product of their means is exact."""
    flat = replace(probe, weight=np.zeros_like(probe.weight), bias=np.zeros_like(probe.bias))
    expected = variances_of(whole_hessian(flat, FEATURES, TRUTH), precision, flat, FEATURES[:40])
    np.testing.assert_allclose(ours(flat, precision), expected, rtol=1e-6)


def test_else_it_is_near_that_of_the_whole_hessian(probe):
    expected = variances_of(whole_hessian(probe, FEATURES, TRUTH), 1.0, probe, FEATURES[:40])
    found = ours(probe, 1.0)
    assert np.corrcoef(np.log(found).ravel(), np.log(expected).ravel())[0, 1] > 0.7
    assert 0.3 < np.median(found / expected) < 3  # the product of means is an approximation


def test_parts_and_blocks_change_nothing(probe, monkeypatch):
    whole = ours(probe, 1.0)
    monkeypatch.setattr(laplace, "rows_at_once", lambda *widths: 17)
    posterior = Posterior.fit(probe, [(FEATURES[:90], TRUTH[:90]), (FEATURES[90:], TRUTH[90:])])
    again = posterior.variances(posterior.squares(probe, FEATURES[:40]), 1.0)
    np.testing.assert_allclose(again, whole, rtol=1e-9)


def test_the_probit_approximation_is_near_the_mean_over_samples_of_the_logits():
    rng = np.random.default_rng(0)
    logits, variances = rng.normal(0, 2, (20, CLASSES)), rng.uniform(0.1, 4, (20, CLASSES))
    drawn = logits + rng.normal(size=(20_000, 20, CLASSES)) * np.sqrt(variances)
    expected = np.mean([softmax(sample) for sample in drawn], axis=0)
    found = softmax(moderate(logits, variances))
    assert np.abs(found - expected).mean() < 0.03 < np.abs(softmax(logits) - expected).mean()


def test_more_variance_further_away_and_less_with_a_stronger_prior(probe):
    far = FEATURES[:40] + 50
    assert (ours(probe, 1.0, far) > ours(probe, 1.0)).mean() > 0.95
    assert (ours(probe, 100.0) < ours(probe, 1.0)).all()
    unsure = softmax(moderate(probe.logits(far), ours(probe, 1.0, far))).max(axis=1)
    assert (unsure <= softmax(probe.logits(far)).max(axis=1) + 1e-12).all()
