"""The objective against automatic differentiation, its minimum against scikit-learn's, memory."""

import tracemalloc

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from threadpoolctl import threadpool_limits

from prosmin.common.compute import backend as blocks
from prosmin.common.compute import logistic
from prosmin.common.compute.backend import NUMPY, Backend
from prosmin.common.compute.logistic import FINE, Regression, Solution, standardisation
from prosmin.common.errors import UserError

both = pytest.mark.parametrize("backend", [NUMPY, Backend(torch)], ids=["numpy", "torch"])


def sample(count=300, width=12, classes=5, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, count - classes)])
    centres = rng.normal(size=(classes, width))
    mixing = rng.normal(size=(width, width)) * np.logspace(0, -2, width)
    features = (centres[labels] + 2 * rng.normal(size=(count, width))) @ mixing + 3
    return features.astype(np.float32), labels


def by_autograd(features, labels, weight, bias, l2, standard):
    weight, bias = (torch.tensor(part, requires_grad=True) for part in (weight, bias))
    inputs = torch.tensor((features.astype(np.float64) - standard[0]) / standard[1])
    value = torch.nn.functional.cross_entropy(inputs @ weight.T + bias, torch.tensor(labels))
    value = value + l2 / 2 * weight.square().sum()
    value.backward()
    return value.item(), weight.grad.numpy(), bias.grad.numpy()


@both
@pytest.mark.parametrize("kind", ["float64", "float32"])
@pytest.mark.parametrize("block", [2**21, 37 * 12])
def test_the_objective_and_its_gradient_are_those_of_automatic_differentiation(
    backend, kind, block, monkeypatch
):
    monkeypatch.setattr(logistic, "backend", lambda: backend)
    monkeypatch.setattr(blocks, "BLOCK", block)
    features, labels = sample()
    regression = Regression([(features[:110], labels[:110]), (features[110:], labels[110:])], 5)
    rng = np.random.default_rng(1)
    weight, bias = rng.normal(size=(5, 12)), rng.normal(size=5)
    expected = by_autograd(features, labels, weight, bias, 0.03, regression.standard)
    for ours, theirs in zip(regression.evaluate(weight, bias, 0.03, kind), expected):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-11 if kind == "float64" else 1e-5)


@both
@pytest.mark.parametrize("l2", [0.0, 1e-4, 1.0])
def test_the_minimum_is_scikit_learns(backend, l2, monkeypatch):
    monkeypatch.setattr(logistic, "backend", lambda: backend)
    features, labels = sample()
    regression = Regression([(features, labels)], 5)
    solution = regression.minimise(l2, None, FINE)
    mean, std = regression.standard
    inputs = (features.astype(np.float64) - mean) / std
    strength = np.inf if l2 == 0 else 1 / (len(labels) * l2)
    oracle = LogisticRegression(C=strength, tol=1e-10, max_iter=10_000).fit(inputs, labels)
    ours = inputs @ solution.weight.T + solution.bias
    theirs = oracle.decision_function(inputs)
    np.testing.assert_allclose(ours - ours.mean(1, keepdims=True), theirs, atol=2e-3)


def test_the_number_of_threads_changes_no_digit(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 20 * 12)
    regression = Regression([sample()], 5)
    at = np.ones((5, 12)), np.zeros(5)
    values = []
    for count in (1, 3):
        with threadpool_limits(count, "blas"):
            values.append(regression.evaluate(*at, 0.1))
    assert values[0][0] == values[1][0]
    for one, other in zip(values[0][1:], values[1][1:]):
        np.testing.assert_array_equal(one, other)


def test_memory_does_not_grow_with_the_samples(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 100 * 12)
    peaks = []
    for count in (2000, 16_000):
        features, labels = sample(count)
        tracemalloc.start()
        with threadpool_limits(1, "blas"):
            Regression([(features, labels)], 5).evaluate(np.ones((5, 12)), np.zeros(5), 0.1)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 100_000  # the features alone have 700 kB


def test_a_solution_is_the_same_map_after_another_standardisation():
    features, labels = sample()
    old, new = standardisation(features[:150]), standardisation(features)
    rng = np.random.default_rng(2)
    there = Solution(rng.normal(size=(5, 12)), rng.normal(size=5))
    here = there.moved(old, new)
    one, other = (
        (features.astype(np.float64) - mean) / std @ at.weight.T + at.bias
        for at, (mean, std) in ((there, old), (here, new))
    )
    np.testing.assert_allclose(one, other, atol=1e-9)


def test_standardisation_of_parts_is_that_of_all_together(monkeypatch):
    features, _ = sample()
    whole = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
    monkeypatch.setattr(blocks, "BLOCK", 50 * 12)
    for parts in ((features,), (features[:7], features[7:])):
        for ours, numpys in zip(standardisation(*parts), whole):
            np.testing.assert_allclose(ours, numpys, rtol=1e-6)


def test_features_that_are_not_finite_are_refused():
    features, labels = sample()
    features[250, 3] = np.inf
    with pytest.raises(UserError, match="not finite"):
        Regression([(features, labels)], 5)


def test_a_large_fit_is_in_float32_and_close_to_the_fine_one(monkeypatch):
    features, labels = sample(2000)
    assert Regression([(features, labels)], 5).finest == FINE
    monkeypatch.setattr(logistic, "MUCH", 2000 * 12 * 5 - 1)
    regression = Regression([(features, labels)], 5)
    assert regression.finest == logistic.LARGE
    values = []
    for precision in (FINE, regression.finest):
        solution = regression.minimise(1e-3, None, precision)
        values.append(regression.evaluate(solution.weight, solution.bias, 1e-3)[0])
    assert values[0] <= values[1] + 1e-12 and values[1] - values[0] < 1e-6


def test_a_coarse_fit_from_a_stronger_l2_has_the_held_out_nll_of_a_fine_one():
    """It had that of the stronger l2 where the samples are separable, and was chosen for it."""
    pixels, labels = load_digits(return_X_y=True)
    mixed = pixels @ np.random.default_rng(0).normal(size=(64, 256)) / 30
    features = np.maximum(mixed, 0).astype(np.float32)
    regression = Regression([(features[:1200], labels[:1200])], 10)

    def held_out(solution: Solution) -> float:
        mean, std = regression.standard
        logits = (features[1200:] - mean) / std @ solution.weight.T + solution.bias
        return float(log_loss(labels[1200:], softmax(logits, axis=1)))

    start = None
    for l2 in (1.0, 0.1, 0.01, 1e-3, 1e-4):
        start = regression.minimise(l2, start, regression.coarsest)
        fine = regression.minimise(l2, None, regression.finest)
        assert held_out(start) == pytest.approx(held_out(fine), rel=0.02)
