"""Losses of the baselines, computed per image in float64. Arguments are lists of views [N, D]."""

import cmath
import math

import numpy as np
from scipy.stats import norm


def cosine(a, b):
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def directed(count):
    return [(online, target) for online in range(count) for target in (0, 1) if online != target]


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def published(mu, sigma, targets, noise, weight):
    """Ten times the score, over every pair of a view and a global view.

    noise: per pair, [K, N, D].
    """
    scores = []
    for view in range(len(mu)):
        for other in (0, 1):
            x = [mu[view] + sigma[view] * draw for draw in noise[2 * view + other]]
            distance = mean(np.abs(sample - targets[other]).mean() for sample in x)
            spread = mean(
                np.abs(x[i] - x[j]).mean() for i in range(len(x)) for j in range(i + 1, len(x))
            )
            scores.append(2 * distance - weight * spread)
    return 10 * mean(scores)


def byol(predictions, targets):
    """Squared distance between unit vectors."""
    return mean(
        mean(
            np.sum((p / np.linalg.norm(p) - t / np.linalg.norm(t)) ** 2)
            for p, t in zip(predictions[o], targets[v])
        )
        for o, v in directed(len(predictions))
    )


def simsiam(predictions, projections):
    return mean(
        mean(-cosine(p, z) for p, z in zip(predictions[o], projections[v]))
        for o, v in directed(len(predictions))
    )


def softmax(values):
    weights = [math.exp(value - max(values)) for value in values]
    return [weight / sum(weights) for weight in weights]


def dino(logits, targets, centre, temperature, target_temperature):
    def cross_entropy(student, teacher):
        wanted = softmax([(t - c) / target_temperature for t, c in zip(teacher, centre)])
        said = softmax([s / temperature for s in student])
        return -sum(w * math.log(p) for w, p in zip(wanted, said))

    return mean(
        mean(cross_entropy(s, t) for s, t in zip(logits[o], targets[v]))
        for o, v in directed(len(logits))
    )


def sinkhorn(scores, epsilon, iterations):
    """Caron et al. 2020, eq. 3-5: scale rows to 1 / P and columns to 1 / N, in turn."""
    weights = [[math.exp(score / epsilon) for score in row] for row in scores]
    count, prototypes = len(weights), len(weights[0])
    for _ in range(iterations):
        totals = [sum(row[p] for row in weights) for p in range(prototypes)]
        weights = [[w / total / prototypes for w, total in zip(row, totals)] for row in weights]
        weights = [[w / sum(row) / count for w in row] for row in weights]
    return [[w * count for w in row] for row in weights]


def swav(projections, prototypes, temperature, epsilon, iterations):
    scores = [[[cosine(z, c) for c in prototypes] for z in view] for view in projections]
    wanted = [sinkhorn(view, epsilon, iterations) for view in scores[:2]]

    def cross_entropy(row, assignment):
        said = softmax([score / temperature for score in row])
        return -sum(w * math.log(p) for w, p in zip(assignment, said))

    return mean(
        mean(cross_entropy(row, assignment) for row, assignment in zip(scores[o], wanted[v]))
        for o, v in directed(len(scores))
    )


def nt_xent(first, second, temperature):
    """Chen et al. 2020, eq. 1, for each of the 2N images."""
    both, count, total = [*first, *second], len(first), 0.0
    for i, anchor in enumerate(both):
        positive = (i + count) % (2 * count)
        terms = {
            k: math.exp(cosine(anchor, other) / temperature)
            for k, other in enumerate(both)
            if k != i
        }
        total -= math.log(terms[positive] / sum(terms.values()))
    return total / (2 * count)


def simclr(projections, temperature):
    views = range(len(projections))
    twos = [(a, b) for a in views for b in views if a < b and a < 2]
    return mean(nt_xent(projections[a], projections[b], temperature) for a, b in twos)


def mocov3(queries, keys, temperature):
    def info_nce(view, other):
        total = 0.0
        for i, query in enumerate(queries[view]):
            terms = [math.exp(cosine(query, key) / temperature) for key in keys[other]]
            total -= math.log(terms[i] / sum(terms))
        return total / len(queries[view])

    return 2 * temperature * mean(info_nce(o, v) for o, v in directed(len(queries)))


def vicreg(projections, invariance, variance, covariance):
    views, dim = range(len(projections)), projections[0].shape[1]
    twos = [(a, b) for a in views for b in views if a < b and a < 2]
    alike = mean(np.mean((projections[a] - projections[b]) ** 2) for a, b in twos)
    narrow, correlated = [], []
    for z in projections:
        narrow.append(
            mean(max(0.0, 1 - math.sqrt(np.var(z[:, d], ddof=1) + 1e-4)) for d in range(dim))
        )
        c = np.cov(z.T, ddof=1)
        correlated.append(sum(c[i, j] ** 2 for i in range(dim) for j in range(dim) if i != j) / dim)
    return invariance * alike + variance * mean(narrow) + covariance * 2 * mean(correlated)


def barlow(projections, redundancy):
    views, dim = range(len(projections)), projections[0].shape[1]
    standard = [(z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5) for z in projections]

    def distance(first, second):
        correlation = [[mean(first[:, i] * second[:, j]) for j in range(dim)] for i in range(dim)]
        return sum(
            (1 - correlation[i][j]) ** 2 if i == j else redundancy * correlation[i][j] ** 2
            for i in range(dim)
            for j in range(dim)
        )

    twos = [(a, b) for a in views for b in views if a < b and a < 2]
    return mean(distance(standard[a], standard[b]) for a, b in twos)


def from_the_centre(projections):
    """Mean squared distance of all views from the mean of the global views."""
    return mean(
        mean((z[i] - (projections[0][i] + projections[1][i]) / 2) ** 2)
        for z in map(np.asarray, projections)
        for i in range(len(z))
    )


def epps_pulley(values, points):
    """N times the integral of |f - g|^2 g by the trapezoidal rule over all points, on both sides.

    f: the empirical characteristic function of the values, g: exp(-t^2 / 2).
    """
    gaussian = [math.exp(-t * t / 2) for t in points]
    apart = [
        abs(mean(cmath.exp(1j * t * value) for value in values) - g) ** 2 * g
        for t, g in zip(points, gaussian)
    ]
    pieces = (
        (apart[i] + apart[i + 1]) / 2 * (points[i + 1] - points[i]) for i in range(len(points) - 1)
    )
    return len(values) * sum(pieces)


def lejepa(projections, directions, weight):
    """directions: unit vectors [K, D]."""
    points = np.linspace(-3, 3, 33)
    sketched = mean(epps_pulley(z @ d, points) for z in projections for d in directions)
    return (1 - weight) * from_the_centre(projections) + weight * sketched


def visreg(projections, directions, weight):
    """directions: unit vectors [K, D]."""
    terms = []
    for z in projections:
        count = len(z)
        deviation = np.sqrt(((z - z.mean(0)) ** 2).sum(0) / count) + 1e-6
        quantiles = [norm.ppf(i / (count + 1)) for i in range(1, count + 1)]
        shape = mean(
            (value - quantile) ** 2
            for d in directions
            for value, quantile in zip(sorted((z - z.mean(0)) / deviation @ d), quantiles)
        )
        terms.append(mean(z.mean(0) ** 2) + mean((deviation - 1) ** 2) + shape)
    return (1 - weight) * from_the_centre(projections) + weight * mean(terms)
