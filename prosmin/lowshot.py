"""The linear probe on a few labels of each class: its mean accuracy over random draws of the labels."""

import numpy as np

from prosmin import metrics
from prosmin.probes import fit, standardisation
from prosmin.sampling import Labelled, count_classes, few_labels


def per_class_of(percent: float, labels: np.ndarray) -> int:
    """Labels a class, at least 1, that make up ``percent`` % of the labels ``[N]`` when each class gives as many."""
    return max(1, round(percent / 100 * len(labels) / len(np.unique(labels))))


def evaluate_lowshot(pool: Labelled, test: Labelled, per_class: int, draws: int, l2: float, seed: int) -> list[float]:
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
        accuracies.append(metrics.accuracy(probe.logits(test[0]), test[1]))
    return accuracies


def student_interval(values: list[float], level: float = 0.95) -> tuple[float, float, float]:
    """(mean, low, high): Student's t interval for the mean of at least two values, such as those of several seeds."""
    from scipy.special import stdtrit

    mean = float(np.mean(values))
    reach = float(stdtrit(len(values) - 1, (1 + level) / 2) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return mean, mean - reach, mean + reach


def t_interval(values: list[float], level: float = 0.95) -> tuple[float, float, float]:
    """``student_interval`` over draws of values in [0, 1], cut to [0, 1]. It covers the draw of the labels and not that of the
    test set."""
    mean, low, high = student_interval(values, level)
    return mean, max(0.0, low), min(1.0, high)
