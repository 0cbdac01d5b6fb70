"""The loss-ranking head: its loss by hand, what it learns, and that it repeats to the bit."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from prosmin.common.errors import UserError
from prosmin.evaluation import uncertainty_head


def sample(n=400, seed=0):
    """Features, and losses that are a curved function of them with noise."""
    rng = np.random.default_rng(seed)
    features = rng.normal(2, 3, size=(n, 5)).astype(np.float32)
    return features, np.abs(features[:, 0]) + 0.3 * rng.normal(size=n)


def fitted(n=400, epochs=60, seed=0):
    features, losses = sample(n)
    return uncertainty_head.fit(features, losses, features.mean(0), features.std(0), epochs, seed)


def test_the_ranking_loss_by_hand():
    """Losses 1 < 2 < 3 and outputs 0, 1, 0.95; the margin is 0.1."""
    loss = uncertainty_head.ranking_loss(
        torch.tensor([0.0, 1.0, 0.95]), torch.tensor([1.0, 2.0, 3.0])
    )
    assert loss.item() == pytest.approx((0 + 0 + 0.15) / 3)


def test_equal_losses_do_not_count():
    outputs = torch.tensor([0.0, 1.0], requires_grad=True)
    loss = uncertainty_head.ranking_loss(outputs, torch.ones(2))
    loss.backward()
    assert loss.item() == 0 and outputs.grad.tolist() == [0, 0]


def test_it_ranks_images_that_it_has_not_seen():
    features, losses = sample(seed=1)
    scores = fitted()(features)
    assert scores.shape == (400,) and scores.dtype == np.float64
    assert spearmanr(scores, losses).statistic > 0.7


def test_it_is_a_function_of_its_arguments_and_leaves_torch_as_it_was():
    features, _ = sample(seed=1)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = fitted(100, 2)(features)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    np.testing.assert_array_equal(first, fitted(100, 2)(features))
    assert (first != fitted(100, 2, seed=1)(features)).any()


def test_it_needs_two_images():
    with pytest.raises(UserError, match="needs at least 2 images, not 1"):
        fitted(1)
