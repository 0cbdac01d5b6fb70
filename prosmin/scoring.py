"""Scoring rules for a predicted Gaussian, as losses: smaller is better.

``identification`` scores the answer to a question: which of many targets is the right one? The
others score a diagonal Gaussian by the target alone. ``rule`` makes one of these ready for use, by
its name in ``prosmin.objectives.settings.RULES``. The default is the CRPS.

For a prediction P = N(mu, sigma^2) and an observation y, per dimension,

    S_lambda(P, y) = 2 E|X - y| - lambda E|X - X'|,        X, X' ~ P independent.

At lambda = 1 this is twice the continuous ranked probability score (CRPS), strictly proper for the
marginals (Gneiting & Raftery, JASA 2007, eq. 21) and hence for the family of diagonal Gaussians.
ProSMIN (Vahidi et al., ICLR 2024, arXiv 2309.02048) minimises a Monte Carlo estimate of it. For a
Gaussian both expectations are known (Gneiting et al., MWR 2005, for the first),

    E|X - y|  = sigma [ z (2 Phi(z) - 1) + 2 phi(z) ],   z = (y - mu) / sigma
    E|X - X'| = 2 sigma / sqrt(pi),

so ``crps`` is the exact expectation of ``crps_monte_carlo``: no samples, no sampling noise in the
gradient.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from prosmin.common.errors import ConfigError

_SQRT_2 = math.sqrt(2.0)
_SQRT_2_PI = math.sqrt(2.0 / math.pi)
_SQRT_PI = math.sqrt(math.pi)


def implied_sigma_factor(lambda_: float) -> float:
    """sigma / tau at the minimum of the expected score for y ~ N(mu, tau^2).

    lambda_: above 0 and below sqrt(2); there is no minimum for others.

    It is lambda / sqrt(2 - lambda^2): 1 at lambda = 1, where the rule is proper, 1.60 at lambda =
    1.2. Derivation: with mu right, E[S] = 2 sqrt(2/pi) sqrt(sigma^2 + tau^2) - 2 lambda sigma /
    sqrt(pi); set its derivative in sigma to zero.
    """
    return lambda_ / math.sqrt(2.0 - lambda_**2)


def crps(mu: Tensor, sigma: Tensor, y: Tensor, lambda_: float = 1.0) -> Tensor:
    """Closed form of S_lambda, elementwise.

    mu, sigma, y: broadcastable to one shape [...], sigma > 0. Returns [...], in the unit of y.
    """
    score: Tensor = _CRPS.apply(mu, sigma, y, lambda_)
    return score


class _CRPS(torch.autograd.Function):
    """``crps`` with its gradient in closed form.

    The gradient is 2 erf in y, -2 erf in mu and 2 exp minus a constant in sigma, with erf and exp
    of ``_parts``: the terms that come from z cancel. Differentiation step by step keeps eight
    tensors for the backward pass and reads each once more. This function keeps two, with 3.5 times
    less memory and half the time.
    """

    @staticmethod
    def forward(ctx: Any, mu: Tensor, sigma: Tensor, y: Tensor, lambda_: float) -> Tensor:
        error = y - mu
        erf, exp = _parts(error, sigma)
        ctx.save_for_backward(mu, sigma, y, erf, exp)
        ctx.lambda_ = lambda_
        return 2.0 * torch.addcmul(error * erf, sigma, exp) - (2.0 * lambda_ / _SQRT_PI) * sigma

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        mu, sigma, y, erf, exp = ctx.saved_tensors
        if torch.is_grad_enabled():  # for a second derivative
            erf, exp = _parts(y - mu, sigma)
        to_y = 2.0 * gradient * erf
        to_sigma = gradient * (2.0 * exp - 2.0 * ctx.lambda_ / _SQRT_PI)
        return (
            (-to_y).sum_to_size(mu.shape),
            to_sigma.sum_to_size(sigma.shape),
            to_y.sum_to_size(y.shape),
            None,
        )


def _parts(error: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """erf and exp of z = error / sigma, by which E|X - y| = error erf + sigma exp.

    erf: 2 Phi(z) - 1 = erf(z / sqrt 2). exp: 2 phi(z) = sqrt(2 / pi) exp(-z^2 / 2).
    """
    z = error / sigma
    return torch.erf(z / _SQRT_2), _SQRT_2_PI * torch.exp(-0.5 * z * z)


def crps_monte_carlo(
    mu: Tensor,
    sigma: Tensor,
    y: Tensor,
    lambda_: float = 1.0,
    samples: int = 4,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Unbiased Monte Carlo estimate of ``crps`` from reparametrised samples, elementwise.

    mu, sigma, y: of one shape [...].
    samples: K >= 2.

    Returns [...]. The spread term is a mean over the K (K-1) / 2 distinct pairs. In one dimension
    their sum is sum_k (2k - K + 1) x_(k) over the sorted samples, k from 0, so memory is O(K).
    """
    x = draw(mu, sigma, samples, generator)
    distance = (x - y).abs().mean(0)
    rank = torch.arange(samples, device=mu.device, dtype=mu.dtype) * 2 - (samples - 1)
    ordered = x.sort(0).values
    total: Tensor = torch.tensordot(rank, ordered, dims=1)
    spread = total / (samples * (samples - 1) / 2)
    return 2.0 * distance - lambda_ * spread


def draw(
    mu: Tensor, sigma: Tensor, samples: int, generator: torch.Generator | None = None
) -> Tensor:
    """Reparametrised samples [K, ...] of N(mu, sigma^2), of one shape [...]."""
    if samples < 2:
        raise ConfigError(
            "samples", samples, "must be at least 2: the spread is a difference of two samples"
        )
    noise = torch.randn((samples, *mu.shape), generator=generator, device=mu.device, dtype=mu.dtype)
    return mu + sigma * noise


def energy_monte_carlo(
    mu: Tensor,
    sigma: Tensor,
    y: Tensor,
    lambda_: float = 1.0,
    samples: int = 4,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Unbiased estimate of the energy score, divided by sqrt(D).

    The score is 2 E|X - y| - lambda E|X - X'| with Euclidean norms, strictly proper for every
    distribution with a mean (Gneiting & Raftery 2007, eq. 22). Unlike the CRPS it sees correlation
    between dimensions. The root keeps its size the same at any D; at D = 1 it is ``crps``.

    mu, sigma, y: [B, D]. Returns [B].
    """
    x = draw(mu, sigma, samples, generator).transpose(0, 1)  # [B, K, D]
    distance = (x - y.unsqueeze(1)).norm(dim=2).mean(1)
    spread = _between(x).sum((1, 2)) / (samples * (samples - 1))
    score: Tensor = (2.0 * distance - lambda_ * spread) / math.sqrt(mu.shape[1])
    return score


def _between(x: Tensor) -> Tensor:
    """Distances [B, K, K] between the K samples of each of B predictions."""
    distances: Tensor = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    return distances


def kernel(
    mu: Tensor, sigma: Tensor, y: Tensor, lambda_: float = 1.0, bandwidth: float = 1.0
) -> Tensor:
    """Closed form of the kernel score, in [0, 1 + lambda].

    The score is lambda E k(X, X') - 2 E k(X, y) + k(y, y), k(a, b) = exp(-|a - b|^2 / 2 D h^2). At
    lambda = 1 it is the squared maximum mean discrepancy between P and the observation, strictly
    proper (Gneiting & Raftery 2007, sec. 5.1). Every expectation is a product over dimensions of
    Gaussian integrals, summed as logarithms.

    mu, sigma, y: [B, D].
    bandwidth: h, in the unit of y; times sqrt(D) it has the size of a difference.

    Returns [B].
    """
    width = bandwidth**2 * mu.shape[1]
    variance = sigma.square()
    cross = -0.5 * (torch.log1p(variance / width) + (y - mu).square() / (width + variance)).sum(1)
    spread = -0.5 * torch.log1p(2.0 * variance / width).sum(1)
    return lambda_ * spread.exp() - 2.0 * cross.exp() + 1.0


def kernel_monte_carlo(
    mu: Tensor,
    sigma: Tensor,
    y: Tensor,
    lambda_: float = 1.0,
    bandwidth: float = 1.0,
    samples: int = 4,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Unbiased Monte Carlo estimate of ``kernel``."""
    scale = -0.5 / (bandwidth**2 * mu.shape[1])
    x = draw(mu, sigma, samples, generator).transpose(0, 1)  # [B, K, D]
    cross = (scale * (x - y.unsqueeze(1)).square().sum(2)).exp().mean(1)
    pairs = (scale * _between(x).square()).exp().sum(
        (1, 2)
    ) - samples  # less those of a sample with itself
    return lambda_ * pairs / (samples * (samples - 1)) - 2.0 * cross + 1.0


def log_score(mu: Tensor, sigma: Tensor, y: Tensor) -> Tensor:
    """Negative log likelihood of y, elementwise, in nats."""
    z = (y - mu) / sigma
    return 0.5 * z * z + sigma.log() + 0.5 * math.log(2.0 * math.pi)


def absolute_error(mu: Tensor, y: Tensor) -> Tensor:
    """2 |mu - y|, elementwise: what ``crps`` becomes as sigma goes to 0."""
    return 2.0 * (mu - y).abs()


def identification(
    mean: Tensor, log_width: Tensor, candidates: Tensor, own: Tensor, left_out: Tensor
) -> Tensor:
    """Logarithmic score of the question which candidate is the target of an image, in nats [B].

    The answer is p(j) proportional to N(y_j; mean, width^2 I), the predicted density of candidate
    j. The score -log p(own) is strictly proper for a categorical answer (Gneiting & Raftery 2007,
    sec. 3). The constant of the density is the same for all candidates and cancels. On unit
    vectors -|y - mean|^2 / 2 width^2 = (y . mean - 1) / width^2, so a fixed width is InfoNCE at
    the temperature width^2.

    mean: [B, D], of length 1.
    log_width: [B].
    candidates: y, [M, D], of length 1.
    own: row of the right candidate of each image, int64 [B].
    left_out: row of the candidate that is not asked about, int64 [B].
    """
    logits = answer_logits(mean, log_width, candidates)
    logits = logits.scatter(1, left_out[:, None], -torch.inf)
    return F.cross_entropy(logits, own, reduction="none")


def answer_logits(mean: Tensor, log_width: Tensor, candidates: Tensor) -> Tensor:
    """Logits [B, M] of the answer of ``identification``; arguments as there."""
    return (mean * torch.exp(-2.0 * log_width)[:, None]) @ candidates.T


Score = Callable[[Tensor, Tensor, Tensor, torch.Generator | None], Tensor]


def rule(
    name: str, lambda_: float = 1.0, samples: int | None = None, bandwidth: float = 1.0
) -> Score:
    """A function (mu, sigma, y: [B, D], generator) -> scores, elementwise [B, D] or per image [B].

    name: a key of ``prosmin.objectives.settings.RULES``. samples: of the Monte Carlo estimate;
    ``None``: the closed form. Raises ``KeyError`` for an estimator that the rule does not have.
    """
    weight = 0.0 if name == "distance" else lambda_
    if samples is None:
        return {
            "crps": lambda mu, sigma, y, _: crps(mu, sigma, y, weight),
            "kernel": lambda mu, sigma, y, _: kernel(mu, sigma, y, weight, bandwidth),
            "log": lambda mu, sigma, y, _: log_score(mu, sigma, y),
            "distance": lambda mu, sigma, y, _: crps(mu, sigma, y, weight),
            "point": lambda mu, sigma, y, _: absolute_error(mu, y),
        }[name]
    return {
        "crps": lambda mu, sigma, y, draws: crps_monte_carlo(mu, sigma, y, weight, samples, draws),
        "energy": lambda mu, sigma, y, draws: energy_monte_carlo(
            mu, sigma, y, weight, samples, draws
        ),
        "kernel": lambda mu, sigma, y, draws: kernel_monte_carlo(
            mu, sigma, y, weight, bandwidth, samples, draws
        ),
        "distance": lambda mu, sigma, y, draws: crps_monte_carlo(
            mu, sigma, y, weight, samples, draws
        ),
    }[name]


def best_constant(errors: Tensor) -> Tensor:
    """Find the sigma [D] whose N(mu, sigma^2) has the lowest mean CRPS, for errors y - mu [N, D].

    With E|X - y| = sigma [z (2 Phi(z) - 1) + 2 phi(z)] the CRPS has the derivative
    2 phi(e / sigma) - 1 / sqrt(pi) in sigma. The mean of the derivative rises with sigma, so
    bisection in log sigma finds its root.
    """
    low, high = (
        torch.full(errors.shape[1:], math.log(bound), device=errors.device) for bound in (1e-4, 1e4)
    )
    goal = math.sqrt(2.0) / 2  # mean exp(-z^2 / 2) at the root
    for _ in range(40):
        middle = (low + high) / 2
        above = torch.exp(-0.5 * (errors / middle.exp()).square()).mean(0) > goal
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return ((low + high) / 2).exp()
