"""What is usual among in-distribution (ID) images: OOD scores, their thresholds and percentiles.

Letters in shapes: N training images, M held-out images, Q images to score, F features, C classes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from prosmin.common.errors import UserError
from prosmin.common.seeds import sample_rows
from prosmin.evaluation import ood_scores
from prosmin.evaluation.covariance import Means
from prosmin.evaluation.knn import Bank
from prosmin.evaluation.ood_detectors import Sample, Settings
from prosmin.evaluation.ood_scores import Fitted

ACCEPTED = 0.95  # share of held-out ID images that the threshold accepts
# Held-out images at most. The k-NN distances of more of them would take minutes, and 2000 give the
# percentile to half a percent.
HELD_OUT = 2000
NAMES = ("knn", "mahalanobis", "combined")  # without labels the first alone

Array = np.ndarray


@dataclass(frozen=True)
class Detectors:
    """Fitted detectors of ``prosmin.evaluation.ood_scores``.

    They are ``knn`` and, with labels, ``mahalanobis`` and ``combined``.

    k: neighbours of ``knn``.
    bank: of all training images, in their order.
    means: None without labels.
    standards: mean and spread of the logarithms by detector, for the combination.
    """

    k: int
    bank: Bank
    means: Means | None
    standards: Mapping[str, tuple[float, float]]

    @classmethod
    def fit(cls, train: Sample, settings: Settings) -> "Detectors":
        """Fit to training images; their labels and features alone are used."""
        return cls.of(Fitted.fit(train, settings, NAMES))

    @classmethod
    def of(cls, fitted: Fitted) -> "Detectors":
        """Take them out of all detectors."""
        statistics, features = fitted.known.statistics, fitted.known.features
        means, standards = None, {}
        if "classes" in statistics:
            means = Means(**statistics["classes"])
            parts = ood_scores.DETECTORS["combined"].parts
            standards = {part: fitted.standards[part] for part in parts}
        bank = Bank(features, statistics["neighbours"]["centre"])
        return cls(min(fitted.settings.k, len(features)), bank, means, standards)

    @property
    def names(self) -> tuple[str, ...]:
        """The detectors, the one that raises the flag last."""
        return NAMES[:1] if self.means is None else NAMES

    def score(self, features: Array) -> tuple[dict[str, Array], Array, Array]:
        """Score images by features ``[Q, F]``.

        Returns the scores ``[Q]`` by detector, and of the k nearest training images the distances
        ``[Q, k]``, nearest first, and their rows ``[Q, k]``.
        """
        distances, rows = self.bank.nearest(features, self.k)
        scores = {"knn": distances[:, -1]}
        if self.means is not None:
            scores["mahalanobis"] = self.means.distances(features)
            parts = [
                ood_scores.standardised(part, scores[part], *known)
                for part, known in self.standards.items()
            ]
            scores["combined"] = np.maximum.reduce(parts)
        return scores, distances, rows


@dataclass(frozen=True)
class Reference:
    """Detectors, and their scores of held-out ID images.

    held: float64 ``[M]`` by detector, ascending: the scores by detectors that were fitted without
        these images. Detectors score their own training images too low.
    """

    detectors: Detectors
    held: Mapping[str, Array]

    @property
    def detector(self) -> str:
        """The detector of percentiles and flags."""
        return self.detectors.names[-1]

    @property
    def threshold(self) -> float:
        """The score of this detector up to which 95 % of the held-out ID images lie."""
        return self.accepted(self.detector)

    def accepted(self, detector: str) -> float:
        """The score of any detector up to which 95 % of the held-out ID images lie."""
        held = self.held[detector]
        return float(held[math.ceil(ACCEPTED * len(held)) - 1])

    def percentiles(self, scores: Array) -> Array:
        """Share of held-out ID images with at most these scores ``[Q]``, in per cent."""
        held = self.held[self.detector]
        shares: Array = np.searchsorted(held, scores, side="right") * (100 / len(held))
        return shares


def fit(
    train: Sample, val: Sample | None, settings: Settings, fitted: Fitted | None = None
) -> Reference:
    """Fit detectors to the training images and ``val`` together, in this order.

    The scores of held-out images are those of ``val``, at most ``HELD_OUT`` drawn at random, by
    detectors that are fitted to ``train`` alone. Without ``val`` a fifth of ``train`` takes its
    place. The final detectors know more images, so that they accept slightly more than 95 %.

    train, val: features, and labels where all images of both have them.
    fitted: detectors that were fitted to all of these images before. None: they are fitted here.
    Raises ``UserError`` for fewer than five training images.
    """
    if val is None:
        count = len(train.features)
        if count < 5:
            raise UserError(f"{count} training images are too few to hold a fifth of them out")
        chosen = np.zeros(count, bool)
        size = min(count // 5, HELD_OUT)
        chosen[sample_rows(count, size, settings.seed, "held out of thresholds")] = True
        rest, held = train.rows(~chosen), train.rows(chosen)
    else:
        count = len(val.features)
        rows = sample_rows(count, min(count, HELD_OUT), settings.seed, "held out of thresholds")
        rest, held = train, val.rows(rows)
    partial = Detectors.fit(rest, replace(settings, k=min(settings.k, len(rest.features))))
    scores, _, _ = partial.score(held.dense)
    known = {name: np.sort(values) for name, values in scores.items()}
    if fitted is None:
        fitted = Fitted.fit(train if val is None else _joined(train, val), settings, NAMES)
    return Reference(Detectors.of(fitted), known)


def _joined(first: Sample, second: Sample) -> Sample:
    """Features, and labels where the samples have them."""
    labels = [sample.labels for sample in (first, second) if sample.labels is not None]
    features = np.concatenate([first.dense, second.dense])
    return Sample(features, labels=np.concatenate(labels) if labels else None)
