"""The identification: its score against densities of every candidate, and what it trains."""

import math

import pytest
import torch

from prosmin import scoring
from prosmin.objectives.contrastive import nt_xent
from prosmin.objectives.doubts import DOUBTS
from prosmin.objectives.prosmin import identification_scores
from tests.prosmin.objectives.conftest import tiny_model

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
    model = tiny_model(**BOTH, heads="own").eval()
    model.set_candidates((255 * batch[1]).byte())
    description = model.describe(batch[0])
    mu = model.predict(batch[0])[1]
    assert set(description.doubts) == set(DOUBTS) and description.log_sigma.shape == (32, 4)
    torch.testing.assert_close(description.doubts["mean_norm"], -mu.norm(dim=1))
    torch.testing.assert_close(description.doubts["unexplained"], 1 - mu.square().sum(1) / 4)


def test_without_identification_there_is_no_weight_for_it():
    assert {name.split(".")[0] for name in tiny_model().state_dict()} == {
        *("encoder", "projector", "head", "target")
    }
