"""ProSMIN against the baselines on CIFAR-10, with equal effort for every objective.

    python -m benchmarks.objectives FOLDER [--jobs 2]

FOLDER and settings are those of ``benchmarks.cifar10``: 10 000 training images, 2000 of them held
out. Encoder, views, optimiser, schedule, batch and probes are the same for all objectives. Two
steps:

1. Choice: every objective at every point of its own grid (``GRIDS``), two learning rates by two
   values of the setting that matters to it; one seed, half the epochs, pretrained on train. The
   highest accuracy on val of a linear probe fitted to train decides. The test split is not opened.
2. Final: the chosen point, three seeds, all epochs, pretrained on train and val as in
   ``stages.pretrain``. The linear probe and k-NN choose their own settings on val and are read once
   on test.

Every job trains with one thread. benchmarks/results/objectives.json keeps one entry per run; a run
that is in it is not repeated.
"""

import argparse
import itertools
import json
import os
import shutil
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.cifar10 import edit, settings
from benchmarks.record import RESULTS, keep, record

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"  # of the jobs

ROOT = Path(__file__).parents[1]
NAME, PACKAGES = "objectives", ["torch", "timm", "accelerate"]
RATES = [0.002, 0.005]
MOMENTUM = "pretrain.target.momentum"
GRIDS: dict[str, dict[str, list[Any]]] = {
    "prosmin": {MOMENTUM: [[0.0, 1.0], [0.9, 1.0]]},
    "published": {MOMENTUM: [[0.0, 1.0], [0.9, 1.0]]},
    "byol": {MOMENTUM: [[0.9, 1.0], [0.99, 1.0]]},
    "dino": {MOMENTUM: [[0.9, 1.0], [0.99, 1.0]]},
    "mocov3": {MOMENTUM: [[0.9, 1.0], [0.99, 1.0]]},
    "simsiam": {"pretrain.objective.predictor_dim": [32, 128]},
    "simclr": {"pretrain.objective.temperature": [0.2, 0.5]},
    "vicreg": {"pretrain.projector.dim": [64, 512]},
}
UNTRAINED = "random"  # stands for an objective: initial weights, batch statistics of images


@dataclass(frozen=True)
class Run:
    """One training.

    name: of the objective.
    changes: settings by dotted key.
    images: of the dataset, val included.
    final: trained on train and val, judged on test; else trained on train, judged on val.
    """

    name: str
    changes: dict[str, Any]
    seed: int
    epochs: int
    images: int
    final: bool

    @property
    def key(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


def grid(name: str) -> list[dict[str, Any]]:
    axes = {"pretrain.lr": RATES, **GRIDS[name]}
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def fetch(folder: Path, out: Path, limit: int) -> None:
    """Write the dataset as ``stages.fetch`` does."""
    from prosmin.common import files
    from prosmin.fetching import parquet, writing

    asked = settings(folder, limit, 1)["fetch"]["cifar10"]
    source = parquet.parquet(asked["files"], asked["image"], asked["label"])
    facts = writing.write_dataset(
        out, source, seed=0, val_fraction=asked["val_fraction"], limit=asked["limit"]
    )
    files.write_json(out / "manifest.json", {"name": "cifar10", **facts})


def train(folder: Path, data: Path, run: Run) -> dict[str, float]:
    """Seconds of training and accuracy of the linear probe on val.

    Of a final run: on test, with the accuracy of k-NN.
    """
    import torch
    from accelerate import Accelerator

    from prosmin.data.dataset import load_split
    from prosmin.evaluation import knn, linear_probe
    from prosmin.evaluation.embedding import embed
    from prosmin.models import store
    from prosmin.objectives.settings import ProSMIN
    from prosmin.training.loop import pretrain
    from prosmin.training.untrained import set_statistics
    from stages.params.load import load
    from stages.pretrain import model_settings

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        path = shutil.copy(ROOT / "params.yaml", scratch)
        # The file has the keys of ProSMIN; those of another objective take their place.
        as_given = run.name in (UNTRAINED, ProSMIN.name)
        objective = {} if as_given else {"pretrain.objective": {"name": run.name}}
        edit(Path(path), settings(folder, 10, max(run.epochs, 2)) | objective | run.changes)
        params = load(path)
    asked = params.pretrain
    splits = {
        name: load_split(data, name) for name in ("train", "val", "test")[: 3 if run.final else 2]
    }
    seen = torch.cat([splits[name].images for name in (asked.splits if run.final else ["train"])])
    pixels = seen.float() / 255.0
    described = model_settings(
        asked, pixels.mean((0, 2, 3)).tolist(), pixels.std((0, 2, 3)).tolist()
    )
    model, began = store.build_model(described, run.seed), time.perf_counter()
    if run.name == UNTRAINED:
        set_statistics(model, seen, run.seed)
    else:
        accelerator = Accelerator(
            cpu=not torch.cuda.is_available(),
            mixed_precision="no" if asked.precision == "fp32" else asked.precision,
        )
        pretrain(model, seen, asked, run.seed, accelerator)
    found = {"seconds": round(time.perf_counter() - began, 1)}
    encoder = model.eval().encoder
    labelled = [(embed(encoder, each.images), each.labels.numpy()) for each in splits.values()]
    if run.final:
        linear = linear_probe.evaluate_probe(*labelled, params.linear.l2, 1, run.seed).metrics
        nearest, _ = knn.evaluate_knn(*labelled, params.knn.k, params.knn.temperature, 1, run.seed)
        return found | {"linear": linear["accuracy"], "knn": nearest["accuracy"]}
    (fitted, (features, labels)), classes = labelled, len(splits["train"].classes)
    _, probe = linear_probe.select(fitted, (features, labels), classes, params.linear.l2)
    return found | {"linear": float((probe.logits(features).argmax(1) == labels).mean())}


class Ledger:
    """What runs have found, in the file of the benchmark, by ``Run.key``."""

    def __init__(self):
        path = RESULTS / f"{NAME}.json"
        self.found: dict[str, dict[str, float]] = (
            json.loads(path.read_text())["runs"] if path.is_file() else {}
        )

    def complete(self, runs: list[Run], folder: Path, data: Path, jobs: int) -> None:
        """Do those of the runs that are not done, and keep each as it ends."""
        left = {run.key: run for run in runs if run.key not in self.found}
        with ProcessPoolExecutor(jobs, get_context("spawn"), max_tasks_per_child=1) as pool:
            waiting = {pool.submit(train, folder, data, run): run for run in left.values()}
            for done in as_completed(waiting):
                run = waiting[done]
                self.found[run.key] = done.result()
                print(
                    run.name, run.changes, f"seed {run.seed}", self.found[run.key], file=sys.stderr
                )
                keep(NAME, PACKAGES, {"runs": self.found})


def best(ledger: Ledger, runs: list[Run]) -> dict[str, Any]:
    return max(runs, key=lambda run: ledger.found[run.key]["linear"]).changes


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.objectives", description="Objectives, with equal effort."
    )
    parser.add_argument("folder", type=Path, help="where train.parquet and test.parquet are")
    parser.add_argument(
        "--limit", type=int, default=10_000, help="images to train on, a fifth of them held out"
    )
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    if given.seeds < 2:
        parser.error(f"--seeds is {given.seeds}; the spread over seeds needs at least 2")
    folder, ledger = given.folder.resolve(), Ledger()
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch)
        fetch(folder, data, given.limit)
        choice = {
            name: [Run(name, each, 0, given.epochs // 2, given.limit, False) for each in grid(name)]
            for name in GRIDS
        }
        ledger.complete([run for runs in choice.values() for run in runs], folder, data, given.jobs)
        chosen = {UNTRAINED: {}} | {name: best(ledger, runs) for name, runs in choice.items()}
        final = {
            name: [
                Run(name, each, seed, given.epochs, given.limit, True)
                for seed in range(given.seeds)
            ]
            for name, each in chosen.items()
        }
        # A first seed of all before a second.
        in_turn = [run for seed in zip(*final.values(), strict=True) for run in seed]
        ledger.complete(in_turn, folder, data, given.jobs)
    table = {}
    for name, runs in final.items():
        table[name] = {"chosen": chosen[name]}
        for metric in ("linear", "knn"):
            values = [ledger.found[run.key][metric] for run in runs]
            table[name][metric] = {
                "mean": round(mean(values), 4),
                "std": round(stdev(values), 4),
                "seeds": values,
            }
    figures = {"images": given.limit, "epochs": given.epochs, "table": table, "runs": ledger.found}
    record(NAME, PACKAGES, figures)


if __name__ == "__main__":
    main()
