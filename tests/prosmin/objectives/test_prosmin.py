import math

import pytest
import torch

from prosmin import scoring
from prosmin.common.errors import ConfigError
from prosmin.models.networks import Encoder
from prosmin.objectives import settings
from prosmin.objectives.contrastive import nt_xent
from prosmin.objectives.doubts import DOUBTS
from prosmin.objectives.prosmin import ProSMIN, identification_scores
from prosmin.objectives.targets import normalise_targets


def tiny_encoder(features=6):
    backbone = torch.nn.Sequential(
        torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(16, features)
    )
    backbone.num_features = features
    return Encoder(backbone, [0.5], [0.25])


def tiny_model(**changes):
    torch.manual_seed(0)
    return ProSMIN(tiny_encoder(), 12, 4, settings.ProSMIN(**changes))


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(32, 1, 4, 4, generator=generator) for _ in range(2)]


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


# --- identification -------------------------------------------------------------------------------

ALONE = {"regression": 0.0, "identification": 1.0}
BOTH = {"regression": 0.3, "identification": 2.0}


def slow_identification(model, views):
    """The score of every pair of views and every image, from densities of unit vectors."""
    sizes = [views[:2], *([view] for view in views[2:])]
    outputs = [model.predict_from(model.project(torch.cat(group))) for group in sizes]
    mean, log_width = (
        [view for part in parts for view in part.split(len(views[0]))]
        for parts in ([out.mean for out in outputs], [out.log_width for out in outputs])
    )
    y = [unit(target) for target in model.targets(torch.cat(views[:2])).split(len(views[0]))]
    scores = []
    for online, target in [(o, t) for o in range(len(views)) for t in (0, 1) if o != t]:
        for image in range(len(views[0])):
            law = torch.distributions.Independent(
                torch.distributions.Normal(
                    unit(mean[online])[image], log_width[online][image].exp()
                ),
                1,
            )
            densities = {
                (view, row): law.log_prob(y[view][row])
                for view in (0, 1)
                for row in range(len(views[0]))
                if (view, row) != (1 - target, image)
            }
            right = densities[target, image]
            scores.append(torch.logsumexp(torch.stack(list(densities.values())), 0) - right)
    return torch.stack(scores).mean()


def unit(vectors):
    return vectors / vectors.norm(dim=1, keepdim=True)


def few(count=6, local=0):
    generator = torch.Generator().manual_seed(1)
    sides = (8, 8, 6, 5)[: 2 + local]
    return [torch.rand(count, 1, side, side, generator=generator) for side in sides]


@pytest.mark.parametrize("local", [0, 2])
@pytest.mark.parametrize("width", ["predicted", "constant", "fixed"])
@torch.no_grad()
def test_the_identification_equals_densities_of_every_candidate(local, width):
    model, views = tiny_model(**ALONE, width=width, initial_width=0.5), few(local=local)
    torch.testing.assert_close(model(views), slow_identification(model, views))


@torch.no_grad()
def test_the_loss_is_the_weighted_sum_of_its_terms(batch):
    model = tiny_model(**BOTH)
    seen = torch.cat(batch)
    prediction = model.predict_from(model.project(seen))
    assert prediction.mean is prediction.mu  # heads: shared
    y = model.targets(seen)
    first = scoring.crps(prediction.mu[:32], prediction.log_sigma[:32].exp(), y[32:])
    second = scoring.crps(prediction.mu[32:], prediction.log_sigma[32:].exp(), y[:32])
    expected = 0.3 * (first.mean() + second.mean()) / 2 + 2 * slow_identification(model, batch)
    torch.testing.assert_close(model(batch), expected)


@torch.no_grad()
def test_a_fixed_width_between_equal_networks_is_nt_xent(batch):
    z = tiny_model().project(torch.cat(batch)).split(32)
    width = 0.4
    log_widths = [torch.full((32,), math.log(width))] * 2
    scores = identification_scores(z, log_widths, z)
    expected = nt_xent(*(unit(projection) for projection in z), width**2)
    torch.testing.assert_close(torch.stack(scores).mean(), expected)


def test_the_identification_keeps_no_more_memory_for_its_gradient_than_nt_xent():
    generator = torch.Generator().manual_seed(0)
    z = [torch.randn(64, 4, generator=generator, requires_grad=True) for _ in range(2)]
    log_widths = [torch.zeros(64, requires_grad=True) for _ in range(2)]
    targets = [projection.detach() for projection in z]
    identified = kept(lambda: torch.stack(identification_scores(z, log_widths, targets)).mean())
    assert identified <= kept(lambda: nt_xent(*(unit(projection) for projection in z), 0.2)) * 1.1


def kept(loss):
    """Bytes that autograd keeps from a loss for its gradient."""
    sizes = {}

    def note(tensor):
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        value = loss()
    assert value.requires_grad
    return sum(sizes.values())


@pytest.mark.parametrize("rule", ["crps", "point"])
@pytest.mark.parametrize("heads", ["shared", "own", "stopped"])
@pytest.mark.parametrize("width", ["predicted", "constant", "fixed"])
def test_both_terms_train_every_online_parameter(batch, rule, heads, width):
    model = tiny_model(**BOTH, rule=rule, heads=heads, width=width)
    model(batch).backward()
    for name, parameter in model.named_parameters():
        has = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        assert has != name.startswith("target."), name


def gradients(model, batch):
    model(batch).backward()
    return {
        name: parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def test_stopped_heads_learn_as_alone_and_leave_the_encoder_to_the_identification(batch):
    both = tiny_model(regression=1.0, identification=1.0, heads="stopped")
    alone = [tiny_model(**ALONE), tiny_model()]
    for model in alone:
        known = {name: both.state_dict()[name] for name in model.state_dict()}
        model.load_state_dict(known)
    together = gradients(both, batch)
    identified, regressed = (gradients(model, batch) for model in alone)
    assert together.keys() == identified.keys() | regressed.keys()
    for name, gradient in together.items():
        expected = regressed[name] if name.startswith("head.") else identified[name]
        torch.testing.assert_close(gradient, expected, msg=name)


def test_the_identification_learns_instead_of_widening_its_densities(batch):
    model = tiny_model(**ALONE)
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    for _ in range(100):
        loss = model(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.momentum_update(0.9)
    assert loss.item() < math.log(63) - 0.5  # less than a guess among 2N - 1 candidates


@torch.no_grad()
def test_the_identification_alone_predicts_a_width_and_no_sigma(batch):
    model = tiny_model(**ALONE)
    description = model.describe(batch[0])
    assert model.sigma_range is None and description.log_sigma is None
    assert description.doubts.keys() == {"width", "mean_norm", "projection_norm"}
    prediction = model.predict_from(model.project(batch[0]))
    torch.testing.assert_close(description.doubts["width"], prediction.log_width)
    torch.testing.assert_close(description.doubts["mean_norm"], -prediction.mean.norm(dim=1))


@pytest.mark.parametrize("width", ["constant", "fixed"])
def test_a_width_that_all_images_share_is_no_doubt(batch, width):
    assert "width" not in tiny_model(**ALONE, width=width).describe(batch[0]).doubts


@torch.no_grad()
def test_doubts_of_two_means_are_those_of_the_regression(batch):
    model = tiny_model(**BOTH, heads="own")
    description = model.describe(batch[0])
    mu = model.predict(batch[0])[1]
    assert set(description.doubts) == set(DOUBTS) and description.log_sigma.shape == (32, 4)
    torch.testing.assert_close(description.doubts["mean_norm"], -mu.norm(dim=1))
    torch.testing.assert_close(description.doubts["unexplained"], 1 - mu.square().sum(1) / 4)


def test_without_identification_there_is_no_weight_for_it():
    assert {name.split(".")[0] for name in tiny_model().state_dict()} == {
        *("encoder", "projector", "head", "target")
    }
