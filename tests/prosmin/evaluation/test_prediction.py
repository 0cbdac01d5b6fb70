"""The prediction against SciPy, against loops, and where the truth is known by construction."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.stats import norm
from sklearn.datasets import load_digits
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from prosmin import scoring
from prosmin.common.seeds import prediction_generator
from prosmin.evaluation import prediction
from prosmin.evaluation.prediction import Seeing
from prosmin.models import store
from prosmin.objectives.targets import normalise_targets
from prosmin.views.settings import ViewSettings
from tests.prosmin.models.small import SMALL

IMAGES = torch.tensor(load_digits().images[:60] / 16 * 255).round().byte().unsqueeze(1)
SEEING = Seeing(
    3, ViewSettings(size=8, flip=0.0, saturation=0.0, hue=0.0, grayscale=0.0, blur=0.0), seed=0
)


def test_the_best_constant_sigma_has_the_lowest_crps_of_each_dimension():
    rng = np.random.default_rng(0)
    errors = rng.standard_t(3, size=(500, 3)) * [0.05, 1, 30] + [0, 0.5, 0]
    constant = scoring.best_constant(torch.tensor(errors))
    for place, column in enumerate(torch.tensor(errors).T):

        def mean_crps(sigma, column=column):
            return float(scoring.crps(torch.tensor(0.0), torch.tensor(sigma), column).mean())

        best = minimize_scalar(
            mean_crps, bounds=(1e-3, 100), method="bounded", options={"xatol": 1e-9}
        )
        assert float(constant[place]) == pytest.approx(best.x, rel=1e-4)


def drawn(count=600, views=3, size=8, scale=1.0, seed=0):
    """Draw mu, log sigma and y [N, V, D]; the predicted sigma is ``scale`` times the true one."""
    rng = np.random.default_rng(seed)
    mu = np.repeat(rng.normal(size=(count, 1, size)), views, axis=1)
    sigma = np.exp(rng.uniform(-1.5, 1, size=(count, 1, 1))) * np.ones_like(mu)
    y = mu + sigma * rng.normal(size=mu.shape)
    return tuple(torch.tensor(values) for values in (mu, np.log(sigma * scale), y))


def measured(mu, log_sigma, y, constant=None):
    rows = prediction._measure(
        mu, log_sigma, y, torch.ones(mu.shape[-1]) if constant is None else constant
    )
    rows = {name: values.double().numpy() for name, values in rows.items()}
    unmeasured = dict.fromkeys(("mixture", "mixture_constant"), np.empty(0))
    return prediction.Measured(**rows | unmeasured | {"pit": rows["pit"].mean(0)})


def test_targets_that_come_as_predicted_are_covered_as_they_should_be():
    result = measured(*drawn())
    np.testing.assert_allclose(result.inside.mean(0), [0.5, 0.8, 0.9], atol=0.015)
    np.testing.assert_allclose(result.pit, 1 / prediction.BINS, atol=0.008)
    assert result.pit.sum() == pytest.approx(1)


@pytest.mark.parametrize(("scale", "ends"), [(0.5, "full"), (2.0, "empty")])
def test_sigma_off_by_a_factor_covers_as_the_normal_distribution_says(scale, ends):
    result = measured(*drawn(scale=scale))
    expected = [
        2 * norm.cdf(scale * norm.ppf(0.5 + level / 200)) - 1 for level in prediction.LEVELS
    ]
    np.testing.assert_allclose(result.inside.mean(0), expected, atol=0.015)
    outer, inner = result.pit[[0, -1]].mean(), result.pit[9:11].mean()
    assert outer > inner if ends == "full" else outer < inner


def test_each_number_is_that_of_a_loop_over_pairs_of_views():
    mu, log_sigma, y = drawn(count=4, views=3, size=2)
    mu = mu + torch.tensor(np.random.default_rng(1).normal(size=mu.shape)) / 2
    constant = torch.tensor([0.7, 1.3], dtype=torch.float64)
    result = measured(mu, log_sigma, y, constant)
    for n in range(4):
        rows = []
        for i in range(3):
            for j in range(3):
                for d in range(2) if i != j else ():
                    m, s, t, c = (
                        float(value)
                        for value in (
                            mu[n, i, d],
                            log_sigma[n, i, d].exp(),
                            y[n, j, d],
                            constant[d],
                        )
                    )
                    sample = norm.ppf((np.arange(2000) + 0.5) / 2000)  # quantiles stand for X
                    other, spread = (
                        float(mu[n, j, d]),
                        math.hypot(s, float(log_sigma[n, j, d].exp())),
                    )
                    apart = (
                        np.abs(m - other + spread * sample).mean(),
                        np.abs(m - other + c * math.sqrt(2) * sample).mean(),
                    )
                    inside = abs(norm.cdf(t, m, s) - 0.5)
                    crps = (
                        np.abs(m + width * sample - t).mean() - width / math.sqrt(math.pi)
                        for width in (s, c)
                    )
                    levels = (inside <= level / 200 for level in prediction.LEVELS)
                    rows.append([*levels, *crps, abs(t - m), *apart])
        expected = np.mean(rows, axis=0)
        np.testing.assert_allclose(result.inside[n], expected[:3], atol=1e-6)
        names = ("crps", "crps_constant", "error", "disagreement", "disagreement_constant")
        for name, value in zip(names, expected[3:], strict=True):
            assert getattr(result, name)[n] == pytest.approx(value, abs=2e-3), name
    np.testing.assert_allclose(result.log_sigma, log_sigma.mean((1, 2)))


def test_a_sigma_that_knows_its_errors_has_skill_and_one_that_does_not_has_none():
    mu, log_sigma, y = drawn()
    constant = scoring.best_constant((y - mu).flatten(0, 1))
    knows = prediction.summarise(measured(mu, log_sigma, y, constant), 200, 0)
    assert 0 < knows["crps_skill_low"] < knows["crps_skill"] < knows["crps_skill_high"] < 1
    assert knows["sigma_error_correlation_low"] > 0.8
    shuffled = log_sigma[torch.randperm(len(mu), generator=torch.Generator().manual_seed(0))]
    guesses = prediction.summarise(measured(mu, shuffled, y, constant), 200, 0)
    assert guesses["crps_skill_high"] < 0
    assert guesses["sigma_error_correlation_low"] < 0 < guesses["sigma_error_correlation_high"]


def mixture_of(mu, sigma):
    """The mixture in PyTorch's own words."""
    parts = Independent(Normal(mu, sigma.expand_as(mu)), 1)
    return MixtureSameFamily(Categorical(torch.ones(len(mu))), parts)


@pytest.mark.parametrize("constant", [False, True])
def test_the_density_is_that_of_torchs_mixture(constant):
    rng = torch.Generator().manual_seed(0)
    mu = torch.randn(50, 6, generator=rng, dtype=torch.float64)
    sigma = torch.exp(torch.randn(50, 6, generator=rng, dtype=torch.float64) - 2)
    sigma = sigma[0] if constant else sigma
    y = torch.cat([mu[:5] + 0.01, 3 * torch.randn(20, 6, generator=rng, dtype=torch.float64)])
    density = prediction.log_density(y, mu, sigma)
    torch.testing.assert_close(density, mixture_of(mu, sigma).log_prob(y))


def test_the_density_keeps_its_digits_where_sigma_is_small():
    """1e4 standard deviations from 0, in float32 as networks give it."""
    mu = torch.full((3, 4), 10.0)
    y = mu[:1] + 1e-3 * torch.tensor([1.0, 0.0, -1.0, 2.0])
    expected = norm.logpdf((y[0] - mu[0]).double().numpy(), 0, 1e-3).sum()
    density = prediction.log_density(y, mu, torch.full((4,), 1e-3))
    assert float(density) == pytest.approx(expected, abs=1e-3)


@pytest.fixture(scope="module")
def model():
    return store.build_model(SMALL, seed=1).eval()


@pytest.fixture(scope="module")
def reference(model):
    return prediction.fit_reference(model, IMAGES[:30], SEEING)


def look(model, images, seeing, purpose):
    generator = prediction_generator(torch.device("cpu"), seeing.seed, purpose)
    return prediction._look(model, images, seeing, generator)


def test_the_numbers_of_an_image_do_not_depend_on_those_that_come_with_it(
    model, reference, monkeypatch
):
    monkeypatch.setattr(prediction, "CHUNK", 10)
    alone, among = (
        prediction.measure(model, IMAGES[30 : 30 + count], reference, SEEING) for count in (10, 25)
    )
    names = ("inside", "crps", "crps_constant", "log_sigma", "error", "disagreement", "mixture")
    for name in names:
        np.testing.assert_allclose(
            getattr(among, name)[:10], getattr(alone, name), rtol=1e-4, atol=1e-5
        )


def test_images_that_come_in_parts_are_scored_as_all_at_once(model, reference, monkeypatch):
    monkeypatch.setattr(prediction, "CHUNK", 10)
    scorer = prediction.Scorer(model, reference, SEEING)
    for part in (IMAGES[:20], IMAGES[20:30], IMAGES[30:35]):
        scorer.add(part)
    in_parts, at_once = (
        scorer.measured(),
        prediction.measure(model, IMAGES[:35], reference, SEEING),
    )
    for name in vars(at_once):
        np.testing.assert_array_equal(getattr(in_parts, name), getattr(at_once, name))


def test_the_seed_draws_the_views(model, reference):
    first, again, other = (
        prediction.measure(model, IMAGES[:20], reference, Seeing(3, SEEING.settings, seed))
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first.crps, again.crps)
    assert not np.array_equal(first.crps, other.crps)


def test_the_mixture_is_made_of_predictions_from_one_view_of_each_component(model, reference):
    chosen = IMAGES[40:52]
    fitted = prediction.fit_reference(model, IMAGES[:30], SEEING, chosen)
    torch.testing.assert_close(fitted.sigma, reference.sigma)
    single = Seeing(1, SEEING.settings, 0)
    mu, log_sigma, _ = next(look(model, chosen, single, prediction._MIXTURE))
    measured = prediction.measure(model, IMAGES[30:33], fitted, SEEING)
    y = next(look(model, IMAGES[30:33], SEEING, prediction._MEASURE))[2]
    y = fitted.normalisation(y).double()
    widths = {"mixture": log_sigma[:, 0].exp(), "mixture_constant": fitted.sigma}
    for name, sigma in widths.items():
        density = mixture_of(mu[:, 0].double(), sigma.double())
        expected = [-density.log_prob(views).mean() / 4 for views in y]
        np.testing.assert_allclose(getattr(measured, name), expected, rtol=1e-6)


def test_the_reference_whitens_the_training_targets_and_knows_nothing_else(model, reference):
    """The statistics are of views drawn for this purpose, not of those that are measured."""
    parts = list(look(model, IMAGES[:30], SEEING, prediction._REFERENCE))
    y = reference.normalisation(torch.cat([part[2] for part in parts]).flatten(0, 1))
    expected = normalise_targets(
        torch.cat([part[2] for part in parts]).flatten(0, 1), "whiten", 0.1
    )
    torch.testing.assert_close(y, expected, atol=1e-3, rtol=1e-3)
    assert reference.sigma.shape == (4,) and (reference.sigma > 0).all()
