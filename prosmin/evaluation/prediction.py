"""How good is the predicted distribution itself? Several views of an image, each predicting the target of the others.

The online network sees view i and predicts N(mu_i, sigma_i^2), the target network sees view j and gives y_j; all
ordered pairs i != j of the views count, in all dimensions. Everything is averaged over pairs and dimensions to one number
an image, because only images are independent: intervals come from resampling images.

In training the targets are normalised by the statistics of their batch. Here a number must not depend on the company that
an image comes in, so the statistics are those of training images, taken once (``fit_reference``), and the networks run
in evaluation mode.

Letters in shapes: N images, V views, D dimensions of the projection, L levels, B bins.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from prosmin import scoring
from prosmin.common.seeds import prediction_generator
from prosmin.metrics import classification
from prosmin.metrics.intervals import Scale, on
from prosmin.objectives.base import Distilling
from prosmin.objectives.prosmin import ProSMIN
from prosmin.objectives.published import Published
from prosmin.objectives.targets import Normalisation, fit_normalisation
from prosmin.views.make import random_view
from prosmin.views.settings import ViewSettings

LEVELS = (50, 80, 90)  # per cent of the central intervals whose coverage is counted
BINS = 20  # of the PIT histogram
_CHUNK = 256  # images seen at a time; a constant, because the views drawn depend on it
_REFERENCE, _MEASURE = 0, 1  # what a random stream is for: part of its seed

Predicting = ProSMIN | Published  # the objectives that predict a distribution


@dataclass(frozen=True)
class Seeing:
    """How views are drawn: so many of each image, by these settings, from this seed."""

    views: int
    settings: ViewSettings
    seed: int


@dataclass(frozen=True)
class Reference:
    """What evaluation takes from training images. sigma [D]: for each dimension the one standard deviation that, given
    to all images, has the lowest CRPS around the predicted means: the control that predicted sigma is held against."""

    normalisation: Normalisation
    sigma: Tensor


def fit_reference(model: Predicting, images: Tensor, seeing: Seeing) -> Reference:
    """images: uint8 [N, C, S, S], of the training split. The targets are normalised as the model was trained."""
    mu, _, y = (
        torch.cat(parts) for parts in zip(*_look(model, images, seeing, _REFERENCE), strict=True)
    )
    if isinstance(model, Published):  # its centre was fixed by the training
        normalisation = Normalisation(model.centre)
    else:
        normalisation = fit_normalisation(
            y.flatten(0, 1), model.normalise, model.shrinkage, torch.float64
        )
    errors = torch.cat([y - mu for mu, y in _pairs(mu, normalisation(y))])
    return Reference(normalisation, best_constant(errors))


def best_constant(errors: Tensor) -> Tensor:
    """errors y - mu [N, D] -> the sigma [D] whose N(mu, sigma^2) has the lowest mean CRPS.

    With E|X - y| = sigma [z (2 Phi(z) - 1) + 2 phi(z)] the CRPS has the derivative 2 phi(e / sigma) - 1 / sqrt(pi) in
    sigma. Its mean rises with sigma, so the root is found by halving, in log sigma.
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


@dataclass(frozen=True)
class Measured:
    """Of N images. inside [N, L]: share of targets within the central interval of each level; pit [B]: share of targets
    by bin of their predicted probability integral transform, the mean over images; crps, crps_constant: with predicted
    and with constant sigma; log_sigma: mean predicted; error: mean |y - mu|; disagreement: mean E|X_i - X_j| of
    predictions from two views, disagreement_constant: the same with constant sigma; all but pit float64 [N]."""

    inside: np.ndarray
    pit: np.ndarray
    crps: np.ndarray
    crps_constant: np.ndarray
    log_sigma: np.ndarray
    error: np.ndarray
    disagreement: np.ndarray
    disagreement_constant: np.ndarray


def measure(model: Predicting, images: Tensor, reference: Reference, seeing: Seeing) -> Measured:
    """images: uint8 [N, C, S, S] of any dataset, N at least 1, as the encoder takes them."""
    parts = [
        _measure(mu, log_sigma, reference.normalisation(y), reference.sigma)
        for mu, log_sigma, y in _look(model, images, seeing, _MEASURE)
    ]
    rows = {
        name: torch.cat([part[name] for part in parts]).double().cpu().numpy() for name in parts[0]
    }
    return Measured(**rows | {"pit": rows["pit"].mean(axis=0)})


def _measure(mu: Tensor, log_sigma: Tensor, y: Tensor, constant: Tensor) -> dict[str, Tensor]:
    """[N, V, D] each, constant [D] -> the fields of ``Measured``, one row an image."""
    sigma = log_sigma.exp()
    seen: dict[str, list[Tensor]] = {}

    def note(name: str, values: Tensor) -> None:
        seen.setdefault(name, []).append(values.mean((1, 2)))  # over views and dimensions

    for shift in range(1, mu.shape[1]):
        target, other_mu, other_sigma = (each.roll(-shift, 1) for each in (y, mu, sigma))
        pit = torch.special.ndtr((target - mu) / sigma)
        note("crps", scoring.crps(mu, sigma, target) / 2)
        note("crps_constant", scoring.crps(mu, constant, target) / 2)
        note("error", (target - mu).abs())
        # X_i - X_j is Gaussian; the score without its spread term is 2 E|X - y|.
        note(
            "disagreement",
            scoring.crps(mu, (sigma.square() + other_sigma.square()).sqrt(), other_mu, 0.0) / 2,
        )
        note(
            "disagreement_constant", scoring.crps(mu, constant * math.sqrt(2.0), other_mu, 0.0) / 2
        )
        for level in LEVELS:
            note(f"inside_{level}", ((pit - 0.5).abs() <= level / 200).float())
        cells = (pit * BINS).long().clamp(max=BINS - 1).flatten(1)
        seen.setdefault("pit", []).append(
            torch.zeros(len(mu), BINS, device=mu.device).scatter_add_(
                1, cells, torch.ones_like(cells).float()
            )
            / cells.shape[1]
        )
    rows = {name: torch.stack(values).mean(0) for name, values in seen.items()}
    inside = torch.stack([rows.pop(f"inside_{level}") for level in LEVELS], 1)
    return rows | {"inside": inside, "log_sigma": log_sigma.mean((1, 2))}


def _pairs(mu: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """[N, V, D] each -> the prediction from view i beside the target of view i + shift, for each shift: [N V, D]."""
    for shift in range(1, mu.shape[1]):
        yield mu.flatten(0, 1), y.roll(-shift, 1).flatten(0, 1)


@torch.inference_mode()
def _look(
    model: Predicting, images: Tensor, seeing: Seeing, purpose: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """mu, log sigma and target before normalisation, float32 [n, V, D], of consecutive images."""
    device = next(model.parameters()).device
    generator = prediction_generator(device, seeing.seed, purpose)
    for chunk in images.split(_CHUNK):
        chunk = chunk.to(device)
        seen = [random_view(chunk, seeing.settings, generator) for _ in range(seeing.views)]
        found = [(*model.predict(view)[1:], Distilling.targets(model, view)) for view in seen]
        yield tuple(torch.stack(each, 1).float() for each in zip(*found, strict=True))


def view_scores(measured: Measured) -> dict[str, np.ndarray]:
    """OOD scores [N] by detector (``prosmin.evaluation.ood_scores``), high where OOD.

    view_score: S of ``prosmin.scoring`` with lambda 1, the expected loss between two views.
    disagreement: expected distance of samples predicted from two views.
    With the ending ``_constant`` the same with a constant sigma, the control.
    """
    return {
        "view_score": 2 * measured.crps,  # S is twice the CRPS
        "view_score_constant": 2 * measured.crps_constant,
        "disagreement": measured.disagreement,
        "disagreement_constant": measured.disagreement_constant,
    }


# --- metrics --------------------------------------------------------------------------------------


def summarise(measured: Measured, bootstrap: int, seed: int) -> dict[str, float]:
    """The numbers of docs/evaluation.md, each with its 95 % interval over images."""
    wanted = {
        f"coverage_{level}": partial(classification.mean_share, measured.inside[:, place])
        for place, level in enumerate(LEVELS)
    }
    wanted |= {
        name: partial(mean_score, getattr(measured, name)) for name in ("crps", "crps_constant")
    }
    wanted["crps_skill"] = partial(skill, measured.crps, measured.crps_constant)
    wanted["sigma_error_correlation"] = partial(
        rank_correlation, measured.log_sigma, measured.error
    )
    return classification.with_intervals(wanted, len(measured.crps), bootstrap, seed)


@on(Scale(0.0, math.inf))
def mean_score(
    score: np.ndarray, counts: classification.Counts | None = None
) -> "float | np.ndarray":
    """Mean of scores [N] that are at least 0 and have no upper end, such as the CRPS."""
    return classification.mean(score, counts)


@on(Scale(-math.inf, 1.0))
def skill(
    score: np.ndarray, control: np.ndarray, counts: classification.Counts | None = None
) -> "float | np.ndarray":
    """1 - mean score / mean control, of [N] each: the share of the control's score that is saved; above 0 is better."""
    return 1 - classification.mean(score, counts) / classification.mean(control, counts)


@on(Scale(-1.0, 1.0))
def rank_correlation(
    one: np.ndarray, other: np.ndarray, counts: classification.Counts | None = None
) -> "float | np.ndarray":
    """Spearman's rank correlation of [N] and [N], in [-1, 1]; ties share their mean rank, a constant has 0."""
    rows = np.ones((1, len(one))) if counts is None else counts
    a, b = (_centred_ranks(each, rows) for each in (one, other))
    spread = np.sqrt((rows * a**2).sum(1) * (rows * b**2).sum(1))
    values = np.divide((rows * a * b).sum(1), spread, out=np.zeros(len(rows)), where=spread > 0)
    return float(values[0]) if counts is None else values


def _centred_ranks(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """[R, N]: the mean rank of each value among the samples repeated by a row of counts, less the mean of the row."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    mass = np.concatenate([np.zeros((len(counts), 1)), np.cumsum(counts[:, order], axis=1)], axis=1)
    low, high = np.searchsorted(ordered, values, "left"), np.searchsorted(ordered, values, "right")
    return (mass[:, low] + mass[:, high]) / 2 - mass[:, -1:] / 2
