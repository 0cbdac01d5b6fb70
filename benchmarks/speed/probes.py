"""Speed of the k-NN search and of the grid of linear probes.

    python -m benchmarks.speed.probes [--rounds 3] [--small]

Both run on one thread, on random features, which cost as much as real ones.

knn: the 20 nearest of 50 000 x 384 features for 10 000 queries, by
    ``prosmin.evaluation.knn.neighbours`` and by scikit-learn's brute force on the same unit vectors
    (``--small``: a tenth of both). Nothing is reported unless the similarities agree to 1e-5.
grid: ``prosmin.evaluation.linear_probe.select`` with eight values of l2, against ``fit`` with the
    selected value alone, on the digits of scikit-learn (64 pixels to 256 random ReLU features).
    Both fit a probe to the same precision.
"""

import argparse
import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import sys  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
from sklearn.datasets import load_digits  # noqa: E402
from sklearn.neighbors import NearestNeighbors  # noqa: E402

from benchmarks.record import record  # noqa: E402
from benchmarks.speed.turns import figures, in_turns  # noqa: E402
from prosmin.evaluation import knn, linear_probe  # noqa: E402

L2 = tuple(10.0**power for power in range(-6, 2))


def search(rounds: int, scale: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    bank, queries = (
        rng.normal(size=(n // scale, 384)).astype(np.float32) for n in (50_000, 10_000)
    )
    bank, queries = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (bank, queries))
    similarity: dict[str, np.ndarray] = {}

    def ours() -> None:
        similarity["ours"] = knn.neighbours(bank, queries, 20)[0]

    def theirs() -> None:
        brute = NearestNeighbors(n_neighbors=20, algorithm="brute", metric="euclidean").fit(bank)
        similarity["scikit_learn"] = 1 - brute.kneighbors(queries)[0] ** 2 / 2

    seconds = in_turns(rounds, ours=ours, scikit_learn=theirs)
    if not np.allclose(similarity["ours"], similarity["scikit_learn"], atol=1e-5):
        sys.exit("error: the two searches do not agree")
    return figures(seconds, "scikit_learn", "ours") | {
        "bank": list(bank.shape),
        "queries": len(queries),
    }


def grid(rounds: int) -> dict[str, Any]:
    pixels, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    features = np.maximum(pixels @ rng.normal(size=(64, 256)) / 32, 0).astype(np.float32)
    order = rng.permutation(len(labels))
    train, val = order[:1200], order[1200:]
    seen, held_out = ((features[part], labels[part]) for part in (train, val))
    chosen, _ = linear_probe.select(seen, held_out, 10, L2)
    seconds = in_turns(
        rounds,
        grid=lambda: linear_probe.select(seen, held_out, 10, L2),
        one=lambda: linear_probe.fit(*seen, 10, chosen),
    )
    return figures(seconds, "grid", "one") | {"l2": list(L2), "chosen": chosen}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed.probes", description="k-NN search and probe grid."
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--small", action="store_true", help="a tenth of the bank and of the queries"
    )
    given = parser.parse_args()
    results = {"knn": search(given.rounds, 10 if given.small else 1), "grid": grid(given.rounds)}
    record("probes", ["numpy", "scipy", "scikit-learn"], results)


if __name__ == "__main__":
    main()
