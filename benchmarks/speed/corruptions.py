"""Speed of the 15 corruptions of the benchmark against imagecorruptions-imaug, in one run.

    python -m benchmarks.speed.corruptions [results.json]

Both corrupt crops of scikit-learn's two photographs, at 32 and at 224 pixels, at all five
severities. The library takes one image at a time; ours takes batches, with the threads of PyTorch.
The two are timed in turns, per type, and the fastest turn counts. The result is milliseconds per
image, averaged over the severities. Needs the extra ``test``.
"""

import json
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import imagecorruptions
import numpy as np
import torch
from sklearn.datasets import load_sample_images

from benchmarks.record import machine
from prosmin import corruptions
from prosmin.common import files
from prosmin.corruptions.apply import corrupt

TURNS = 3
COUNTS = {32: (24, 512), 224: (3, 10)}  # size: (images for the library, images for us)
TARGETS = {32: (12.0, 5.0), 224: (4.0, None)}  # with and without frost


def crops(size: int, count: int) -> np.ndarray:
    """uint8 [count,H,W,3]; small ones from every thirteenth pixel, to hold a scene."""
    step = 1 if size > corruptions.SMALL else 420 // size
    photographs = load_sample_images().images
    parts = [
        photograph[top::step, left::step][:size, :size]
        for photograph in photographs
        for top in range(0, 8)
        for left in range(0, 200, 40)
    ]
    return np.stack([parts[place % len(parts)] for place in range(count)])


def seconds(work: Callable[[str, int], None], name: str, severity: int) -> float:
    start = time.perf_counter()
    work(name, severity)
    return time.perf_counter() - start


def measure(size: int) -> dict[str, dict[str, float]]:
    """Milliseconds per image, {type: {"library", "ours"}}."""
    theirs, ours = COUNTS[size]
    images = crops(size, theirs)
    batch = torch.from_numpy(crops(size, ours).transpose(0, 3, 1, 2).copy())

    def library(name: str, severity: int) -> None:
        for image in images:
            imagecorruptions.corrupt(image, severity, name)

    def own(name: str, severity: int) -> None:
        corrupt(batch, name, severity, 0)

    times_of = {}
    for name in corruptions.BENCHMARK:
        library(name, 1)  # compiles, reads files
        own(name, 1)
        turns = [
            [
                (seconds(library, name, severity), seconds(own, name, severity))
                for severity in corruptions.SEVERITIES
            ]
            for _ in range(TURNS)
        ]
        library_time, own_time = np.min(turns, axis=0).mean(axis=0) * 1000 / [theirs, ours]
        times_of[name] = {"library": library_time, "ours": own_time}
        times = f"{library_time:8.3f} {own_time:8.3f} {library_time / own_time:7.1f} x"
        print(f"{size:4} {name:18} {times}", flush=True)
    return times_of


def ratio(times_of: dict[str, dict[str, float]], without: str = "") -> float:
    library, ours = (
        sum(times[who] for name, times in times_of.items() if name != without)
        for who in ("library", "ours")
    )
    return library / ours


def main(path: str = "") -> None:
    about = {
        "images": {
            str(size): dict(zip(("library", "ours"), counts)) for size, counts in COUNTS.items()
        },
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "versions": {
            name: version(name)
            for name in ("imagecorruptions-imaug", "numpy", "torch", "torchvision")
        },
    }
    print(json.dumps(about))
    print("size type                library     ours   (milliseconds per image)")
    content: dict[str, Any] = {**about, "milliseconds": {}, "ratios": {}}
    for size, (target, target_without) in TARGETS.items():
        times_of = measure(size)
        content["milliseconds"][str(size)] = times_of
        for name, value, least in (
            (f"{size}", ratio(times_of), target),
            (f"{size} without frost", ratio(times_of, "frost"), target_without),
        ):
            content["ratios"][name] = value
            print(f"{name}: {value:.1f} x" + (f" (aim: at least {least:g})" if least else ""))
    if path:
        files.write_metrics(Path(path), content)


if __name__ == "__main__":
    main(*sys.argv[1:])
