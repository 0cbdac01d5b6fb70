import pytest
import torch

from prosmin import scoring
from prosmin.common.errors import ConfigError
from prosmin.objectives import settings
from prosmin.objectives.doubts import DOUBTS
from prosmin.objectives.targets import normalise_targets
from tests.prosmin.objectives.conftest import tiny_model


def test_statistics_of_the_target_keep_full_precision_under_bf16(batch):
    model = tiny_model()
    with torch.autocast("cpu", torch.bfloat16):
        encoder, projector = model.target
        raw = projector(encoder(torch.cat(batch))).float()
        white = model.targets(torch.cat(batch))
    torch.testing.assert_close(white, normalise_targets(raw, "whiten", 0.1), atol=1e-5, rtol=1e-5)


def test_loss_is_the_mean_score_over_pairs_of_different_views(batch):
    model = tiny_model()
    loss = model(batch)
    seen = torch.cat(batch)
    _, mu, log_sigma = model.predict(seen)
    y = model.targets(seen)
    first = scoring.crps(mu[:32], log_sigma[:32].exp(), y[32:])
    second = scoring.crps(mu[32:], log_sigma[32:].exp(), y[:32])
    torch.testing.assert_close(loss, (first.mean() + second.mean()) / 2)


def test_local_views_predict_both_global_views(batch):
    model = tiny_model()
    local = [
        torch.rand(32, 1, side, side, generator=torch.Generator().manual_seed(i))
        for i, side in ((7, 4), (8, 4), (9, 6))
    ]
    loss = model([*batch, *local])
    mu_g, sigma_g = (t.split(32) for t in model.predict(torch.cat(batch))[1:])
    mu_l, sigma_l = (t.split(32) for t in model.predict(torch.cat(local[:2]))[1:])
    mu_s, sigma_s = model.predict(local[2])[1:]
    y = model.targets(torch.cat(batch)).split(32)
    mu, sigma = [*mu_g, *mu_l, mu_s], [*sigma_g, *sigma_l, sigma_s]
    pairs = [(0, 1), (1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (4, 0), (4, 1)]
    slow = torch.stack([scoring.crps(mu[o], sigma[o].exp(), y[t]).mean() for o, t in pairs]).mean()
    torch.testing.assert_close(loss, slow)


def test_every_online_parameter_and_no_target_parameter_gets_a_gradient(batch):
    model = tiny_model()
    model(batch).backward()
    for name, parameter in model.named_parameters():
        has = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        assert has != name.startswith("target."), name


@pytest.mark.parametrize(
    "rule", [rule for rule, estimators in settings.RULES.items() if len(estimators) == 2]
)
def test_monte_carlo_loss_approaches_the_closed_form(batch, rule):
    exact, sampled = (
        tiny_model(rule=rule),
        tiny_model(rule=rule, estimator="monte_carlo", samples=300),
    )
    with torch.no_grad():
        estimate = float(sampled(batch, torch.Generator().manual_seed(0)))
        assert estimate == pytest.approx(float(exact(batch)), rel=0.02)


@pytest.mark.parametrize("rule", settings.RULES)
def test_every_rule_is_the_mean_of_its_score_and_trains_every_online_parameter(batch, rule):
    estimator = settings.RULES[rule][0]
    model = tiny_model(rule=rule, estimator=estimator)
    loss = model(batch, torch.Generator().manual_seed(1))
    loss.backward()
    _, mu, log_sigma = model.predict(torch.cat(batch))
    y, draws = model.targets(torch.cat(batch)), torch.Generator().manual_seed(1)
    score = scoring.rule(rule, samples=None if estimator == "closed_form" else 4)
    first = score(mu[:32], log_sigma[:32].exp(), y[32:], draws)
    second = score(mu[32:], log_sigma[32:].exp(), y[:32], draws)
    torch.testing.assert_close(loss, (first.mean() + second.mean()) / 2)
    for name, parameter in model.named_parameters():
        has = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        assert has != name.startswith("target."), name


def test_a_point_prediction_has_no_sigma(batch):
    assert tiny_model(rule="point").describe(batch[0]).log_sigma is None
    assert tiny_model(rule="point").sigma_range is None
    description = tiny_model().describe(batch[0])
    assert description.features.shape == (32, 6) and description.log_sigma.shape == (32, 4)


@pytest.mark.parametrize("rule", ["crps", "point"])
@torch.no_grad()
def test_doubts_are_the_lengths_of_projection_and_mean(batch, rule):
    model = tiny_model(rule=rule).eval()
    _, mu, _ = model.predict(batch[0])
    doubts = model.describe(batch[0]).doubts
    slow = {
        "projection_norm": [-float(z.norm()) for z in model.project(batch[0])],
        "mean_norm": [-float(mean.norm()) for mean in mu],
        "unexplained": [1 - float(mean @ mean) / 4 for mean in mu],
    }
    assert doubts.keys() == slow.keys() <= DOUBTS.keys()
    for name, expected in slow.items():
        torch.testing.assert_close(doubts[name], torch.tensor(expected))


@pytest.mark.parametrize(
    ("normalise", "known"),
    [("none", False), ("centre", False), ("standardise", True), ("whiten", True)],
)
def test_the_unexplained_share_needs_targets_of_variance_1(batch, normalise, known):
    doubts = tiny_model(normalise=normalise).describe(batch[0]).doubts
    assert ("unexplained" in doubts) == known


def test_noise_is_added_to_the_normalised_target(batch):
    with torch.no_grad():
        quiet, noisy = (tiny_model(rule="point", noise=noise) for noise in (0.0, 0.5))
        drawn = 0.5 * torch.randn(64, 4, generator=torch.Generator().manual_seed(7))
        mu, y = quiet.predict(torch.cat(batch))[1], quiet.targets(torch.cat(batch)) + drawn
        expected = (2 * (mu[:32] - y[32:]).abs().mean() + 2 * (mu[32:] - y[:32]).abs().mean()) / 2
        torch.testing.assert_close(noisy(batch, torch.Generator().manual_seed(7)), expected)


def test_whitening_without_shrinkage_needs_enough_images():
    with pytest.raises(ConfigError, match="needs more than 2 images"):
        tiny_model(shrinkage=0.0).check_batch(2)
    tiny_model(shrinkage=0.1).check_batch(2)
