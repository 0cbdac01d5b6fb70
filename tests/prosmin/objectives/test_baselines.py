"""The baselines against image-by-image re-derivations, and what holds for every objective."""

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import nn

from prosmin.common.errors import ConfigError
from prosmin.models.networks import Encoder
from prosmin.objectives.distillation import balanced_assignments
from prosmin.objectives.doubts import DOUBTS
from prosmin.objectives.registry import build
from prosmin.objectives.regularised import sigreg, visreg
from prosmin.objectives.settings import TRAINED
from tests.reference import objectives as reference

BASELINES = [name for name in TRAINED if name != "prosmin"]
KEYS = {
    "published": {"bottleneck_dim": 5},
    "dino": {"prototypes": 10},
    "simsiam": {"predictor_dim": 5},
    "swav": {"prototypes": 10},
    "lejepa": {"directions": 6},
    "visreg": {"directions": 6},
}


def tiny_model(name, **changes):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16, 6))
        backbone.num_features = 6
        content = {"name": name, **KEYS.get(name, {}), **changes}
        return build(Encoder(backbone, [0.5], [0.25]), 12, 4, content)


def views(local=0, count=8):
    generator = torch.Generator().manual_seed(1)
    sizes = [8, 8, 6, 6, 5, 5][: 2 + local]
    return [torch.rand(count, 1, size, size, generator=generator) for size in sizes]


def moved(model):
    """The model with a target that is not its online network, as after some steps."""
    if hasattr(model, "target"):
        generator = torch.Generator().manual_seed(2)
        for parameter in model.target.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def outputs(model, batch, network):
    """float64 [N, D] per view, from one batch of global views and one of local views per size."""
    parts = [network(torch.cat(group)) for group in (batch[:2], batch[2:4], batch[4:]) if group]
    return [view.double().numpy() for part in parts for view in part.split(len(batch[0]))]


def slowly(name, model, batch):
    online = lambda network: outputs(model, batch, network)  # noqa: E731
    target = outputs(model, batch[:2], model.targets) if hasattr(model, "target") else None
    if name == "published":
        predicted = online(lambda x: torch.cat(model.head(model.project(x)), 1))
        mu, log_sigma = zip(*(np.split(output, 2, axis=1) for output in predicted))
        draws = torch.Generator().manual_seed(3)
        noise = [
            torch.randn(4, 8, 4, generator=draws).double().numpy() for _ in range(2 * len(batch))
        ]
        centred = [view - model.centre.numpy() for view in target]
        return reference.published(mu, [np.exp(view) for view in log_sigma], centred, noise, 1.2)
    if name == "byol":
        return reference.byol(online(lambda x: model.predictor(model.project(x))), target)
    if name == "simsiam":
        normed = lambda x: model.norm(model.project(x))  # noqa: E731
        return reference.simsiam(online(lambda x: model.predictor(normed(x))), online(normed))
    if name == "dino":
        logits = online(lambda x: model.prototypes(model.project(x)))
        return reference.dino(logits, target, model.centre.tolist(), 0.1, 0.04)
    if name == "swav":
        prototypes = model.prototypes.double().numpy()
        return reference.swav(online(model.project), prototypes, 0.1, 0.05, 3)
    if name == "barlow":
        return reference.barlow(online(model.project), 0.005)
    if name in ("lejepa", "visreg"):
        drawn = torch.randn(4, 6, generator=torch.Generator().manual_seed(3)).double().numpy().T
        directions = [direction / np.linalg.norm(direction) for direction in drawn]
        if name == "lejepa":
            return reference.lejepa(online(model.project), directions, 0.05)
        return reference.visreg(online(model.project), directions, 0.9)
    if name == "simclr":
        return reference.simclr(online(model.project), 0.2)
    if name == "mocov3":
        return reference.mocov3(online(lambda x: model.predictor(model.project(x))), target, 0.2)
    return reference.vicreg(online(model.project), 25.0, 25.0, 1.0)


@pytest.mark.parametrize("local", [0, 2, 4])
@pytest.mark.parametrize("name", BASELINES)
@torch.no_grad()
def test_loss_equals_a_slow_re_derivation(name, local):
    model, batch = moved(tiny_model(name)), views(local)
    if name in ("dino", "published"):
        model.centre.copy_(torch.linspace(-0.1, 0.1, len(model.centre)))
    slow = slowly(name, model, batch)
    assert float(model(batch, torch.Generator().manual_seed(3))) == pytest.approx(slow, rel=1e-4)


@pytest.mark.parametrize("name", BASELINES)
def test_every_online_parameter_and_no_target_parameter_gets_a_gradient(name):
    with torch.no_grad():
        model = moved(tiny_model(name))
    model(views()).backward()
    for key, parameter in model.named_parameters():
        has = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        assert has != key.startswith("target."), key


@pytest.mark.parametrize("name", BASELINES)
def test_it_learns_to_tell_its_batch_apart_or_to_predict_it(name):
    model, batch = tiny_model(name), views(count=32)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    losses = []
    for _ in range(30):
        loss = model(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.momentum_update(0.9)
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0] if losses[0] > 0 else losses[-1] < losses[0] - 0.1


@pytest.mark.parametrize("name", [name for name in BASELINES if name != "published"])
def test_a_baseline_predicts_no_distribution(name):
    description = tiny_model(name).describe(views()[0])
    assert description.features.shape == (8, 6) and description.log_sigma is None


@pytest.mark.parametrize("name", BASELINES)
@torch.no_grad()
def test_doubts_of_a_baseline_are_lengths_of_what_it_has(name):
    model, images = tiny_model(name).eval(), views()[0]
    predicts = {
        "published": lambda z: model.head(z)[0],
        "byol": lambda z: model.predictor(z),
        "simsiam": lambda z: model.predictor(model.norm(z)),
        "mocov3": lambda z: model.predictor(z),
    }
    projection = model.project(images)
    slow = {"projection_norm": -projection.square().sum(1).sqrt()}
    if name in predicts:
        slow["mean_norm"] = -predicts[name](projection).square().sum(1).sqrt()
    doubts = model.describe(images).doubts
    assert doubts.keys() == slow.keys() <= DOUBTS.keys()
    for doubt, expected in slow.items():
        torch.testing.assert_close(doubts[doubt], expected)


def test_the_published_code_leaves_half_of_the_mean_of_its_targets():
    model, batch = tiny_model("published"), views()
    for _ in range(200):
        model(batch)
    torch.testing.assert_close(model.centre, model.targets(torch.cat(batch)).mean(0) / 2)
    assert model.describe(batch[0]).log_sigma.shape == (8, 4)


def test_the_centre_of_dino_follows_the_target_while_training_alone():
    model, batch = tiny_model("dino", centre_momentum=0.75), views()
    expected = 0.25 * model.targets(torch.cat(batch)).mean(0)
    model.eval()(batch)
    assert float(model.centre.abs().max()) == 0
    model.train()(batch)
    torch.testing.assert_close(model.centre, expected)


def test_prototypes_are_used_equally_often_and_keep_unit_length():
    """Unless iterations are few, each of 4 prototypes gets a quarter of 40 images."""
    scores = torch.rand(40, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    shares = balanced_assignments(scores, 0.05, 200)
    torch.testing.assert_close(shares.sum(0), torch.full((4,), 10.0))
    torch.testing.assert_close(shares.sum(1), torch.ones(40))
    hard = balanced_assignments(scores, 1e-4, 3)
    assert torch.isfinite(hard).all() and (hard.max(1).values > 0.99).float().mean() > 0.9
    model = tiny_model("swav")
    with torch.no_grad():
        model.prototypes.mul_(3)
    model.momentum_update(0.5)
    torch.testing.assert_close(model.prototypes.norm(dim=1), torch.ones(10))


def test_sigreg_is_the_epps_pulley_statistic_of_each_direction():
    """Against numerical integration, for a Gaussian batch, a shifted one and a collapsed one."""
    drawn = torch.randn(50, 1, generator=torch.Generator().manual_seed(0))
    for z in (drawn, drawn + 1, torch.zeros(50, 1)):
        values = z.double().numpy()[:, 0]

        def apart(t, values=values):
            gaussian = np.exp(-t * t / 2)
            return abs(np.exp(1j * t * values).mean() - gaussian) ** 2 * gaussian

        expected = 50 * quad(apart, -3, 3)[0]
        assert float(sigreg(z[None], torch.ones(1, 1))) == pytest.approx(expected, rel=2e-3)
    gaussian, shifted, collapsed = (
        float(sigreg(z[None], torch.ones(1, 1))) for z in (drawn, drawn + 1, torch.zeros(50, 1))
    )
    assert gaussian < 0.1 * min(shifted, collapsed)


def test_visreg_is_zero_at_the_quantiles_of_a_gaussian_and_tells_scale_from_shape():
    quantiles = torch.special.ndtri(torch.arange(1, 200) / 200)[:, None]
    assert float(visreg(quantiles[None], torch.ones(1, 1))) < 2e-3
    z = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    z = (z - z.mean(0)) / z.std(0, correction=0)
    whole, half = (float(visreg((scale * z)[None], torch.eye(4))) for scale in (1.0, 0.5))
    assert half - whole == pytest.approx((1 - 0.5) ** 2, abs=1e-4)


def test_an_unknown_objective_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match="objective.name is 'simclear'; .*did you mean 'simclr'"):
        tiny_model("simclear")
