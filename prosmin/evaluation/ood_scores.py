"""The registry of out-of-distribution (OOD) detectors, their fit, and their scores.

A detector gives a score per image; a high score says OOD. A new detector is a function in
``prosmin.evaluation.ood_detectors`` and its entry in ``DETECTORS``: its metrics, its ROC curve and
its row in the report follow. Where it has to be fitted to training images, what it is fitted to is
a function and an entry of ``prosmin.evaluation.ood_statistics``. ``prosmin.metrics.detection``
measures how well scores tell OOD images from in-distribution (ID) images.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np

from prosmin.common import files
from prosmin.common.compute.stacked import Stack
from prosmin.common.errors import UserError
from prosmin.common.seeds import sample_rows
from prosmin.evaluation import ood_detectors as formulas
from prosmin.evaluation import ood_statistics
from prosmin.evaluation.ood_detectors import Array, Known, Sample, Settings

HELD_OUT = 2000  # training images at most, a fifth of all at most, to standardise scores on

LOGITS = ("logits",)  # needs
STANDARDS = "standards"  # in the file of fitted detectors

Score = Callable[[Known, Sample, Settings], Array]


@dataclass(frozen=True)
class Detector:
    """An entry of the registry.

    label: name of the detector in tables and figures.
    score: computes the scores. None: they are made of ``parts``, or come from the networks.
    needs: fields that ``score`` reads of the images to score beside the features: ``logits``,
        ``log_sigma``.
    colour, dash: of its line in figures: a colour of the report's palette, a dash of Matplotlib.
    drawn: figures and comparisons of runs show the detector. Tables show all detectors.
    headline: the terminal, the model card and the abstract of the report name the detector.
    parts: the detectors of a combined score (``Fitted.combined``).
    fitted: the statistics of training images that ``score`` reads, of
        ``prosmin.evaluation.ood_statistics``.
    """

    label: str
    score: Score | None = None
    needs: tuple[str, ...] = ()
    colour: str = "ink"
    dash: str | tuple[int, tuple[float, ...]] = "-"
    drawn: bool = False
    headline: bool = False
    parts: tuple[str, ...] = ()
    fitted: tuple[str, ...] = ()

    @property
    def label_free(self) -> bool:
        """No label has an influence on the scores."""
        statistics = (ood_statistics.STATISTICS[name] for name in self.fitted)
        needs = {*self.needs, *(field for entry in statistics for field in entry.needs)}
        return all(DETECTORS[part].label_free for part in self.parts) and not (
            {"labels", "logits", "head"} & needs
        )

    @property
    def from_networks(self) -> bool:
        """The scores are those of ``prosmin.evaluation.prediction.view_scores``."""
        return self.score is None and not self.parts

    def allowed(self, statistics: Collection[str], query: Sample) -> bool:
        """Whether the statistics and the fields are there that the detector needs."""
        return set(self.fitted) <= set(statistics) and all(
            getattr(query, name) is not None for name in self.needs
        )


# In the order of the report's tables and legends.
DETECTORS = {
    "msp": Detector("MSP", formulas.msp, LOGITS, "orange", ":", drawn=True),
    "max_logit": Detector("max-logit", formulas.max_logit, LOGITS, "orange", "--"),
    "entropy": Detector("entropy", formulas.entropy, LOGITS, "orange"),
    "energy": Detector("energy", formulas.energy, LOGITS, "red", "--"),
    "knn": Detector(
        "k-NN distance",
        formulas.knn,
        colour="trained",
        drawn=True,
        headline=True,
        fitted=("neighbours",),
    ),
    "mahalanobis": Detector(
        "Mahalanobis",
        formulas.mahalanobis,
        colour="green",
        dash="-.",
        drawn=True,
        headline=True,
        fitted=("classes",),
    ),
    "mahalanobis_normalised": Detector(
        "Mahalanobis, normalised",
        formulas.mahalanobis_normalised,
        colour="green",
        dash=":",
        fitted=("classes_normalised",),
    ),
    "relative_mahalanobis": Detector(
        "Mahalanobis, relative",
        formulas.relative_mahalanobis,
        colour="green",
        dash="--",
        fitted=("classes", "gaussian"),
    ),
    "gaussian": Detector(
        "Mahalanobis, one Gaussian", formulas.gaussian, (), "trained", "-.", fitted=("gaussian",)
    ),
    "ssd": Detector("SSD", formulas.ssd, (), "trained", "--", fitted=("directions",)),
    "feature_norm": Detector("feature norm", formulas.feature_norm, (), "trained", ":"),
    "vim": Detector("ViM", formulas.vim, LOGITS, "green", fitted=("residual",)),
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


@dataclass(frozen=True)
class Fitted:
    """Detectors that are fitted to training images, and score any others.

    standards: of the parts of combined scores: mean and spread of the logarithms of the scores over
        held-out training images.
    """

    known: Known
    standards: Mapping[str, tuple[float, float]]
    settings: Settings

    @classmethod
    def fit(
        cls, train: Sample, settings: Settings, names: Collection[str] = DETECTORS.keys()
    ) -> "Fitted":
        """Fit the detectors of these names, as far as their needs are met.

        Raises ``ConfigError`` for a setting that does not fit the features.
        """
        parts = {part for name in names for part in DETECTORS[name].parts}
        statistics = _statistics({*names, *parts})
        known = ood_statistics.fit(train, settings, statistics)
        return cls(known, _standards(train, settings, names), settings)

    def score(self, query: Sample) -> dict[str, Array]:
        """Scores [N] of the query by every detector whose needs are met, combined scores last."""
        if not len(query.features):
            raise UserError("there are no images for the OOD detectors to score")
        scores = {
            name: entry.score(self.known, query, self.settings)
            for name, entry in DETECTORS.items()
            if entry.score is not None and entry.allowed(self.known.statistics, query)
        }
        return scores | self.combined(scores)

    def combined(self, scores: Mapping[str, Array]) -> dict[str, Array]:
        """The combined scores whose parts are among ``scores``: the largest z-score of the parts.

        Logarithms are standardised, because distances are skewed; sigma is a logarithm already.
        """
        standard = {
            part: standardised(part, scores[part], *known)
            for part, known in self.standards.items()
            if part in scores
        }
        return {
            name: np.maximum.reduce([standard[part] for part in entry.parts])
            for name, entry in DETECTORS.items()
            if entry.parts and all(part in standard for part in entry.parts)
        }

    def arrays(self) -> dict[str, Array]:
        """What was fitted, as arrays for a file. The training features are not among them."""
        statistics = {
            f"{name}.{array}": values
            for name, arrays in self.known.statistics.items()
            for array, values in arrays.items()
        }
        standards = {f"{STANDARDS}.{part}": np.array(pair) for part, pair in self.standards.items()}
        return statistics | standards

    @classmethod
    def of(cls, arrays: files.Arrays, features: Array | Stack, settings: Settings) -> "Fitted":
        """Make it again of ``arrays``, which are checked, and of the training features [N, F].

        Raises ``UserError`` where arrays are missing or of another type or shape.
        """
        entries = {
            name: entry
            for name, entry in ood_statistics.STATISTICS.items()
            if any(array.startswith(f"{name}.") for array in arrays)
        }
        parts = [name for name in DETECTORS if f"{STANDARDS}.{name}" in arrays]
        wanted = {
            f"{name}.{array}": shape
            for name, entry in entries.items()
            for array, shape in entry.shapes.items()
        }
        arrays.check(wanted | {f"{STANDARDS}.{part}": ("float64", "2") for part in parts})
        statistics = {
            name: {array: arrays[f"{name}.{array}"] for array in entry.shapes}
            for name, entry in entries.items()
        }
        pairs = {part: arrays[f"{STANDARDS}.{part}"].tolist() for part in parts}
        standards = {part: (mean, spread) for part, (mean, spread) in pairs.items()}
        return cls(Known(features, statistics), standards, settings)


def _statistics(names: Collection[str]) -> set[str]:
    """The statistics that detectors of these names read."""
    return {statistic for name in names for statistic in DETECTORS[name].fitted}


def _standards(
    train: Sample, settings: Settings, names: Collection[str]
) -> dict[str, tuple[float, float]]:
    """Mean and spread of the logarithms of the scores by each part of the combined scores.

    They are those of held-out training images: a fifth of all, at most ``HELD_OUT``, drawn at
    random and scored by detectors that are fitted to the other training images. A detector scores
    its own training images too low. Neither OOD images nor test images have an influence. Only
    parts of combined scores count whose needs are all met.
    """
    count = len(train.features)
    held = np.zeros(count, bool)
    size = max(1, min(count // 5, HELD_OUT))
    held[sample_rows(count, size, settings.seed, "held out of combined")] = True
    rest, reference = train.rows(~held), train.rows(held)
    settings = replace(settings, k=min(settings.k, len(rest.features)))
    there = ood_statistics.possible(train)
    parts = {
        part
        for name in names
        if all(DETECTORS[part].allowed(there, train) for part in DETECTORS[name].parts)
        for part in DETECTORS[name].parts
    }
    known = ood_statistics.fit(rest, settings, _statistics(parts))
    standards = {}
    for part in parts:
        if (score := DETECTORS[part].score) is not None:
            logs = _logarithm(part, score(known, reference, settings))
            standards[part] = float(logs.mean()), float(logs.std()) or 1.0
    return standards


def standardised(part: str, scores: Array, mean: float, spread: float) -> Array:
    """The z-scores [N] of the logarithms of scores [N]. mean, spread: of ``Fitted.standards``."""
    return (_logarithm(part, scores) - mean) / spread


def _logarithm(part: str, scores: Array) -> Array:
    return scores if part == "sigma" else np.log(np.maximum(scores, 1e-12))
