"""Calibration errors computed bin by bin, as a slow reference."""

import numpy as np


def top_label(probabilities, labels):
    confidence = [max(row) for row in probabilities]
    hit = [
        float(list(row).index(max(row)) == label)
        for row, label in zip(probabilities, labels, strict=True)
    ]
    return confidence, hit


def ece(probabilities, labels, bins=15):
    """Guo et al. 2017, eq. 3, bins open below and closed above."""
    confidence, hit = top_label(probabilities, labels)
    error = 0.0
    for b in range(bins):
        inside = [i for i, c in enumerate(confidence) if b / bins < c <= (b + 1) / bins]
        if inside:
            gap = np.mean([confidence[i] for i in inside]) - np.mean([hit[i] for i in inside])
            error += len(inside) / len(labels) * abs(gap)
    return error


def ece_adaptive(probabilities, labels, bins=15):
    """ECE over bins of equal mass.

    Each sample is cut into ``bins`` equal pieces, so that N need not be a multiple of ``bins``.
    Samples of equal confidence are replaced by copies of their mean.
    """
    confidence, hit = map(np.array, top_label(probabilities, labels))
    mean_hit = np.array([hit[confidence == c].mean() for c in confidence])
    order = np.argsort(confidence)
    gap = np.repeat((confidence - mean_hit)[order], bins)
    return sum(abs(part.sum()) for part in np.split(gap, bins)) / len(gap)
