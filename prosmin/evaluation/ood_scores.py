"""The registry of out-of-distribution (OOD) detectors, and their scores.

A detector gives a score per image; a high score says OOD. A new detector is a function in
``prosmin.evaluation.ood_detectors`` and its entry in ``DETECTORS``: its metrics, its ROC curve and
its row in the report follow. ``prosmin.metrics.detection`` measures how well scores tell OOD images
from in-distribution (ID) images.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import numpy as np

from prosmin.common.seeds import sample_rows
from prosmin.evaluation import ood_detectors as formulas
from prosmin.evaluation.ood_detectors import Array, Sample, Settings

HELD_OUT = 2000  # training images at most, a fifth of all at most, to standardise scores on

LABELS, LOGITS = ("labels",), ("logits",)  # needs

Score = Callable[[Sample, Sample, Settings], Array]


@dataclass(frozen=True)
class Detector:
    """An entry of the registry.

    label: name of the detector in tables and figures.
    score: computes the scores. None: they are made of ``parts``, or come from the networks.
    needs: fields of ``Sample`` that ``score`` reads beside the features: ``labels`` and ``head`` of
        the training images, ``logits`` and ``log_sigma`` of the images to score.
    colour, dash: of its line in figures: a colour of the report's palette, a dash of Matplotlib.
    drawn: figures and comparisons of runs show the detector. Tables show all detectors.
    headline: the terminal, the model card and the abstract of the report name the detector.
    parts: the detectors of a combined score (``combined``).
    """

    label: str
    score: Score | None = None
    needs: tuple[str, ...] = ()
    colour: str = "ink"
    dash: str | tuple[int, tuple[float, ...]] = "-"
    drawn: bool = False
    headline: bool = False
    parts: tuple[str, ...] = ()

    @property
    def label_free(self) -> bool:
        """No label has an influence on the scores."""
        supervised = {"labels", "logits", "head"}
        return all(DETECTORS[part].label_free for part in self.parts) and not (
            supervised & set(self.needs)
        )

    @property
    def from_networks(self) -> bool:
        """The scores are those of ``prosmin.evaluation.prediction.view_scores``."""
        return self.score is None and not self.parts

    def allowed(self, train: Sample, query: Sample) -> bool:
        """Whether both samples have the fields that the detector needs."""
        samples = {"labels": train, "head": train, "logits": query, "log_sigma": query}
        return all(getattr(samples[name], name) is not None for name in self.needs)


# In the order of the report's tables and legends.
DETECTORS = {
    "msp": Detector("MSP", formulas.msp, LOGITS, "orange", ":", drawn=True),
    "max_logit": Detector("max-logit", formulas.max_logit, LOGITS, "orange", "--"),
    "entropy": Detector("entropy", formulas.entropy, LOGITS, "orange"),
    "energy": Detector("energy", formulas.energy, LOGITS, "red", "--"),
    "knn": Detector("k-NN distance", formulas.knn, (), "trained", drawn=True, headline=True),
    "mahalanobis": Detector(
        "Mahalanobis", formulas.mahalanobis, LABELS, "green", "-.", drawn=True, headline=True
    ),
    "mahalanobis_normalised": Detector(
        "Mahalanobis, normalised", formulas.mahalanobis_normalised, LABELS, "green", ":"
    ),
    "relative_mahalanobis": Detector(
        "Mahalanobis, relative", formulas.relative_mahalanobis, LABELS, "green", "--"
    ),
    "gaussian": Detector("Mahalanobis, one Gaussian", formulas.gaussian, (), "trained", "-."),
    "ssd": Detector("SSD", formulas.ssd, (), "trained", "--"),
    "feature_norm": Detector("feature norm", formulas.feature_norm, (), "trained", ":"),
    "vim": Detector("ViM", formulas.vim, ("head", *LOGITS), "green"),
    "combined": Detector("k-NN + Mahalanobis", drawn=True, parts=("knn", "mahalanobis")),
    "combined_sigma": Detector(
        "k-NN + Mahalanobis + σ", dash="--", parts=("knn", "mahalanobis", "sigma")
    ),
    "sigma": Detector(
        "predicted sigma",
        formulas.sigma,
        ("log_sigma",),
        "purple",
        (0, (3, 1.2)),
        drawn=True,
        headline=True,
    ),
    "view_score": Detector("score of views", colour="red", drawn=True),
    "view_score_constant": Detector("score of views, σ fixed", colour="red", dash=":"),
    "disagreement": Detector("disagreement", colour="purple"),
    "disagreement_constant": Detector("disagreement, σ fixed", colour="purple", dash=":"),
    "mixture": Detector("predictive mixture", colour="trained"),
    "mixture_constant": Detector("predictive mixture, σ fixed", colour="trained", dash=":"),
}


def score_all(train: Sample, query: Sample, settings: Settings) -> dict[str, Array]:
    """Scores [N] of the query by every detector whose needs are met, combined scores last."""
    scores = {
        name: entry.score(train, query, settings)
        for name, entry in DETECTORS.items()
        if entry.score is not None and entry.allowed(train, query)
    }
    return scores | combined(scores, train, settings)


def combined(scores: dict[str, Array], train: Sample, settings: Settings) -> dict[str, Array]:
    """The combined scores whose parts are among ``scores``: the largest z-score of the parts.

    Logarithms are standardised, because distances are skewed; sigma is a logarithm already. Mean
    and spread are those of held-out training images: a fifth of all, at most ``HELD_OUT``, drawn at
    random and scored by detectors that are fitted to the other training images. A detector scores
    its own training images too low. Neither OOD images nor test images have an influence.
    """
    made_of = {name: entry.parts for name, entry in DETECTORS.items() if entry.parts}
    parts = {part for parts in made_of.values() for part in parts if part in scores}
    standard = {
        part: standardised(part, scores[part], *known)
        for part, known in standards(parts, train, settings).items()
    }
    return {
        name: np.maximum.reduce([standard[part] for part in parts])
        for name, parts in made_of.items()
        if all(part in standard for part in parts)
    }


def standards(
    parts: Collection[str], train: Sample, settings: Settings
) -> dict[str, tuple[float, float]]:
    """Mean and spread of the logarithms of the scores by each part, over held-out images.

    A part whose needs are not met is left out.
    """
    count = len(train.features)
    held = np.zeros(count, bool)
    size = max(1, min(count // 5, HELD_OUT))
    held[sample_rows(count, size, settings.seed, "held out of combined")] = True
    rest, reference = train.rows(~held), train.rows(held)
    settings = replace(settings, k=min(settings.k, len(rest.features)))
    known = {}
    for part in parts:
        entry = DETECTORS[part]
        if entry.score is not None and entry.allowed(rest, reference):
            logs = _logarithm(part, entry.score(rest, reference, settings))
            known[part] = float(logs.mean()), float(logs.std()) or 1.0
    return known


def standardised(part: str, scores: Array, mean: float, spread: float) -> Array:
    """The z-scores [N] of the logarithms of scores [N]. mean, spread: as of ``standards``."""
    return (_logarithm(part, scores) - mean) / spread


def _logarithm(part: str, scores: Array) -> Array:
    return scores if part == "sigma" else np.log(np.maximum(scores, 1e-12))
