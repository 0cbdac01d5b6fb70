"""The methods of studies/cifar10.yaml at the size of published runs, on one GPU.

    python -m benchmarks.study_gpu pack SETS images.safetensors
    python -m benchmarks.study_gpu run images.safetensors OUT --seconds 420
    python -m benchmarks.study_gpu table OUT

SETS is the folder of Parquet files that recipes/cifar10.yaml describes. ``pack`` puts its encoded
images into one file. ``run`` needs no DVC, Prefect, pyarrow or pydantic: PyTorch, timm, Accelerate
and PyYAML do. It trains ResNet-18 on all but 5000 training images of CIFAR-10, for each method and
seed, and evaluates on the device. Each run that has ended is a file of OUT, which the next call
does not repeat; no run is begun for which the seconds do not suffice. ``table`` writes what there
is as Markdown.

Nothing is tuned at this size: of the grid of a method in the study, it takes the lowest learning
rate and the last value of the other setting. The k-NN and linear accuracies of the curve, by which
the seconds to an accuracy are read, are of the 5000 images held out; the clock stands still
meanwhile. The test images are read once, after training.
"""

import argparse
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from benchmarks.evaluated import DEFAULTS, evaluated
from benchmarks.packed import OOD, STUDY, Data, pack
from benchmarks.record import machine
from prosmin.common.files import read_json, write_json
from prosmin.data.dataset import channel_statistics
from prosmin.evaluation import knn, linear_probe, ood_scores
from prosmin.evaluation.embedding import embed
from prosmin.metrics import classification
from prosmin.models import store
from prosmin.objectives.base import Objective
from prosmin.training.loop import pretrain
from prosmin.training.settings import Target, TrainSettings
from prosmin.training.watch.progress import Progress
from prosmin.views.settings import Views

VIEWS = STUDY["base"]["pretrain.views"]
# The methods that everybody looks for come first, then the others of the study.
FIRST = ("prosmin", "simclr", "byol", "dino", "vicreg")
METHODS = (*FIRST, *(name for name in STUDY["methods"] if name not in FIRST))
GOALS = (0.85, 0.9)


# --- training -------------------------------------------------------------------------------------


def settings_of(method: str) -> dict[str, Any]:
    """Sections and values below ``pretrain`` that make up a method."""
    entry = STUDY["methods"][method]
    (rate, rates), (other, values) = entry["grid"].items()
    changes = {**entry.get("set", {}), rate: min(rates), other: values[-1]}
    settings: dict[str, Any] = {}
    for name, value in changes.items():
        *sections, key = name.split(".")[1:]
        place = settings
        for section in sections:
            place = place.setdefault(section, {})
        place[key] = value
    return settings


@dataclass
class Curve:
    """Accuracies on val during training. begun: when the clock started, less its pauses."""

    model: Objective
    data: Data
    every: int
    begun: float = 0.0
    rows: list[dict[str, float]] = field(default_factory=list)

    def tell(self, now: Progress) -> None:
        epoch = len(now.history.loss)
        if epoch % self.every:
            return
        paused = time.perf_counter()
        self.model.eval()
        train, val = (
            (embed(self.model.encoder, split.images), split.labels.numpy())
            for split in (self.data.train, self.data.val)
        )
        self.model.train()
        accuracies = {"knn": knn_accuracy(train, val), "linear": linear_accuracy(train, val)}
        self.rows.append({"epoch": epoch, "seconds": paused - self.begun} | accuracies)
        self.begun += time.perf_counter() - paused

    def seconds_to(self, key: str, goal: float) -> float | None:
        reached = (row["seconds"] for row in self.rows if row[key] >= goal)
        return next(reached, None)


def knn_accuracy(bank: linear_probe.Labelled, queries: linear_probe.Labelled) -> float:
    """With 20 neighbours at temperature 0.07."""
    similarity, index = knn.neighbours(bank[0], queries[0], min(20, len(bank[0])))
    votes = knn.vote(similarity, bank[1][index], 0.07, int(bank[1].max()) + 1)
    return float(classification.accuracy(votes, queries[1]))


def linear_accuracy(bank: linear_probe.Labelled, queries: linear_probe.Labelled) -> float:
    """With l2 0.001."""
    probe = linear_probe.fit(*bank, int(bank[1].max()) + 1, 0.001)
    return float(classification.accuracy(probe.logits(queries[0]), queries[1]))


def trained(method: str, seed: int, data: Data, asked: argparse.Namespace) -> tuple[Any, Curve]:
    """The model and its curve."""
    settings = settings_of(method)
    projector = DEFAULTS["pretrain"]["projector"] | {"hidden_dim": asked.hidden, "dim": asked.dim}
    projector |= settings.get("projector", {})
    mean, std = channel_statistics(data.train.images[:20_000])
    described = store.ModelSettings(
        encoder=asked.encoder,
        image_size=data.train.images.shape[-1],
        channels=3,
        mean=tuple(mean),
        std=tuple(std),
        hidden_dim=projector["hidden_dim"],
        dim=projector["dim"],
        cifar_stem=True,
        objective={"name": "prosmin"} | settings.get("objective", {}),
    )
    views = {key: tuple(v) if isinstance(v, list) else v for key, v in VIEWS.items()}
    momentum = settings.get("target", DEFAULTS["pretrain"]["target"])["momentum"]
    training = TrainSettings(
        image_size=described.image_size,
        epochs=asked.epochs,
        batch_size=asked.batch_size,
        lr=settings["lr"],
        target=Target(momentum=tuple(momentum)),
        views=Views(**views),
        warmup_epochs=min(10, asked.epochs // 2),
        channels_last=True,
        compile=asked.compile,
    )
    gpu = torch.cuda.is_available()
    accelerator = Accelerator(cpu=not gpu, mixed_precision="bf16" if gpu else "no")
    model = store.build_model(described, seed)
    curve = Curve(model, data, max(1, asked.epochs // 20), time.perf_counter())
    pretrain(model, data.train.images, training, seed, accelerator, tell=curve.tell)
    return model.eval(), curve


# --- runs -----------------------------------------------------------------------------------------


def due(out: Path, asked: argparse.Namespace) -> Iterator[tuple[str, int, Path]]:
    """The runs that have no file yet, all methods before the next seed."""
    for seed in range(asked.seeds):
        for method in asked.methods:
            path = out / f"{method}-{asked.epochs}-{seed}.json"
            if not path.is_file():
                yield method, seed, path


def run(asked: argparse.Namespace) -> None:
    begun, longest = time.perf_counter(), 0.0
    data = Data.read(asked.images)
    asked.out.mkdir(parents=True, exist_ok=True)
    for method, seed, path in due(asked.out, asked):
        started = time.perf_counter()
        if started - begun + longest > asked.seconds:
            print(f"{method}, seed {seed}: no time left")
            return
        model, curve = trained(method, seed, data, asked)
        seconds = time.perf_counter() - curve.begun
        reached = {
            f"seconds_to_{key}_{goal}": curve.seconds_to(key, goal)
            for key in ("knn", "linear")
            for goal in GOALS
        }
        facts = {"method": method, "seed": seed, "epochs": asked.epochs, "encoder": asked.encoder}
        facts |= {"settings": settings_of(method), "machine": machine(), "torch": torch.__version__}
        if torch.cuda.is_available():
            facts["gpu"] = torch.cuda.get_device_name()
        speed = {"train_seconds": seconds, "curve": curve.rows}
        write_json(path, facts | speed | reached | evaluated(model, data, seed, asked.corrupted))
        longest = max(longest, time.perf_counter() - started)
        print(f"{method}, seed {seed}: {seconds:.0f} s of training", flush=True)


def table(out: Path) -> str:
    """Means over seeds as Markdown."""
    runs = [read_json(path) for path in sorted(out.glob("*.json"))]
    of_sets = {kind: [name for name, its in OOD.items() if its == kind] for kind in ("near", "far")}

    def best(entry: Mapping[str, Any], kind: str) -> float:
        free = [name for name in entry["ood_auroc"] if ood_scores.DETECTORS[name].label_free]
        means = [np.mean([entry["ood_auroc"][name][of] for of in of_sets[kind]]) for name in free]
        return float(max(means))

    columns = {
        "linear": lambda entry: entry["linear_accuracy"],
        "k-NN": lambda entry: entry["knn_accuracy"],
        "ECE": lambda entry: entry["linear_ece_calibrated"],
        "near OOD": partial(best, kind="near"),
        "far OOD": partial(best, kind="far"),
        "corruption error": lambda entry: entry["corruption_error"],
        "R-AUROC": lambda entry: max(filter(None, entry["r_auroc"].values()), default=None),
        "s to k-NN .85": lambda entry: entry["seconds_to_knn_0.85"],
        "s to linear .90": lambda entry: entry["seconds_to_linear_0.9"],
        "s": lambda entry: entry["train_seconds"],
    }
    lines = ["| method | epochs | seeds | " + " | ".join(columns) + " |"]
    lines += ["|" + "---|" * (3 + len(columns))]
    for key in dict.fromkeys((entry["method"], entry["epochs"]) for entry in runs):
        own = [entry for entry in runs if (entry["method"], entry["epochs"]) == key]
        cells = []
        for value in columns.values():
            values = [value(entry) for entry in own]
            cells.append("–" if None in values else f"{np.mean(values):.3f}")
        lines.append(f"| {key[0]} | {key[1]} | {len(own)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.study_gpu", description="CIFAR-10 at full size on one GPU."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="the images into one file")
    packing.add_argument("sets", type=Path)
    packing.add_argument("images", type=Path)
    running = commands.add_parser("run", help="train and evaluate what is not there yet")
    running.add_argument("images", type=Path)
    running.add_argument("out", type=Path)
    running.add_argument("--seconds", type=float, default=420, help="in all (420)")
    running.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    running.add_argument("--seeds", type=int, default=3, help="per method (3)")
    running.add_argument("--epochs", type=int, default=200, help="of training (200)")
    running.add_argument("--batch-size", type=int, default=512, help="(512)")
    running.add_argument("--encoder", default="resnet18", help="of timm (resnet18)")
    running.add_argument("--hidden", type=int, default=1024, help="units of the projector (1024)")
    running.add_argument("--dim", type=int, default=128, help="of its output (128)")
    running.add_argument("--corrupted", type=int, default=2000, help="test images (2000)")
    running.add_argument("--compile", action="store_true", help="by torch.compile")
    telling = commands.add_parser("table", help="what there is, as Markdown")
    telling.add_argument("out", type=Path)
    asked = parser.parse_args()
    if asked.command == "pack":
        pack(asked.sets, asked.images)
    elif asked.command == "run":
        run(asked)
    else:
        print(table(asked.out))


if __name__ == "__main__":
    main()
