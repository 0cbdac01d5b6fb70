"""The linear probe on a few labels of each class: its mean accuracy over random draws of the labels."""

import numpy as np

from prosmin.evaluation.label_subsets import Labelled, count_classes, few_labels
from prosmin.evaluation.linear_probe import fit, standardisation
from prosmin.metrics import classification


def per_class_of(percent: float, labels: np.ndarray) -> int:
    """Labels a class, at least 1, that make up ``percent`` % of the labels ``[N]`` when each class gives as many."""
    return max(1, round(percent / 100 * len(labels) / len(np.unique(labels))))


def evaluate_lowshot(
    pool: Labelled, test: Labelled, per_class: int, draws: int, l2: float, seed: int
) -> list[float]:
    """Accuracy on test for each draw of ``per_class`` labels of each class from the pool.

    The features are standardised over the whole pool: that needs no labels, and a handful of images would give a
    poor standard deviation. ``l2`` is given, as a handful of labels leaves none to choose it by.
    Raises ``UserError`` where a class of the pool has fewer images than ``per_class``.
    """
    features, labels = pool
    classes = count_classes({"train": labels, "test": test[1]})
    standard = standardisation(features)
    accuracies = []
    for draw in range(draws):
        chosen = few_labels(labels, per_class, seed, draw)
        probe = fit(features[chosen], labels[chosen], classes, l2, standard)
        accuracies.append(classification.accuracy(probe.logits(test[0]), test[1]))
    return accuracies
