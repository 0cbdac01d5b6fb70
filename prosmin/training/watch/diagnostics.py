"""Is the encoder learning or collapsing? Numbers of frozen features during training."""

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def rankme(features: Tensor) -> float:
    """Effective rank of features [N, F], in [1, min(N, F)]; 1 for one collapsed direction.

    The exponential of the entropy of the normalised singular values (Garrido et al., "RankMe",
    ICML 2023, eq. 1).
    """
    values = torch.linalg.svdvals(features.float())
    share = values / values.sum().clamp_min(1e-12) + 1e-7
    return float(torch.exp(-(share * share.log()).sum()))


@torch.no_grad()
def feature_std(features: Tensor) -> float:
    """Standard deviation of the L2-normalised features [N, F], mean over dimensions, times sqrt(F).

    0 at full collapse, 1 for directions spread evenly over the sphere (Chen & He, SimSiam, CVPR
    2021, fig. 2).
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
    """Accuracy of a weighted k-NN by cosine similarity. A curve to watch, not a result to report.

    bank, bank_labels: features [N, F] and classes [N] that vote, with weights exp(similarity /
        temperature) (Wu et al., CVPR 2018).
    queries, labels: features [M, F] to classify, and their classes [M].
    """
    similarity = F.normalize(queries.float(), dim=1) @ F.normalize(bank.float(), dim=1).T
    top, index = similarity.topk(min(k, len(bank)), dim=1)
    votes = torch.zeros(len(queries), int(bank_labels.max()) + 1, device=queries.device)
    votes.scatter_add_(1, bank_labels[index], (top / temperature).exp())
    return float((votes.argmax(1) == labels).float().mean())


@torch.no_grad()
def probe_accuracy(
    bank: Tensor, bank_labels: Tensor, queries: Tensor, labels: Tensor, l2: float = 0.01
) -> float:
    """Accuracy of a linear probe: ridge regression on the one-hot labels of a bank, solved exactly.

    bank, bank_labels, queries, labels: as for ``knn_accuracy``.
    l2: weight of the penalty beside the mean squared error, for features of variance 1.
    """
    mean, std = bank.double().mean(0), bank.double().std(0, correction=0)
    std = torch.where(std > 1e-6 * std.max(), std, 1.0)
    inputs = (bank.double() - mean) / std
    classes = F.one_hot(bank_labels).double()
    shares = classes.mean(0)
    penalty = l2 * torch.eye(inputs.shape[1], dtype=inputs.dtype, device=inputs.device)
    square = inputs.T @ inputs / len(inputs) + penalty
    weights = torch.linalg.solve_ex(square, inputs.T @ (classes - shares) / len(inputs))[0]
    scores = (queries.double() - mean) / std @ weights + shares
    return float((scores.argmax(1) == labels).float().mean())


@torch.no_grad()
def sigma_summary(log_sigma: Tensor, low: float, high: float) -> dict[str, float]:
    """Geometric mean of sigma, and the share at the clamp, of predicted log sigma [N, D]."""
    margin = 1e-4 * (high - low)
    clamped = (log_sigma <= low + margin) | (log_sigma >= high - margin)
    return {
        "sigma_mean": float(log_sigma.mean().exp()),
        "sigma_clamped": float(clamped.float().mean()),
    }
