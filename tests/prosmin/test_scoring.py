import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, stats

from prosmin import scoring
from prosmin.common.errors import ConfigError

CASES = [(0.0, 1.0, 0.0), (0.3, 0.5, -1.2), (-2.0, 0.05, 1.5), (1.0, 7.4, 0.9), (0.0, 2.0, 30.0)]


def closed(mu, sigma, y, lambda_=1.0):
    values = (torch.tensor(float(value), dtype=torch.float64) for value in (mu, sigma, y))
    return float(scoring.crps(*values, lambda_))


@pytest.mark.parametrize("lambda_", [0.5, 1.0, 1.2])
@pytest.mark.parametrize(("mu", "sigma", "y"), CASES)
def test_closed_form_equals_a_million_samples_within_four_standard_errors(mu, sigma, y, lambda_):
    rng = np.random.default_rng(0)
    x, x2 = (mu + sigma * rng.standard_normal(10**6) for _ in range(2))
    draws = 2 * np.abs(x - y) - lambda_ * np.abs(x - x2)
    assert abs(closed(mu, sigma, y, lambda_) - draws.mean()) < 4 * draws.std() / 1000


@pytest.mark.parametrize(("mu", "sigma", "y"), CASES)
def test_closed_form_at_lambda_one_is_twice_the_integral_that_defines_the_crps(mu, sigma, y):
    cdf = stats.norm(mu, sigma).cdf
    below = integrate.quad(
        lambda x: cdf(x) ** 2, mu - 40 * sigma, y, points=[mu] if mu < y else None, limit=500
    )[0]
    above = integrate.quad(lambda x: (1 - cdf(x)) ** 2, y, max(mu, y) + 40 * sigma, limit=500)[0]
    assert closed(mu, sigma, y) == pytest.approx(2 * (below + above), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("lambda_", [0.3, 0.7, 1.0, 1.2, 1.39])
@pytest.mark.parametrize("tau", [0.5, 1.0, 3.0])
def test_expected_score_is_least_at_the_implied_sigma(lambda_, tau):
    nodes, weights = np.polynomial.hermite_e.hermegauss(200)
    y = torch.tensor(tau * nodes)
    weight = torch.tensor(weights / weights.sum())

    def expected(log_sigma):
        sigma = torch.tensor(math.exp(log_sigma), dtype=torch.float64)
        return float((weight * scoring.crps(torch.zeros_like(y), sigma, y, lambda_)).sum())

    minimum = optimize.minimize_scalar(
        expected, bounds=(-6, 6), method="bounded", options={"xatol": 1e-8}
    )
    # The quadrature sees the kink of the score at y = mu through sigma alone: a tolerance of 1 %.
    assert math.exp(minimum.x) == pytest.approx(
        tau * scoring.implied_sigma_factor(lambda_), rel=0.01
    )


def test_implied_sigma_factor_has_the_published_values():
    assert scoring.implied_sigma_factor(1.0) == 1.0
    assert scoring.implied_sigma_factor(1.2) == pytest.approx(1.2 / math.sqrt(0.56))


def test_gradients_pass_gradcheck_in_float64():
    generator = torch.Generator().manual_seed(0)
    mu, y = (torch.randn(7, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    sigma = torch.rand(7, 3, generator=generator, dtype=torch.float64) + 0.1
    inputs = tuple(tensor.requires_grad_() for tensor in (mu, sigma, y))
    assert torch.autograd.gradcheck(scoring.crps, inputs)
    assert torch.autograd.gradgradcheck(scoring.crps, inputs)


def test_monte_carlo_gradients_pass_gradcheck_for_fixed_noise():
    def estimate(mu, sigma, y):
        return scoring.crps_monte_carlo(mu, sigma, y, 1.0, 5, torch.Generator().manual_seed(3))

    generator = torch.Generator().manual_seed(1)
    mu, y = (
        torch.randn(6, generator=generator, dtype=torch.float64, requires_grad=True)
        for _ in range(2)
    )
    sigma = (torch.rand(6, generator=generator, dtype=torch.float64) + 0.5).requires_grad_()
    assert torch.autograd.gradcheck(estimate, (mu, sigma, y))


@pytest.mark.parametrize("samples", [2, 3, 8])
def test_monte_carlo_is_unbiased_for_any_number_of_samples(samples):
    mu, sigma, y = (
        torch.full((200_000,), value, dtype=torch.float64) for value in (0.2, 1.5, -0.4)
    )
    draws = scoring.crps_monte_carlo(mu, sigma, y, 1.1, samples, torch.Generator().manual_seed(0))
    assert abs(float(draws.mean()) - closed(0.2, 1.5, -0.4, 1.1)) < 4 * float(
        draws.std()
    ) / math.sqrt(len(draws))


def test_monte_carlo_equals_the_sum_over_all_pairs_of_its_samples():
    mu, sigma, y = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0]), torch.tensor([0.5, -3.0])
    noise = torch.randn((4, 2), generator=torch.Generator().manual_seed(9))
    samples = mu + sigma * noise
    pairs = torch.stack(
        [(samples[i] - samples[j]).abs() for i in range(4) for j in range(4) if i != j]
    ).mean(0)
    slow = 2 * (samples - y).abs().mean(0) - 0.9 * pairs
    fast = scoring.crps_monte_carlo(mu, sigma, y, 0.9, 4, torch.Generator().manual_seed(9))
    torch.testing.assert_close(fast, slow)


@settings(max_examples=60, deadline=None)
@given(st.floats(-5, 5), st.floats(0.02, 8), st.floats(-5, 5), st.floats(-3, 3), st.floats(0.1, 10))
def test_crps_moves_with_a_shift_and_scales_with_the_unit(mu, sigma, y, shift, unit):
    score = closed(mu, sigma, y)
    assert closed(mu + shift, sigma, y + shift) == pytest.approx(score, rel=1e-9, abs=1e-9)
    assert closed(unit * mu, unit * sigma, unit * y) == pytest.approx(
        unit * score, rel=1e-9, abs=1e-9
    )
    assert score >= 0


def test_a_single_sample_is_refused():
    one = torch.ones(1)
    with pytest.raises(ConfigError, match="at least 2"):
        scoring.crps_monte_carlo(one, one, one, samples=1)


# --- other rules ----------------------------------------------------------------------------------


@pytest.fixture
def predictions():
    generator = torch.Generator().manual_seed(0)
    mu, y = (torch.randn(6, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    return mu, torch.rand(6, 3, generator=generator, dtype=torch.float64) + 0.3, y


def samples_of(mu, sigma, count=200_000):
    rng = np.random.default_rng(0)
    return (mu.numpy() + sigma.numpy() * rng.standard_normal((count, *mu.shape)) for _ in range(2))


@pytest.mark.parametrize("lambda_", [0.7, 1.0])
def test_energy_score_is_what_its_definition_says(predictions, lambda_):
    mu, sigma, y = predictions
    x, x2 = samples_of(mu, sigma)
    draws = 2 * np.linalg.norm(x - y.numpy(), axis=2) - lambda_ * np.linalg.norm(x - x2, axis=2)
    many = [values.repeat(20_000, 1, 1).flatten(0, 1) for values in predictions]
    estimate = scoring.energy_monte_carlo(*many, lambda_, 3, torch.Generator().manual_seed(1)).view(
        -1, 6
    )
    error = np.hypot(
        draws.std(0) / math.sqrt(3) / math.sqrt(len(draws)),
        estimate.std(0).numpy() / math.sqrt(20_000),
    )
    assert (np.abs(estimate.mean(0).numpy() - draws.mean(0) / math.sqrt(3)) < 4 * error).all()


def test_energy_score_in_one_dimension_is_the_crps(predictions):
    flat = [values.reshape(-1, 1) for values in predictions]
    energy, crps = (
        rule(*flat, 1.1, 5, torch.Generator().manual_seed(4))
        for rule in (scoring.energy_monte_carlo, scoring.crps_monte_carlo)
    )
    torch.testing.assert_close(energy, crps[:, 0])


@pytest.mark.parametrize("bandwidth", [0.5, 2.0])
def test_kernel_score_is_what_its_definition_says(predictions, bandwidth):
    mu, sigma, y = predictions
    x, x2 = samples_of(mu, sigma)

    def k(a, b):
        return np.exp(-np.square(a - b).sum(2) / (2 * 3 * bandwidth**2))

    draws = k(x, x2) - 2 * k(x, y.numpy()) + 1
    exact = scoring.kernel(mu, sigma, y, bandwidth=bandwidth).numpy()
    assert (np.abs(exact - draws.mean(0)) < 4 * draws.std(0) / math.sqrt(len(draws))).all()
    many = [values.repeat(20_000, 1, 1).flatten(0, 1) for values in predictions]
    draw = torch.Generator().manual_seed(1)
    estimate = (
        scoring.kernel_monte_carlo(*many, bandwidth=bandwidth, samples=3, generator=draw)
        .view(-1, 6)
        .numpy()
    )
    assert (np.abs(exact - estimate.mean(0)) < 4 * estimate.std(0) / math.sqrt(20_000)).all()


def test_log_score_is_the_negative_log_density(predictions):
    mu, sigma, y = (values.numpy() for values in predictions)
    np.testing.assert_allclose(
        scoring.log_score(*predictions).numpy(), -stats.norm(mu, sigma).logpdf(y)
    )


@pytest.mark.parametrize("rule", ["energy", "kernel", "log"])
def test_a_proper_rule_is_least_on_average_at_the_true_distribution(rule):
    generator = torch.Generator().manual_seed(0)
    y = 0.8 * torch.randn(100_000, 3, generator=generator, dtype=torch.float64)
    score = scoring.rule(rule, samples=4 if rule == "energy" else None)

    def expected(mu, sigma):
        mu, sigma = (torch.full_like(y, value) for value in (mu, sigma))
        return float(score(mu, sigma, y, torch.Generator().manual_seed(1)).mean())

    best = expected(0.0, 0.8)
    assert all(
        best < expected(*other) for other in [(0.0, 0.6), (0.0, 1.05), (0.3, 0.8), (-0.3, 0.8)]
    )


def test_the_controls_are_the_crps_without_its_spread_and_without_its_width(predictions):
    mu, sigma, y = predictions
    distance = scoring.rule("distance")(mu, sigma, y, None)
    torch.testing.assert_close(
        distance, scoring.crps(mu, sigma, y) + 2 / math.sqrt(math.pi) * sigma
    )
    point = scoring.rule("point")(mu, sigma, y, None)
    torch.testing.assert_close(
        point, scoring.crps(mu, torch.full_like(sigma, 1e-9), y), atol=1e-8, rtol=0
    )


@pytest.mark.parametrize("rule", ["energy", "kernel", "kernel_monte_carlo", "log"])
def test_gradients_of_the_other_rules_pass_gradcheck(predictions, rule):
    name, samples = (
        rule.removesuffix("_monte_carlo"),
        3 if rule in ("energy", "kernel_monte_carlo") else None,
    )
    score = scoring.rule(name, samples=samples)
    inputs = tuple(values.clone().requires_grad_() for values in predictions)
    assert torch.autograd.gradcheck(
        lambda *given: score(*given, torch.Generator().manual_seed(2)), inputs
    )
