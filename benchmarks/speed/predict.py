"""Time photographs in a folder to a table of features: ``python -m benchmarks.speed.predict``.

JPEGs of 500 x 375 pixels go through a narrow ResNet-18 at 96 pixels, so that reading them is most
of the work, on all cores:

- timm: an ImageFolder with timm's transform in a DataLoader of one worker per core, the encoder on
  batches of 256, and ``numpy.save``
- ours: ``prosmin embed``, to Parquet

Both are programs of their own and start anew in every round. They take turns; the result is the
median of the ratios. The peak memory of ours is measured at a tenth of the images too.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import record
from benchmarks.speed.input import photographs
from benchmarks.speed.turns import figures, in_turns
from prosmin.common.compute.logistic import standardisation
from prosmin.evaluation.embedding import describe
from prosmin.evaluation.linear_probe import Probe
from prosmin.evaluation.ood_detectors import Sample, Settings
from prosmin.models import store
from prosmin.predicting import bundle, reference

SIZE, BATCH = 96, 256
COUNT = 64  # images that the model knows
NARROW = {"layers": [1, 1, 1, 1], "channels": [16, 32, 64, 128]}
SETTINGS = store.ModelSettings("resnet18", SIZE, 3, (0.5,) * 3, (0.25,) * 3, 64, 32, False, NARROW)
THEIRS = f"""
import os, sys
import numpy as np, timm, torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

photographs, encoder, out = sys.argv[1:]
model = timm.create_model("resnet18", num_classes=0, **{NARROW}).eval()
model.load_state_dict(torch.load(encoder))
transform = timm.data.create_transform((3, {SIZE}, {SIZE}), interpolation="bilinear", crop_pct=1.0)
images = ImageFolder(photographs, transform)
with torch.inference_mode():
    loader = DataLoader(images, {BATCH}, num_workers=os.cpu_count())
    features = [model(batch) for batch, _ in loader]
np.save(out, torch.cat(features).numpy())
"""


def export(folder: Path, settings: store.ModelSettings, classes: int = 0) -> None:
    """Write an untrained model, and its encoder for timm alone.

    classes: of a random probe; 0: the model has no labels.
    """
    import torch

    model = store.build_model(settings).eval()
    rng = np.random.default_rng(0)
    shape = (COUNT, settings.channels, settings.image_size, settings.image_size)
    features = describe(model, torch.from_numpy(rng.integers(0, 256, shape, np.uint8))).features
    labels = np.arange(COUNT) % classes if classes else None
    known = reference.fit(Sample(features, labels=labels), None, Settings())
    store.save_state(folder / "encoder.safetensors", model.encoder.backbone.state_dict())
    torch.save(model.encoder.backbone.state_dict(), folder / "encoder.pt")
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    probe, names = None, None
    if classes:
        weight = rng.normal(size=(classes, features.shape[1])).astype(np.float32)
        bias = np.zeros(classes, np.float32)
        probe = Probe(weight, bias, *standardisation(features), 1.5, 0.9)
        names = tuple(map(str, range(classes)))
    facts = bundle.Facts(settings, "noise", names, list(map(str, range(COUNT))))
    (folder / "export").mkdir()
    bundle.write(folder / "export", folder / "encoder.safetensors", state, facts, probe, known)


def peak(command: list[str]) -> float:
    """Run a command, and return the largest memory of its process, in MB."""
    code = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command], check=True, capture_output=True, text=True
    )
    return round(int(done.stdout.split()[-1]) / 1000, 1)  # Linux counts in KB


def measure(count: int, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        photographs(folder / "all", 500, 375, count)
        photographs(folder / "few", 500, 375, count // 10)
        export(folder, SETTINGS)
        model = ["--model", str(folder / "export"), "--out", str(folder / "out.parquet")]
        embed = [sys.executable, "-m", "prosmin", "embed"]
        ours = [*embed, str(folder / "all"), *model, "--batch", str(BATCH)]
        theirs = [sys.executable, "-c", THEIRS, str(folder / "all" / "train")]
        theirs += [str(folder / "encoder.pt"), str(folder / "out.npy")]

        def run(command: list[str]) -> None:
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

        seconds = in_turns(rounds, timm=lambda: run(theirs), ours=lambda: run(ours))
        few = [*embed, str(folder / "few"), *model, "--batch", str(BATCH)]
        memory = {str(count // 10): peak(few), str(count): peak(ours)}
    found = figures(seconds, "timm", "ours")
    rate = round(count / min(found["seconds"]["ours"]), 1)
    return found | {"images": count, "images_per_second": rate, "peak_megabytes": memory}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed.predict", description="From JPEG files to features."
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=10_000)
    given = parser.parse_args()
    os.environ.pop("OMP_NUM_THREADS", None)
    packages = ["torch", "torchvision", "pillow", "timm"]
    record("predict", packages, measure(given.images, given.rounds))


if __name__ == "__main__":
    main()
