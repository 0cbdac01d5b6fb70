"""Does it pay to train given weights further? Linear probe and k-NN before and after.

    python -m benchmarks.continued WEIGHTS --encoder tf_efficientnet_lite0 --mean 0.5 --std 0.5
    python -m benchmarks.continued WEIGHTS --sets SETS ...

WEIGHTS is a safetensors file of the timm model ``--encoder``, which has seen images normalised by
``--mean`` and ``--std`` in all channels. The images are the digits of the default run, or with
``--sets``, the folder of Parquet files that recipes/cifar10.yaml describes, CIFAR-10: 10 000 to
train on, 10 000 others to test. The encoder is trained further once per seed, with the settings
below. The numbers of the network at the given weights stand beside those after training. The
interval of the difference is Student's t over the seeds.
"""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import yaml

from benchmarks.cifar10 import RECIPE
from benchmarks.record import record
from pipelines.recipe import SETS
from prosmin.common.encoders import ENCODERS, TRAINED, UNTRAINED
from prosmin.common.files import read_metrics
from prosmin.metrics import intervals
from stages import embed, fetch, knn, linear, pretrain
from stages.common import layout
from stages.common.declared import PARAMS
from stages.params.load import load

STAGES = ("linear", "knn")


def settings(given: argparse.Namespace, seed: int) -> dict[str, Any]:
    """The params of the default run, or the recipe, with given weights and a short training."""
    path = RECIPE if given.sets else PARAMS
    content: dict[str, Any] = yaml.safe_load((Path(__file__).parents[1] / path).read_text())
    initial = {"source": "file", "path": str(given.weights)}
    initial |= {"mean": [given.mean] * 3, "std": [given.std] * 3}
    content["pretrain"] |= {
        "encoder": {"name": given.encoder},
        "initial": initial,
        "image_size": given.pixels,
        "channels": 3,
        "epochs": given.epochs,
        "lr": given.lr,
        "warmup_epochs": 0.5,
    }
    if given.sets:
        train = given.images * 4 // 5
        limit = {"train": train, "val": given.images - train}
        content["fetch"][content["dataset"]]["limit"] = limit
    return content | {"seed": seed}


def measured(given: argparse.Namespace, seed: int) -> dict[str, dict[str, float]]:
    """Accuracy by evaluation and encoder, in the current folder."""
    PARAMS.write_text(yaml.safe_dump(settings(given, seed), sort_keys=False))
    params = load()
    fetch.main(params, params.dataset)
    pretrain.main(params)
    embed.main(params, params.dataset)
    linear.main(params)
    knn.main(params)
    contents = {stage: read_metrics(layout.metrics(stage)) for stage in STAGES}
    return {
        stage: {encoder: content.section(encoder).number("accuracy") for encoder in ENCODERS}
        for stage, content in contents.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.continued", description="Before and after further training."
    )
    parser.add_argument("weights", type=Path, help="a safetensors file of a timm model")
    parser.add_argument("--sets", type=Path, help="the folder that the recipe calls sets/")
    parser.add_argument("--encoder", required=True, help="the timm model")
    parser.add_argument("--mean", type=float, required=True, help="of its input, per channel")
    parser.add_argument("--std", type=float, required=True, help="of its input, per channel")
    parser.add_argument("--pixels", type=int, default=32, help="a side of its input (32)")
    parser.add_argument("--images", type=int, default=10_000, help="of CIFAR-10, to train on")
    parser.add_argument("--epochs", type=int, default=3, help="of training (3)")
    parser.add_argument("--lr", type=float, default=0.0005, help="highest learning rate (0.0005)")
    parser.add_argument("--seeds", type=int, default=3, help="runs, at least 2 (3)")
    given = parser.parse_args()
    given.weights, home = given.weights.resolve(), Path.cwd()
    runs = []
    with tempfile.TemporaryDirectory() as scratch:
        if given.sets:
            (Path(scratch) / SETS).symlink_to(given.sets.resolve())
        os.chdir(scratch)
        for seed in range(given.seeds):
            runs.append(measured(given, seed))
        os.chdir(home)
    asked = {**vars(given), "sets": None, "weights": None}
    if not given.sets:
        asked["images"] = None  # all digits
    figures: dict[str, Any] = {"settings": asked}
    for stage in STAGES:
        gains = [run[stage][TRAINED] - run[stage][UNTRAINED] for run in runs]
        mean, low, high = intervals.student(gains)
        figures[stage] = {
            "before": [run[stage][UNTRAINED] for run in runs],
            "after": [run[stage][TRAINED] for run in runs],
            "gain": {"mean": mean, "low": low, "high": high},
        }
    record("continued_cifar10" if given.sets else "continued_digits", ["torch", "timm"], figures)


if __name__ == "__main__":
    main()
