"""Conformal sets class by class and label by label, as a slow reference."""

import math


def score(row, label):
    """RAPS without its random part: Angelopoulos et al., ICLR 2021, eq. 4, with u = 0."""
    before = [
        other
        for other, p in enumerate(row)
        if p > row[label] or (p == row[label] and other < label)
    ]
    rank = len(before) + 1
    return math.fsum(row[other] for other in before) + 0.01 * max(rank - 5, 0)


def threshold(probabilities, labels, level):
    """The smallest score up to which at least level (n + 1) of the n labels and 1 more lie."""
    own = sorted(score(row, label) for row, label in zip(probabilities, labels, strict=True))
    for value in own:
        if sum(other <= value for other in own) >= level * (len(own) + 1) - 1e-9:
            return value
    return math.inf


def prediction_set(row, highest):
    return [label for label in range(len(row)) if score(row, label) <= highest + 1e-12]
