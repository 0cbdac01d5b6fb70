"""The log score of the identification."""

import math

import pytest
import torch
from scipy import optimize

from prosmin import scoring


def question(seed=0):
    """Means, log widths, candidates, rows of the own and of the left-out candidate; float64."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(5 + 9, 3, generator=generator, dtype=torch.float64)
    mean, candidates = torch.nn.functional.normalize(vectors, dim=1).split([5, 9])
    log_width = torch.randn(5, generator=generator, dtype=torch.float64) - 0.5
    return mean, log_width, candidates, torch.tensor([0, 3, 8, 1, 5]), torch.tensor([1, 2, 0, 8, 4])


def test_identification_equals_densities_row_by_row():
    mean, log_width, candidates, own, left_out = question()
    scores = scoring.identification(mean, log_width, candidates, own, left_out)
    for image in range(5):
        variance = log_width[image].exp() ** 2 * torch.eye(3, dtype=torch.float64)
        law = torch.distributions.MultivariateNormal(mean[image], variance)
        densities = {
            row: law.log_prob(y).exp()
            for row, y in enumerate(candidates)
            if row != int(left_out[image])
        }
        slow = -torch.log(densities[int(own[image])] / sum(densities.values()))
        torch.testing.assert_close(scores[image], slow)


def test_identification_of_a_fixed_width_is_info_nce_at_the_temperature_of_its_square():
    mean, log_width, candidates, own, left_out = question()
    width = 0.4
    fixed = torch.full_like(log_width, math.log(width))
    similarity = mean @ candidates.T / width**2
    similarity[torch.arange(5), left_out] = -torch.inf
    info_nce = torch.nn.functional.cross_entropy(similarity, own, reduction="none")
    scores = scoring.identification(mean, fixed, candidates, own, left_out)
    torch.testing.assert_close(scores, info_nce)


def test_gradients_of_the_identification_pass_gradcheck_in_float64():
    mean, log_width, candidates, own, left_out = question()
    given = tuple(tensor.requires_grad_() for tensor in (mean, log_width, candidates))
    assert torch.autograd.gradcheck(
        lambda *tensors: scoring.identification(*tensors, own, left_out), given
    )


def test_expected_identification_is_least_at_the_true_direction_and_width_and_then_the_entropy():
    angles = torch.arange(40, dtype=torch.float64) * 2 * math.pi / 40
    circle = torch.stack([angles.cos(), angles.sin()], 1)
    direction, width = 0.7, 0.45
    weights = torch.exp(torch.cos(angles - direction) / width**2)
    answer = weights / weights.sum()  # the distribution of the right candidate
    candidates = torch.cat([circle, torch.zeros(1, 2, dtype=torch.float64)])

    def expected(given):
        towards, log_width = torch.tensor(given, dtype=torch.float64)
        mean = torch.stack([towards.cos(), towards.sin()]).expand(40, 2)
        nowhere = torch.full((40,), 40)
        scores = scoring.identification(
            mean, log_width.expand(40), candidates, torch.arange(40), nowhere
        )
        return float((answer * scores).sum())

    minimum = optimize.minimize(
        expected, [0.0, 0.0], method="Nelder-Mead", options={"fatol": 1e-12}
    )
    assert minimum.x == pytest.approx([direction, math.log(width)], abs=1e-4)
    assert minimum.fun == pytest.approx(-float((answer * answer.log()).sum()), abs=1e-9)
