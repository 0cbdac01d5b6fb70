"""What finds wrong labels and copies best: ``python -m benchmarks.trust.audit``.

The benchmark plants faults among scikit-learn's digits and ranks the images by several scores. The
features are the pixels, or those of ``--features results/embed/digits/trained.safetensors``.

- Wrong labels: 2 % and 10 % of the labels, drawn at random, become any other class, or the class
  whose mean is nearest. Scores: the votes of k neighbours, and the probabilities of a linear probe
  that has not seen the image (five folds). ``self``: 1 less the share of the label; ``margin``: the
  largest share of another class less that of the label.
- Copies, of pixels only: 100 images with Gaussian noise. Scores of a pair: the distance, and its
  ratio to the distance of the k-th neighbour.

Average precision, mean over seeds and kinds. Written to benchmarks/results/audit.json.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from benchmarks.record import record
from prosmin.common.files import read_arrays
from prosmin.evaluation import linear_probe
from prosmin.evaluation.audit import Neighbourhood
from prosmin.evaluation.knn import vote
from prosmin.metrics.classification import softmax
from prosmin.metrics.detection import average_precision

SEEDS, SHARES, FOLDS, COPIES = range(3), (0.02, 0.1), 5, 100
NEIGHBOURS, TEMPERATURES, L2 = (5, 10, 20), (0.1, 0.3, 1.0), (0.01, 0.1)
NOISE = (0.3, 1.0, 2.0)  # standard deviation in grey levels of 0 to 16
BOUNDS = (0.3, 0.4, 0.5)  # of the ratio


def flipped(features: np.ndarray, labels: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Labels with planted faults, [N], and which are planted, bool [N]."""
    classes = int(labels.max()) + 1
    means = np.stack([features[labels == label].mean(axis=0) for label in range(classes)])
    apart = np.linalg.norm(means[:, None] - means, axis=2)
    np.fill_diagonal(apart, np.inf)
    for seed in SEEDS:
        for share in SHARES:
            for nearest in (False, True):
                rng, given = np.random.default_rng(seed), labels.copy()
                rows = rng.choice(len(labels), int(share * len(labels)), replace=False)
                random = (labels[rows] + rng.integers(1, classes, len(rows))) % classes
                given[rows] = apart.argmin(axis=1)[labels[rows]] if nearest else random
                yield given, np.isin(np.arange(len(labels)), rows)


def scores(shares: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Doubts about labels by shares of the classes, [N, C]."""
    own = np.take_along_axis(shares, labels[:, None], axis=1)[:, 0]
    others = shares.copy()
    np.put_along_axis(others, labels[:, None], -np.inf, axis=1)
    return {"self": 1 - own, "margin": others.max(axis=1) - own}


def of_labels(features: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Mean average precision of each score."""
    near = Neighbourhood.find(features, np.arange(len(labels)), max(NEIGHBOURS))
    classes, reached = int(labels.max()) + 1, defaultdict(list)
    fold = np.random.default_rng(0).integers(0, FOLDS, len(labels))
    for given, planted in flipped(features, labels):
        ways = {}
        for k in NEIGHBOURS:
            closeness = -np.square(near.distance[:, :k] / near.distance[:, k - 1 : k])
            for temperature in TEMPERATURES:
                votes = vote(closeness, given[near.index[:, :k]], temperature, classes)
                ways[f"votes, k {k}, temperature {temperature}"] = votes
        for l2 in L2:
            shares = np.empty((len(labels), classes))
            for held in (fold == place for place in range(FOLDS)):
                probe = linear_probe.fit(features[~held], given[~held], classes, l2)
                shares[held] = softmax(probe.logits(features[held]))
            ways[f"probe, l2 {l2}"] = shares
        for way, shares in ways.items():
            for kind, score in scores(shares, given).items():
                reached[f"{way}, {kind}"].append(average_precision(score[planted], score[~planted]))
    means = {way: round(float(np.mean(values)), 4) for way, values in reached.items()}
    return dict(sorted(means.items(), key=lambda item: -item[1]))


def of_copies(pixels: np.ndarray) -> dict[str, Any]:
    """Average precision of both scores, and pairs of each kind below some bounds of the ratio."""
    results: dict[str, Any] = {}
    for noise in NOISE:
        rng = np.random.default_rng(0)
        rows = rng.choice(len(pixels), COPIES, replace=False)
        noisy = np.clip(pixels[rows] + rng.normal(0, noise, pixels[rows].shape), 0, 16)
        features = np.concatenate([pixels, noisy])
        wanted = {(int(row), len(pixels) + place) for place, row in enumerate(rows)}
        for k in NEIGHBOURS[1:]:
            near = Neighbourhood.find(features, np.arange(len(features)), k)
            pairs: dict[tuple[int, int], tuple[float, float]] = {}
            for row, names, distances, ratios in zip(
                near.rows, near.index, near.distance, near.ratio, strict=True
            ):
                for name, distance, ratio in zip(names, distances, ratios, strict=True):
                    pair = (int(min(row, name)), int(max(row, name)))
                    pairs[pair] = (distance, min(ratio, pairs.get(pair, (0, 1))[1]))
            planted = np.array([pair in wanted for pair in pairs])
            values = -np.array(list(pairs.values()))
            listed = planted.sum() / COPIES
            results[f"noise {noise}, k {k}"] = {
                score: round(listed * average_precision(column[planted], column[~planted]), 4)
                for score, column in zip(("distance", "ratio"), values.T, strict=True)
            } | {
                f"ratio up to {bound}": {
                    kind: int((-values[which, 1] <= bound).sum())
                    for kind, which in (("planted", planted), ("others", ~planted))
                }
                for bound in BOUNDS
            }
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", help="a file of features of digits with labels")
    options = parser.parse_args()
    pixels, truth = load_digits(return_X_y=True)
    figures: dict[str, Any] = {"images": len(pixels), "labels": of_labels(pixels, truth)}
    figures["copies"] = of_copies(pixels)
    if options.features:
        arrays = read_arrays(options.features)
        splits = ("train", "val", "test")
        features, labels = (
            np.concatenate([arrays[f"{split}.{name}"] for split in splits])
            for name in ("features", "labels")
        )
        figures["labels, features"] = of_labels(features, labels)
    record("audit", ["numpy", "scikit-learn"], figures)


if __name__ == "__main__":
    main()
