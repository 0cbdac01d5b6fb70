"""Losses of the baselines, computed per image in float64. Arguments are lists of views [N, D]."""

import math

import numpy as np


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
            x = [mu[view] + sigma[view] * each for each in noise[2 * view + other]]
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
