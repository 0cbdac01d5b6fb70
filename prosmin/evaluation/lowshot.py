"""The linear probe on a few labels per class: its mean accuracy over random draws of the labels."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from prosmin.common.compute.logistic import standardisation
from prosmin.common.compute.stacked import Stack
from prosmin.evaluation.label_subsets import Labelled, count_classes, few_labels
from prosmin.evaluation.linear_probe import fit
from prosmin.metrics import classification
from prosmin.metrics.intervals import over_draws


def sizes(per_class: Sequence[int], percent: Sequence[float], labels: np.ndarray) -> dict[str, int]:
    """Labels per class by name of the setting: ``per_class_<n>`` and ``percent_<p>``.

    per_class: numbers of labels per class. percent: shares of all labels ``[N]``, in per cent.
    """
    counts = {f"per_class_{count}": count for count in per_class}
    return counts | {f"percent_{share:g}": per_class_of(share, labels) for share in percent}


def per_class_of(percent: float, labels: np.ndarray) -> int:
    """Labels per class, at least 1, that make up ``percent`` % of the labels ``[N]``."""
    return max(1, round(percent / 100 * len(labels) / len(np.unique(labels))))


def evaluate_lowshot(
    pool: tuple[np.ndarray | Stack, np.ndarray],
    test: Labelled,
    per_class: int,
    draws: int,
    l2: float,
    seed: int,
) -> list[float]:
    """Accuracy on test per draw of ``per_class`` labels of each class from the pool.

    pool: features ``[N, F]``, an array or a table, and labels ``[N]``.

    The features are standardised over the whole pool. That needs no labels, and a handful of images
    would give a poor standard deviation. ``l2`` is given, because a handful of labels leaves none
    to choose it by.
    Raises ``UserError`` where a class of the pool has fewer images than ``per_class``.
    """
    features, labels = pool
    classes = count_classes({"train": labels, "test": test[1]})
    standard = standardisation(features)
    accuracies = []
    for draw in range(draws):
        chosen = few_labels(labels, per_class, seed, draw)
        probe = fit(features[chosen], labels[chosen], classes, l2, standard)
        accuracies.append(float(classification.accuracy(probe.logits(test[0]), test[1])))
    return accuracies


def summarise(accuracies: Sequence[float], per_class: int, classes: int, n: int) -> dict[str, Any]:
    """Mean accuracy over draws, with its 95 % interval over draws and ``n`` test images.

    labels: number of labels of a draw, ``per_class`` of each of ``classes``. draws: their number.
    """
    mean, low, high = over_draws(accuracies, n)
    return {
        "accuracy": mean,
        "accuracy_low": low,
        "accuracy_high": high,
        "labels": per_class * classes,
        "draws": len(accuracies),
    }
