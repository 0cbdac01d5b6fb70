"""Label-free uncertainty of an encoder: the registry of scores, and the measures of each score.

A score is high where the encoder is unsure of an image. Some scores come from the networks
(``prosmin.objectives.doubts``), the others are computed here from features. What is fitted is
fitted to training images of the dataset trained on, without labels. Labels only tell whether a
score means something: R-AUROC asks whether the score is high for images with a wrong nearest
neighbour. This is the protocol of the URL benchmark (Kirchhof et al. 2023, arXiv 2307.03810), which
compares encoders on datasets that they were not trained on.

Letters in shapes: N images, F features, B images of the bank.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from prosmin.common.compute.backend import chunks
from prosmin.common.compute.stacked import Stack
from prosmin.common.errors import UserError
from prosmin.evaluation.knn import lengths, neighbours, unit
from prosmin.evaluation.label_subsets import Labelled
from prosmin.metrics import classification, uncertainty
from prosmin.metrics.prediction import rank_correlation
from prosmin.objectives.doubts import DOUBTS

Array = np.ndarray
Dash = str | tuple[int, tuple[float, ...]]
Doubts = Mapping[str, Array]  # by score, float [N]


@dataclass(frozen=True)
class Score:
    """An entry of the registry.

    label: name of the score in tables and figures.
    definition: in one sentence.
    own: whether the networks give the score for an image by themselves. The other scores are
        fitted to training images afterwards, and any encoder can have them.
    colour, dash: of its line in figures: a colour of the report's palette, a dash of Matplotlib.
    """

    label: str
    definition: str
    own: bool = True
    colour: str = "ink"
    dash: Dash = "-"


_LINES: dict[str, tuple[str, Dash]] = {
    "answer_entropy": ("trained", "--"),
    "width": ("trained", "-"),
    "mean_norm": ("purple", "-"),
    "unexplained": ("purple", ":"),
    "projection_norm": ("orange", "-"),
}
# In the order of tables and legends.
SCORES = {
    name: Score(doubt.label, doubt.definition, True, *_LINES.get(name, ("ink", "-")))
    for name, doubt in DOUBTS.items()
} | {
    "log_sigma": Score(
        "predicted sigma",
        "Predicted log standard deviation, mean over dimensions.",
        colour="purple",
        dash=(0, (3, 1.2)),
    ),
    "feature_norm": Score(
        "length of the features", "Minus the length of the features.", colour="orange", dash="--"
    ),
    "knn_distance": Score(
        "k-NN distance",
        "Cosine distance to the k-th neighbour among training features of the dataset trained on.",
        own=False,
        colour="green",
    ),
    "loss_ranking": Score(
        "loss-ranking head",
        "Output of a small network on the features, trained to rank training images by the loss of "
        "identifying one view by another (Kirchhof et al. 2024).",
        own=False,
        colour="red",
        dash="-.",
    ),
}


# --- scores from features -------------------------------------------------------------------------


def feature_norm(features: Array) -> Array:
    """Minus the length of the features: [N, F] -> float64 [N]. Short features mean doubt."""
    return -lengths(features)


def knn_distance(bank: Array | Stack, features: Array, k: int) -> Array:
    """Cosine distance of each image to its k-th neighbour in the bank, float64 [N].

    bank: features of training images [B, F]. features: [N, F].

    Raises:
        UserError: for features that are not finite.
        ConfigError: for a k outside 1..B.
    """
    similarity, _ = neighbours(bank, features, k)
    distances: Array = 1 - similarity[:, -1].astype(np.float64)
    return distances


def identification_losses(
    first: Array, second: Array, mean: Array, std: Array, temperature: float
) -> Array:
    """How hard it is to identify an image by another view of it, in nats, float64 [N].

    The loss of view i of one kind is -log p(i), where p is the softmax over all N views of the
    other kind of cosine / temperature (InfoNCE, van den Oord et al. 2018, with every image as a
    candidate). It is computed in both directions and averaged. Cosines are those of standardised
    features.

    first, second: features of two views of the same images, [N, F] each.
    mean, std: of the features, [F] each.
    """
    one, other = (unit((features - mean) / std) for features in (first, second))
    losses: Array = (_one_way(one, other, temperature) + _one_way(other, one, temperature)) / 2
    return losses


def _one_way(queries: Array, keys: Array, temperature: float, size: int = 512) -> Array:
    """Losses [N] of queries [N, F] among keys [N, F], in blocks of queries."""
    losses = []
    for rows in chunks(len(queries), size):
        logs = classification.log_softmax(queries[rows] @ keys.T / temperature)
        losses.append(-np.diagonal(logs, rows.start))
    return np.concatenate(losses)


# --- nearest neighbours ---------------------------------------------------------------------------


def right_among_themselves(features: Array, labels: Array) -> Array:
    """Whether the nearest other image of the set, by cosine, is of the same class: bool [N].

    The neighbours are found in blocks, which bounds the memory for any N.

    features: [N, F]. labels: int [N].

    Raises:
        UserError: for fewer than two images and for features that are not finite.
    """
    if len(features) < 2:
        raise UserError(
            f"there is {len(features)} image; a nearest neighbour needs at least two images"
        )
    _, index = neighbours(features, features, 2)
    itself = index[:, 0] == np.arange(len(features))
    hits: Array = labels[np.where(itself, index[:, 1], index[:, 0])] == labels
    return hits


def right_in_bank(bank: tuple[Array | Stack, Array], images: Labelled) -> Array:
    """Whether the nearest image of the bank, by cosine, is of the same class: bool [N].

    bank, images: features and labels. Raises ``UserError`` as ``right_among_themselves``.
    """
    _, index = neighbours(bank[0], images[0], 1)
    hits: Array = bank[1][index[:, 0]] == images[1]
    return hits


# --- measures -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Truth:
    """What labels and people tell of the images that scores are measured on.

    right: whether the nearest other image of the test set is of the same class, bool [N].
    right_train: the same of the nearest training image, bool [N]. None: there are none.
    human: distribution of the labels of people per image, [N, C]. None: they were not asked.
    """

    right: Array
    right_train: Array | None = None
    human: Array | None = None


def check_doubts(doubts: Doubts, where: str) -> None:
    """Raise ``UserError`` for scores that are not finite. where: for the message."""
    for name, values in doubts.items():
        if broken := int((~np.isfinite(values)).sum()):
            raise UserError(
                f"{broken} of {len(values)} scores {name!r} of {where} are NaN or infinite; "
                "the encoder may have diverged"
            )


def measure(
    doubts: Doubts, cropped: Doubts, truth: Truth | None, bootstrap: int, seed: int
) -> dict[str, dict[str, float | None]]:
    """All metrics of each score, with their 95 % intervals over images.

    ``prosmin.metrics.catalogue`` defines them. A metric is left out where it needs labels or people
    and there are none. An R-AUROC is None where all neighbours are right or all are wrong.

    doubts: of the images. cropped: of their crops (``uncertainty_views``).
    bootstrap: resamples of the images behind each interval.
    """
    return {
        name: _measure(values, cropped[name], truth, bootstrap, seed)
        for name, values in doubts.items()
    }


def _measure(
    doubt: Array, cropped: Array, truth: Truth | None, bootstrap: int, seed: int
) -> dict[str, float | None]:
    """The metrics of one score."""
    metrics: dict[str, float | None] = {}
    if truth is not None:
        for suffix, right in (("", truth.right), ("_train_neighbours", truth.right_train)):
            if right is None:
                continue
            low, high = uncertainty.r_auroc_interval(doubt, right, bootstrap, seed)
            name = f"r_auroc{suffix}"
            value = uncertainty.r_auroc(doubt, right)
            metrics |= {name: value, f"{name}_low": low, f"{name}_high": high}
    wanted: dict[str, Any] = {"crop_test": partial(uncertainty.share, cropped > doubt)}
    if truth is not None and truth.human is not None:
        wanted["human_correlation"] = partial(
            rank_correlation, doubt, uncertainty.entropy(truth.human)
        )
    return metrics | classification.with_intervals(wanted, len(doubt), bootstrap, seed)


def recall(right: Array, suffix: str = "") -> dict[str, float]:
    """Recall@1 with its interval. right: bool [N]. suffix: of the name."""
    wanted = {f"recall_at_1{suffix}": partial(uncertainty.share, right)}
    return classification.with_intervals(wanted, len(right), bootstrap=0, seed=0)


def ordered(scores: Mapping[str, Array]) -> dict[str, Array]:
    """The scores in the order of the registry; scores that it lacks come last."""
    known = [name for name in SCORES if name in scores]
    return {name: scores[name] for name in (*known, *(scores.keys() - SCORES.keys()))}


def choose(on_val: Mapping[str, float | None]) -> str | None:
    """The own score with the highest R-AUROC on val; of equal ones the first of the registry.

    on_val: R-AUROC by score; None where it is undefined. Returns None where no score is left.
    """
    values = {name: on_val.get(name) for name, entry in SCORES.items() if entry.own}
    own = {name: value for name, value in values.items() if value is not None}
    return max(own, key=lambda name: own[name]) if own else None


def agreement(
    logits: Array, temperature: float, human: Array, bootstrap: int, seed: int
) -> dict[str, float]:
    """NLL and ECE of a classifier against people, with intervals.

    With the ending ``_calibrated`` they are those of the logits divided by the temperature.

    logits: [N, C]. human: distribution of the labels of people per image, [N, C].

    Raises:
        UserError: where the two have different shapes.
    """
    wanted: dict[str, Any] = {}
    for suffix, scaled in (("", logits), ("_calibrated", logits / temperature)):
        probabilities = classification.softmax(scaled)
        wanted[f"nll_human{suffix}"] = partial(uncertainty.nll_human, scaled, human)
        wanted[f"ece_human{suffix}"] = partial(uncertainty.ece_human, probabilities, human)
    return classification.with_intervals(wanted, len(logits), bootstrap, seed)
