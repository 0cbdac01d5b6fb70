"""A small network on frozen features that ranks images by a loss.

Pretrained Visual Uncertainties (Kirchhof et al. 2024, arXiv 2402.16569): the gradient stops at the
features, so the encoder stays as it is, and only the order of the losses is learned. Here the loss
needs no labels (``prosmin.evaluation.uncertainty.identification_losses``).

Letters in shapes: N images, F features.
"""

import numpy as np
import torch
from torch import Tensor, nn

from prosmin.common.errors import UserError
from prosmin.common.seeds import epoch_order, initial_weights
from prosmin.models import light_imports
from prosmin.models.networks import decay_groups
from prosmin.training.schedules import warmup_cosine

WIDTH = 256  # units of the hidden layer
MARGIN = 0.1  # between the outputs of two images, as in the paper
BATCH = 256  # images per step
LR, WEIGHT_DECAY = 0.001, 0.05  # of AdamW
WARMUP = 0.1  # share of the steps


class LossRanking:
    """A fitted head. mean, std: of the features that it was fitted to, [F] each."""

    def __init__(self, network: nn.Module, mean: np.ndarray, std: np.ndarray):
        self.network, self.mean, self.std = network, mean, std

    @torch.inference_mode()
    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Score features [N, F]: float64 [N], high where a high loss is expected."""
        output = self.network(_standardised(features, self.mean, self.std))[:, 0]
        scores: np.ndarray = output.double().numpy()
        return scores


def _standardised(features: np.ndarray, mean: np.ndarray, std: np.ndarray) -> Tensor:
    return torch.from_numpy(((features - mean) / std).astype(np.float32))


@light_imports.without_compile()
def fit(
    features: np.ndarray,
    losses: np.ndarray,
    mean: np.ndarray,
    std: np.ndarray,
    epochs: int,
    seed: int,
) -> LossRanking:
    """Fit a head on the CPU. The result is a function of the arguments.

    features: [N, F]. losses: [N]. mean, std: of the features, [F] each.

    Raises:
        UserError: for fewer than two images.
    """
    if len(features) < 2:
        raise UserError(f"a head that ranks losses needs at least 2 images, not {len(features)}")
    with initial_weights(seed):
        network = nn.Sequential(nn.Linear(features.shape[1], WIDTH), nn.GELU(), nn.Linear(WIDTH, 1))
    inputs, goals = _standardised(features, mean, std), torch.from_numpy(losses)
    batch = min(BATCH, len(inputs))
    steps = epochs * (len(inputs) // batch)
    warmup = max(1, round(WARMUP * steps))
    optimiser = torch.optim.AdamW(decay_groups(network, WEIGHT_DECAY), lr=LR)
    step = 0
    for epoch in range(epochs):
        for chosen in epoch_order(len(inputs), batch, seed, epoch):
            for group in optimiser.param_groups:
                group["lr"] = warmup_cosine(LR, step, steps, warmup)
            loss = ranking_loss(network(inputs[chosen])[:, 0], goals[chosen])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it without types
            optimiser.step()
            step += 1
    return LossRanking(network.eval(), mean, std)


def ranking_loss(outputs: Tensor, losses: Tensor) -> Tensor:
    """Mean over pairs of max(0, margin - (output of the higher loss - that of the lower)), [].

    Pairs of equal losses do not count. outputs, losses: [N] each.
    """
    higher = losses[:, None] > losses[None, :]
    gaps = outputs[:, None] - outputs[None, :]
    return (MARGIN - gaps).clamp_min(0)[higher].sum() / higher.sum().clamp_min(1)
