"""Time the stage ``embed`` on JPEGs, against another checkout of this project.

    python -m benchmarks.speed.embed --against /path/to/checkout [--images 10000] [--threads 2]

JPEGs of 500 x 375 pixels go through a trained and an untrained network, a narrow ResNet-18 at 96
pixels as in ``benchmarks.speed.predict``. Both checkouts take turns at the same dataset and
weights, and each starts anew in every round. The features of both must be equal to the byte.
"""

import argparse
import hashlib
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.record import record
from benchmarks.speed.input import dataset
from benchmarks.speed.predict import SETTINGS
from benchmarks.speed.turns import figures, in_turns
from benchmarks.watched import watched
from prosmin.models import store
from stages.common import layout

ROOT = Path(__file__).parents[2]
NAME = "digits"  # of params.yaml; the images are others


def workplace(folder: Path, count: int) -> None:
    """Write all that the stage reads."""
    shutil.copy(ROOT / "params.yaml", folder)
    _, stored = dataset(folder, 500, 375, count)
    stored.rename(folder / "stored")
    (folder / "data").mkdir()
    (folder / "stored").rename(folder / "data" / NAME)
    pretrained = folder / layout.PRETRAINED
    for seed, weights in enumerate(store.WEIGHTS.values()):
        model = store.build_model(SETTINGS, seed)
        store.save_state(pretrained / weights, model.state_dict())
    store.save_description(pretrained, SETTINGS, {})


def measure(other: Path, count: int, rounds: int, threads: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        folder, seen, features = Path(scratch), {"before": [], "now": []}, set()
        workplace(folder, count)

        def run(name: str, root: Path) -> None:
            environment = {"PYTHONPATH": str(root), "OMP_NUM_THREADS": str(threads)}
            command = [sys.executable, "-m", "stages.embed", NAME]
            seen[name].append(watched(command, folder, environment))
            written = sorted((folder / layout.results("embed", NAME)).iterdir())
            features.add(tuple(hashlib.md5(file.read_bytes()).hexdigest() for file in written))

        seconds = in_turns(
            rounds, before=lambda: run("before", other), now=lambda: run("now", ROOT)
        )
    if len(features) > 1:
        sys.exit("error: the features of the two checkouts differ")
    rates = {name: round(count / min(values), 1) for name, values in seconds.items()}
    shape = {"images": count, "threads": threads, "images_per_second": rates, "runs": seen}
    return figures(seconds, "before", "now") | shape


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed.embed", description="JPEGs of a dataset to features."
    )
    parser.add_argument("--against", type=Path, required=True, help="another checkout")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    found = measure(given.against.resolve(), given.images, given.rounds, given.threads)
    record("embed", ["torch", "torchvision", "pillow", "timm"], found)


if __name__ == "__main__":
    main()
