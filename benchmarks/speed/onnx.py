"""Time an exported model in onnxruntime and in PyTorch: ``python -m benchmarks.speed.onnx``.

Both compute the same outputs (features, probabilities of 10 classes, conformal sets, scores) of the
same uint8 images on a CPU, with the same number of threads, after one round that is not counted:

- pytorch: ``prosmin.predicting.whole.Whole``, the function that the ONNX file is made from
- onnx: the file in onnxruntime

They take turns; the result is the median of the ratios of their times. The encoders are untrained.
"""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.record import record
from benchmarks.speed.predict import export
from benchmarks.speed.turns import figures, in_turns
from prosmin.common.startup import keep_freed_memory
from prosmin.models.store import ModelSettings
from prosmin.predicting import onnx_file
from prosmin.predicting.model import load
from prosmin.predicting.whole import Whole

MEAN, STD = (0.5,) * 3, (0.25,) * 3
# By name the networks, and the images of a batch.
MODELS = {
    "resnet18 at 32 pixels": (ModelSettings("resnet18", 32, 3, MEAN, STD, 256, 128, True), 64),
    "resnet18 at 224 pixels": (ModelSettings("resnet18", 224, 3, MEAN, STD, 512, 256), 16),
    "vit_small_patch16_224": (
        ModelSettings("vit_small_patch16_224", 224, 3, MEAN, STD, 512, 256),
        16,
    ),
}


def measure(settings: ModelSettings, count: int, rounds: int, threads: int) -> dict[str, Any]:
    import onnxruntime

    with tempfile.TemporaryDirectory() as scratch:
        export(Path(scratch), settings, classes=10)
        model = load(Path(scratch) / "export", "cpu")
        onnx_file.write(path := Path(scratch) / onnx_file.NAME, model)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
        megabytes = round(path.stat().st_size / 1e6, 1)
    whole = Whole(model).eval()
    shape = (count, settings.channels, settings.image_size, settings.image_size)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)

    @torch.inference_mode()
    def pytorch() -> None:
        whole(torch.from_numpy(images))

    def onnx() -> None:
        session.run(None, {"images": images})

    pytorch(), onnx()
    found = figures(in_turns(rounds, pytorch=pytorch, onnx=onnx), "onnx", "pytorch")
    return found | {"images": count, "megabytes": megabytes}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed.onnx", description="onnxruntime against PyTorch."
    )
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    keep_freed_memory()
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    found = {
        name: measure(settings, count, given.rounds, threads)
        for name, (settings, count) in MODELS.items()
    }
    record("onnx", ["torch", "onnxruntime", "timm"], {"threads": threads, **found})


if __name__ == "__main__":
    main()
