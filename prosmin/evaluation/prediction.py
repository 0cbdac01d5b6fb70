"""Quality of the predicted distribution: each view of an image predicts the targets of the others.

The online network sees view i and predicts N(mu_i, sigma_i^2). The target network sees view j and
gives y_j. All ordered pairs i != j of the views count, in all dimensions. Scores are averaged over
pairs and dimensions to a number per image, because only images are independent: intervals come from
resampling images.

Training normalises targets by the statistics of their batch. Here the score of an image must not
depend on the other images, so the statistics are those of training images, computed once
(``fit_reference``), and the networks run in evaluation mode.

The predictions of training images, taken together, are a density of targets: a mixture of
Gaussians. Where it is low, a target is new.

Letters in shapes: N images, V views, D dimensions of the projection, L levels, B bins, M components
of the mixture.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from prosmin import scoring
from prosmin.common.seeds import prediction_generator
from prosmin.metrics import classification
from prosmin.metrics.intervals import Metric
from prosmin.metrics.prediction import mean_score, rank_correlation, skill
from prosmin.objectives.base import Distilling
from prosmin.objectives.prosmin import ProSMIN
from prosmin.objectives.published import Published
from prosmin.objectives.targets import Normalisation, fit_normalisation
from prosmin.views.make import random_view
from prosmin.views.settings import ViewSettings

LEVELS = (50, 80, 90)  # central intervals whose coverage is counted, in per cent
BINS = 20  # of the PIT histogram
CHUNK = 256  # images at a time; a constant, because the drawn views depend on it
_REFERENCE, _MEASURE, _MIXTURE = 0, 1, 2  # purposes of a random stream, part of its seed

Predicting = ProSMIN | Published  # the objectives that predict a distribution


@dataclass(frozen=True)
class Seeing:
    """How views are drawn. views: number per image."""

    views: int
    settings: ViewSettings
    seed: int


@dataclass(frozen=True)
class Reference:
    """Statistics of training images.

    normalisation: of the targets.
    sigma: [D], the control for predicted sigma: per dimension the constant standard deviation with
        the lowest CRPS around the predicted means.
    mixture: mu and sigma [M, D] of the predictions that make up the mixture.
    """

    normalisation: Normalisation
    sigma: Tensor
    mixture: tuple[Tensor, Tensor]


def fit_reference(
    model: Predicting, images: Tensor, seeing: Seeing, components: Tensor | None = None
) -> Reference:
    """Compute the reference from training images, uint8 [N, C, S, S].

    The targets are normalised as in the training of the model.

    components: the training images whose predictions, from one view per image, make up the mixture,
        uint8 [M, C, S, S]; ``None``: ``images``.
    """
    device = next(model.parameters()).device
    generator = prediction_generator(device, seeing.seed, _REFERENCE)
    mu, _, y = (
        torch.cat(parts) for parts in zip(*_look(model, images, seeing, generator), strict=True)
    )
    if isinstance(model, Published):  # its training has fixed the centre
        normalisation = Normalisation(model.get_buffer("centre"))
    else:
        normalisation = fit_normalisation(
            y.flatten(0, 1), model.normalise, model.shrinkage, torch.float64
        )
    errors = torch.cat([y - mu for mu, y in _pairs(mu, normalisation(y))])
    single = replace(seeing, views=1)
    components = images if components is None else components
    generator = prediction_generator(device, seeing.seed, _MIXTURE)
    centres, log_sigmas, _ = zip(*_look(model, components, single, generator), strict=True)
    mixture = torch.cat(centres)[:, 0], torch.cat(log_sigmas)[:, 0].exp()
    return Reference(normalisation, scoring.best_constant(errors), mixture)


def log_density(y: Tensor, mu: Tensor, sigma: Tensor) -> Tensor:
    """Log density of a mixture of M Gaussians of equal weight, float64 [n].

    y: [n, D]. mu: [M, D]. sigma: standard deviations [M, D], or [D] for all components.
    """
    y, mu = y.double(), mu.double()
    sigma = sigma.double().expand_as(mu)
    precision = sigma.pow(-2)
    # Two matrix products; in float32 they would lose the digits of small differences y - mu.
    squares = y.square() @ precision.T - 2.0 * (y @ (mu * precision).T)
    squares += (mu.square() * precision).sum(1)
    logarithms = -0.5 * squares - sigma.log().sum(1)
    constant = math.log(len(mu)) + 0.5 * mu.shape[1] * math.log(2.0 * math.pi)
    return logarithms.logsumexp(1) - constant


@dataclass(frozen=True)
class Measured:
    """Scores of N images, float64 [N] unless said otherwise.

    inside: [N, L], share of targets within the central interval of each level.
    pit: [B], share of targets per bin of their predicted probability integral transform (PIT), mean
        over images.
    crps, crps_constant: with predicted and with constant sigma.
    log_sigma: mean predicted log sigma.
    error: mean |y - mu|.
    disagreement: mean E|X_i - X_j| of predictions from two views.
    disagreement_constant: the same with constant sigma.
    mixture: minus the log density of the targets under the mixture, per dimension, mean over views.
    mixture_constant: the same with constant sigma.
    """

    inside: np.ndarray
    pit: np.ndarray
    crps: np.ndarray
    crps_constant: np.ndarray
    log_sigma: np.ndarray
    error: np.ndarray
    disagreement: np.ndarray
    disagreement_constant: np.ndarray
    mixture: np.ndarray
    mixture_constant: np.ndarray


class Scorer:
    """Scores of the images of a dataset, which come part by part.

    The scores are the same as those of all images at once, because one random stream draws the
    views of all parts.
    """

    def __init__(self, model: Predicting, reference: Reference, seeing: Seeing):
        self._model, self._reference, self._seeing = model, reference, seeing
        device = next(model.parameters()).device
        self._generator = prediction_generator(device, seeing.seed, _MEASURE)
        self._rows: list[dict[str, Tensor]] = []

    def add(self, images: Tensor) -> None:
        """Score the next images, uint8 [n, C, S, S].

        n is a multiple of ``CHUNK``, except in the last part.
        """
        reference = self._reference
        for mu, log_sigma, y in _look(self._model, images, self._seeing, self._generator):
            y = reference.normalisation(y)
            rows = _measure(mu, log_sigma, y, reference.sigma)
            rows |= _surprise(y, *reference.mixture, reference.sigma)
            self._rows.append({name: values.double().cpu() for name, values in rows.items()})

    def measured(self) -> Measured:
        """Return the scores of all images added, of which there is at least one."""
        rows = {
            name: torch.cat([part[name] for part in self._rows]).numpy() for name in self._rows[0]
        }
        return Measured(**rows | {"pit": rows["pit"].mean(axis=0)})


def measure(model: Predicting, images: Tensor, reference: Reference, seeing: Seeing) -> Measured:
    """Score images uint8 [N, C, S, S] of any dataset; N is at least 1."""
    scorer = Scorer(model, reference, seeing)
    scorer.add(images)
    return scorer.measured()


def _measure(mu: Tensor, log_sigma: Tensor, y: Tensor, constant: Tensor) -> dict[str, Tensor]:
    """The fields of ``Measured``, a row per image, of mu, log_sigma and y [N, V, D].

    constant: [D], the constant sigma.
    """
    sigma = log_sigma.exp()
    seen: dict[str, list[Tensor]] = {}

    def note(name: str, values: Tensor) -> None:
        seen.setdefault(name, []).append(values.mean((1, 2)))  # over views and dimensions

    for shift in range(1, mu.shape[1]):
        target, other_mu, other_sigma = (part.roll(-shift, 1) for part in (y, mu, sigma))
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


def _surprise(y: Tensor, mu: Tensor, sigma: Tensor, constant: Tensor) -> dict[str, Tensor]:
    """The two fields of ``Measured`` about the mixture, of y [N, V, D]."""
    widths = {"mixture": sigma, "mixture_constant": constant}
    return {
        name: -log_density(y.flatten(0, 1), mu, width).view(y.shape[:2]).mean(1) / y.shape[2]
        for name, width in widths.items()
    }


def _pairs(mu: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Pair the prediction of view i with the target of view i + shift, for each shift.

    mu, y: [N, V, D]; the parts of a pair: [N V, D].
    """
    for shift in range(1, mu.shape[1]):
        yield mu.flatten(0, 1), y.roll(-shift, 1).flatten(0, 1)


@torch.inference_mode()
def _look(
    model: Predicting, images: Tensor, seeing: Seeing, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield mu, log sigma and the unnormalised target, float32 [n, V, D], of consecutive images.

    generator: of the views, on the device of the model.
    """
    device = next(model.parameters()).device
    for chunk in torch.split(images, CHUNK):
        chunk = chunk.to(device)
        views = [random_view(chunk, seeing.settings, generator) for _ in range(seeing.views)]
        outputs = [(*model.predict(view)[1:], Distilling.targets(model, view)) for view in views]
        mu, log_sigma, y = (torch.stack(parts, 1).float() for parts in zip(*outputs, strict=True))
        yield mu, log_sigma, y


def view_scores(measured: Measured) -> dict[str, np.ndarray]:
    """OOD scores [N] by detector (``prosmin.evaluation.ood_scores``), high where OOD.

    view_score: S of ``prosmin.scoring`` with lambda 1, the expected loss between two views.
    disagreement: expected distance of samples predicted from two views.
    mixture: how unlikely the targets are under the predictions of training images.
    With the ending ``_constant`` the same with a constant sigma, the control.
    """
    return {
        "view_score": 2 * measured.crps,  # S is twice the CRPS
        "view_score_constant": 2 * measured.crps_constant,
        "disagreement": measured.disagreement,
        "disagreement_constant": measured.disagreement_constant,
        "mixture": measured.mixture,
        "mixture_constant": measured.mixture_constant,
    }


# --- metrics --------------------------------------------------------------------------------------


def summarise(measured: Measured, bootstrap: int, seed: int) -> dict[str, float]:
    """Coverage, CRPS, skill and rank correlation, with 95 % intervals over images.

    docs/evaluation.md defines them.
    """
    wanted: dict[str, Metric] = {
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
