"""Scoring rules for a predicted diagonal Gaussian, in loss orientation (smaller is better).

For a prediction P = N(mu, sigma^2) and an observation y, per dimension,

    S_lambda(P, y) = 2 E|X - y| - lambda E|X - X'|,        X, X' ~ P independent.

At lambda = 1 this is twice the continuous ranked probability score (CRPS), strictly proper for the marginals
(Gneiting & Raftery, JASA 2007, eq. 21) and hence for the family of diagonal Gaussians. ProSMIN (Vahidi et al.,
ICLR 2024, arXiv 2309.02048) minimises a Monte Carlo estimate of it. For a Gaussian both expectations are known,

    E|X - y|  = sigma [ z (2 Phi(z) - 1) + 2 phi(z) ],   z = (y - mu) / sigma        (Gneiting et al., MWR 2005)
    E|X - X'| = 2 sigma / sqrt(pi),

so ``crps`` is the exact expectation of ``crps_monte_carlo``: no samples, no sampling noise in the gradient.
"""

import math

import torch
from torch import Tensor

from prosmin.errors import ConfigError

_SQRT_2 = math.sqrt(2.0)
_SQRT_2_PI = math.sqrt(2.0 / math.pi)
_SQRT_PI = math.sqrt(math.pi)


def check_lambda(value: float) -> None:
    """Refuse a lambda for which the score has no minimiser.

    If y ~ N(mu, tau^2), the expected score at sigma is smallest at ``tau * implied_sigma_factor(lambda)``, which
    grows without bound as lambda approaches sqrt(2); at lambda <= 0 spread is never rewarded.
    """
    if not 0.0 < value < _SQRT_2:
        raise ConfigError(
            "lambda",
            value,
            "must be above 0 and below sqrt(2) = 1.4142: from there on the score falls without bound as sigma grows",
        )


def implied_sigma_factor(lambda_: float) -> float:
    """sigma / tau at the minimum of the expected score for y ~ N(mu, tau^2): lambda / sqrt(2 - lambda^2).

    1 at lambda = 1, where the rule is proper; 1.60 at lambda = 1.2. Derivation: with mu right,
    E[S] = 2 sqrt(2/pi) sqrt(sigma^2 + tau^2) - 2 lambda sigma / sqrt(pi); set its derivative in sigma to zero.
    """
    check_lambda(lambda_)
    return lambda_ / math.sqrt(2.0 - lambda_**2)


def crps(mu: Tensor, sigma: Tensor, y: Tensor, lambda_: float = 1.0) -> Tensor:
    """Closed form of S_lambda, elementwise.

    mu, sigma, y: broadcastable to one shape [...], sigma > 0. Returns [...], in the unit of y.
    """
    error = y - mu
    z = error / sigma
    # z (2 Phi(z) - 1) sigma = error erf(z / sqrt 2);  2 phi(z) = sqrt(2 / pi) exp(-z^2 / 2)
    distance = error * torch.erf(z / _SQRT_2) + sigma * (_SQRT_2_PI * torch.exp(-0.5 * z * z))
    return 2.0 * distance - (2.0 * lambda_ / _SQRT_PI) * sigma


def crps_monte_carlo(
    mu: Tensor,
    sigma: Tensor,
    y: Tensor,
    lambda_: float = 1.0,
    samples: int = 4,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Unbiased Monte Carlo estimate of ``crps`` from reparametrised samples, elementwise.

    mu, sigma, y: one shape [...]; ``samples`` K >= 2. The spread term averages over the K (K-1) / 2 distinct pairs;
    in one dimension their sum is sum_k (2k - K + 1) x_(k) over the sorted samples (k from 0), so memory is
    O(K), not O(K^2). Returns [...].
    """
    if samples < 2:
        raise ConfigError("samples", samples, "must be at least 2: the spread is a difference of two samples")
    noise = torch.randn((samples, *mu.shape), generator=generator, device=mu.device, dtype=mu.dtype)
    x = mu + sigma * noise  # [K, ...]
    distance = (x - y).abs().mean(0)
    rank = torch.arange(samples, device=mu.device, dtype=mu.dtype) * 2 - (samples - 1)
    ordered = x.sort(0).values
    spread = torch.tensordot(rank, ordered, dims=1) / (samples * (samples - 1) / 2)
    return 2.0 * distance - lambda_ * spread
