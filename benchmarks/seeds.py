"""The headline numbers over several seeds: ``python -m benchmarks.seeds 0 1 2 3 4``.

Each seed is a DVC experiment of its own (``seed-<n>``, by ``dvc exp run --temp``; one that exists is not run again)
with its own split, initial weights, order, views and label draws. Prints a Markdown table: the mean over seeds with its
95 % t-interval, each seed's number, and the floor of the untrained network.
"""

import json
import subprocess
import sys
from typing import Any

import numpy as np
from dvc.api import DVCFileSystem
from scipy import stats

ROWS = {
    "linear accuracy": ("linear", "accuracy"),
    "linear ECE": ("linear", "ece"),
    "linear ECE, calibrated": ("linear", "ece_calibrated"),
    "k-NN accuracy": ("knn", "accuracy"),
    "10 labels a class": ("lowshot", "per_class_10", "accuracy"),
    "1 label a class": ("lowshot", "per_class_1", "accuracy"),
    "mean corruption error": ("corrupt", "mce_unnormalised"),
}
DETECTORS = ("msp", "energy", "knn", "mahalanobis", "sigma")


def dvc(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"error: dvc {' '.join(arguments)} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def run(seeds: list[int]) -> list[dict[str, Any]]:
    """The metrics of each seed, by path under ``metrics/`` without its ending."""
    known = dvc("exp", "list", "--name-only").split()
    for seed in seeds:
        if f"seed-{seed}" not in known:
            print(f"seed {seed} ...", file=sys.stderr, flush=True)
            dvc("exp", "run", "--temp", "--name", f"seed-{seed}", "-S", f"seed={seed}")
    return [metrics_of(f"seed-{seed}") for seed in seeds]


def metrics_of(experiment: str) -> dict[str, Any]:
    files = DVCFileSystem(rev=experiment)
    return {
        path.removeprefix("metrics/").removesuffix(".json"): json.loads(files.read_text(path))
        for path in files.find("metrics")
    }


def reach(metrics: dict[str, Any], encoder: str, path: tuple[str, ...]) -> float:
    stage, *keys = path
    value = metrics[stage][encoder]
    for key in keys:
        value = value[key]
    return value


def table(runs: list[dict[str, Any]]) -> str:
    rows = dict(ROWS)
    for name in sorted(runs[0]):
        kind, _, item = name.partition("/")
        if kind == "transfer":
            rows[f"transfer to {item}, accuracy"] = (name, "accuracy")
        if kind == "ood":
            distance = runs[0][name]["distance"]
            found = [detector for detector in DETECTORS if detector in runs[0][name]["trained"]]
            rows |= {f"OOD {item} ({distance}), {detector}, AUROC": (name, detector, "auroc") for detector in found}
    lines = ["| | mean | 95 % interval | seeds | random encoder |", "|---|---|---|---|---|"]
    for title, path in rows.items():
        values = np.array([reach(metrics, "trained", path) for metrics in runs])
        floor = np.mean([reach(metrics, "random", path) for metrics in runs])
        half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
        each = " ".join(f"{value:.3f}" for value in values)
        low, high = values.mean() - half, values.mean() + half
        lines.append(f"| {title} | {values.mean():.3f} | [{low:.3f}, {high:.3f}] | {each} | {floor:.3f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    chosen = sorted({int(seed) for seed in sys.argv[1:]})
    if len(chosen) < 2:
        sys.exit("error: name at least two seeds, such as: python -m benchmarks.seeds 0 1 2 3 4")
    print(table(run(chosen)))
