"""The whole evaluation suite on CIFAR-10.

    python -m benchmarks.cifar10 FOLDER [--limit 10000] [--epochs 10]

FOLDER holds train.parquet and test.parquet with the columns ``img`` or ``image``, and ``label``,
as the hub has them. In a fresh clone of the last commit it pretrains on ``limit`` images of the
training split (the recipe of docs/params.md for small photographs). Then the flow runs every
evaluation on the whole test split: all 15 types x 5 severities of corruption, a near OOD set
(halves of two images), a far one (digits), few labels and transfer. The figures are the seconds
of both, the largest memory of all processes of the second together (RSS, sampled; shared memory
counts once per process) and the headline numbers.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import yaml
from pyarrow.parquet import read_schema

from benchmarks.record import record
from pipelines.engine.execute import environment
from stages.common.headlines import rows
from stages.params.load import load

# The ResNet of the default run with a stem as wide as its first stage (He et al., CVPR 2016, sec.
# 4.2), and shortcuts that average where they
# get smaller instead of leaving out three pixels of four (He et al., CVPR 2019, ResNet-D).
ENCODER = {
    "layers": [1, 1, 1, 1],
    "channels": [16, 32, 64, 128],
    "zero_init_last": False,
    "stem_type": "deep",
    "stem_width": 8,
    "avg_down": True,
}
PAUSE = 0.25  # seconds between two looks at the memory


def settings(folder: Path, limit: int, epochs: int) -> dict[str, Any]:
    """What differs from the default params.yaml, by dotted key."""
    names = read_schema(folder / "train.parquet").names
    cifar = {
        "source": "parquet",
        "files": {split: str(folder / f"{split}.parquet") for split in ("train", "test")},
        "image": "img" if "img" in names else "image",
        "label": "label",
        "val_fraction": 0.2,
        "limit": {"train": limit * 4 // 5, "val": limit // 5},
    }
    return {
        "dataset": "cifar10",
        "fetch": {
            "cifar10": cifar,
            "cifar10_halves": {**cifar, "transform": "halves"},
            "digits": {"source": "builtin", "name": "digits"},
        },
        "pretrain.image_size": 32,
        "pretrain.channels": 3,
        "pretrain.encoder.kwargs": ENCODER,
        "pretrain.objective.shrinkage": 0.01,
        "pretrain.target.momentum": [0.9, 1.0],
        "pretrain.lr": 0.005,
        "pretrain.epochs": epochs,
        "pretrain.warmup_epochs": 1,
        "pretrain.batch_size": 128,
        "pretrain.precision": "bf16",
        "pretrain.channels_last": True,
        "pretrain.views": {
            "scale": [0.2, 1.0],
            "flip": 0.5,
            "saturation": 0.4,
            "hue": 0.1,
            "grayscale": 0.2,
            "blur": 0.0,
            "solarize": 0.0,
        },
        "ood.sets": {"cifar10_halves": "near", "digits": "far"},
        "corrupt.types": ["benchmark"],
        "transfer.targets": ["digits"],
        "finetune.datasets": [],
        "uncertainty.datasets": [],
    }


def edit(path: Path, changes: dict[str, Any]) -> None:
    content = yaml.safe_load(path.read_text())
    for key, value in changes.items():
        *sections, name = key.split(".")
        part = content
        for section in sections:
            part = part[section]
        part[name] = value
    path.write_text(yaml.safe_dump(content, sort_keys=False))


def flow(folder: Path, *stages: str) -> tuple[float, float]:
    """Seconds and GiB of ``python -m pipelines.run stages``."""
    begun, most = time.perf_counter(), 0
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.run", *stages],
        cwd=folder,
        env=environment(),
        stdout=sys.stderr,
    )
    while process.poll() is None:
        most = max(most, used(process.pid))
        time.sleep(PAUSE)
    if process.returncode:
        sys.exit(f"error: the flow failed ({process.returncode})")
    return time.perf_counter() - begun, most / 2**30


def used(pid: int) -> int:
    """Bytes of a process and of all that it has started."""
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    total = 0
    for each in family:
        try:
            total += each.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cifar10", description="The whole suite on CIFAR-10."
    )
    parser.add_argument("folder", type=Path, help="where train.parquet and test.parquet are")
    parser.add_argument(
        "--limit", type=int, default=10_000, help="images to train on, a fifth of them held out"
    )
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--clone", type=Path, help="where to make the clone, which then stays")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.clone or Path(scratch) / "clone"
        subprocess.run(["git", "clone", "--quiet", ".", str(folder)], check=True)
        edit(folder / "params.yaml", settings(given.folder.resolve(), given.limit, given.epochs))
        pretraining, _ = flow(folder, "pretrain")
        suite, memory = flow(folder)
        found = {
            row.label: {
                "value": row.value,
                "low": row.low,
                "high": row.high,
                "random": row.untrained,
            }
            for row in rows(load(folder / "params.yaml"), folder / "metrics")
        }
    figures = {
        "images": given.limit,
        "epochs": given.epochs,
        "seconds": {"fetch_and_pretrain": round(pretraining, 1), "suite": round(suite, 1)},
        "memory_gib": round(memory, 2),
        "results": found,
    }
    record("cifar10", ["torch", "prefect", "dvc"], figures)


if __name__ == "__main__":
    main()
