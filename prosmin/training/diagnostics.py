"""Is the encoder learning or collapsing? Numbers read off frozen features while training."""

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def rankme(features: Tensor) -> float:
    """Effective rank of features [N, F]: exp of the entropy of the normalised singular values, in [1, min(N, F)].

    Garrido et al., "RankMe", ICML 2023, eq. 1. One collapsed direction gives 1.
    """
    values = torch.linalg.svdvals(features.float())
    share = values / values.sum().clamp_min(1e-12) + 1e-7
    return float(torch.exp(-(share * share.log()).sum()))


@torch.no_grad()
def feature_std(features: Tensor) -> float:
    """Mean over dimensions of the standard deviation of the L2-normalised features [N, F], times sqrt(F).

    0 at full collapse, 1 for directions spread evenly over the sphere (Chen & He, SimSiam, CVPR 2021, fig. 2).
    """
    return float(F.normalize(features.float(), dim=1).std(0).mean() * features.shape[1] ** 0.5)


@torch.no_grad()
def knn_accuracy(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    labels: Tensor,
    k: int = 10,
    temperature: float = 0.07,
) -> float:
    """Share of queries [M, F] whose weighted vote of the k nearest bank features [N, F] by cosine is right.

    Weights exp(similarity / temperature) (Wu et al., CVPR 2018). A curve to watch, not a result to report.
    """
    similarity = F.normalize(queries.float(), dim=1) @ F.normalize(bank.float(), dim=1).T
    top, index = similarity.topk(min(k, len(bank)), dim=1)
    votes = torch.zeros(len(queries), int(bank_labels.max()) + 1, device=queries.device)
    votes.scatter_add_(1, bank_labels[index], (top / temperature).exp())
    return float((votes.argmax(1) == labels).float().mean())


@torch.no_grad()
def sigma_summary(log_sigma: Tensor, low: float, high: float) -> dict[str, float]:
    """Of predicted log standard deviations [N, D]: geometric mean of sigma, and the share at the clamp."""
    margin = 1e-4 * (high - low)
    clamped = (log_sigma <= low + margin) | (log_sigma >= high - margin)
    return {
        "sigma_mean": float(log_sigma.mean().exp()),
        "sigma_clamped": float(clamped.float().mean()),
    }
