"""Normalised targets against their definitions."""

import numpy as np
import pytest
import torch
from scipy import linalg

from prosmin.objectives.settings import NORMALISATIONS
from prosmin.objectives.targets import fit_normalisation, normalise_targets


@pytest.fixture
def correlated():
    rng = np.random.default_rng(0)
    return torch.tensor(
        rng.standard_normal((500, 6)) @ rng.standard_normal((6, 6)) + 3.0, dtype=torch.float64
    ).float()


def test_whitened_targets_have_identity_covariance(correlated):
    white = normalise_targets(correlated, "whiten").double()
    # float32 loses digits by the condition of the covariance, about 10 000; how many depends on the
    # processor.
    torch.testing.assert_close(
        white.T @ white / len(white), torch.eye(6).double(), atol=2e-3, rtol=0
    )


def test_whitening_equals_the_inverse_square_root_of_the_shrunk_covariance(correlated):
    y = correlated.double().numpy()
    centred = y - y.mean(0)
    covariance = centred.T @ centred / len(y)
    shrunk = 0.7 * covariance + 0.3 * np.trace(covariance) / 6 * np.eye(6)
    slow = centred @ linalg.inv(linalg.sqrtm(shrunk)).real
    np.testing.assert_allclose(
        normalise_targets(correlated, "whiten", 0.3).numpy(), slow, atol=1e-4
    )


def test_standardised_targets_equal_batch_normalisation_without_its_epsilon(correlated):
    expected = torch.nn.functional.batch_norm(correlated, None, None, training=True, eps=1e-12)
    torch.testing.assert_close(
        normalise_targets(correlated, "standardise"), expected, atol=1e-4, rtol=1e-4
    )


def test_centred_targets_have_mean_zero_and_none_changes_nothing(correlated):
    assert float(normalise_targets(correlated, "centre").mean(0).abs().max()) < 1e-5
    assert normalise_targets(correlated, "none") is correlated


def test_collapsed_targets_stay_finite():
    assert torch.isfinite(normalise_targets(torch.ones(20, 4), "whiten", 0.1)).all()


@pytest.mark.parametrize("how", NORMALISATIONS)
def test_a_normalisation_in_float64_is_that_of_float32_to_rounding(how):
    rng = np.random.default_rng(0)
    y = torch.tensor(rng.normal(size=(200, 5)) @ rng.normal(size=(5, 5)) + 3).float()
    expected = normalise_targets(y, how, 0.1)
    exact = fit_normalisation(y, how, 0.1, torch.float64)
    torch.testing.assert_close(exact(y), expected, atol=1e-5, rtol=1e-4)
