"""Time and memory of the evaluations of features at the size of ImageNet-1k, and their growth.

    python -m benchmarks.imagenet [--images [10000 20000 40000]] [--full] [--classes 1000]
        [--features 384] [--only linear knn ...] [--threads 1]

Features of each size are synthetic (``benchmarks.workplace``), for both encoders. A fifth of the
images is val. A 25th as many are test images, as in ImageNet. All stages that read features run on
them, in the order of ``STAGES`` and each in a process of its own. The settings are those of
``params.yaml``, but ``audit`` looks at 50 000 images of each split, as in the recipe. Notes:

linear: where it has not run, the probe is a random one.
detectors: the search of the test images among the training images grows with the product of both.
ood: one set of images, after ``detectors``; without the scores of the networks.
transfer, shift: to the same features under another name.
calibrate, uncertainty: the images are 8 pixels wide, and so is the network: the time of the
    networks is not measured.
export: after ``detectors``. report: of the stages that have run.

It prints CPU seconds, ``peak_mib``, the kernel's peak of the resident memory, and ``held_mib``, the
most of it that was no mapped file: pages of a mapped file are taken back when others need them. It
fits all as powers of N: the exponent is 1 for linear growth. ``--full`` adds 1 281 167 images,
which take 2 GB a file.

In the same run, on the largest size below full, on one thread (``--images`` without a number: none
of this, and the full size alone):

linear: one evaluation of the objective against the dense one in float64 with a one-hot matrix, and
    one fit in float32 against scikit-learn's lbfgs, with the objective that both reach.
knn: 20 neighbours of 1000 queries against faiss's flat index, where faiss is installed
    (``pip install .[benchmark]``).
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import record
from benchmarks.watched import watched
from benchmarks.workplace import DATASET, SET, TWIN, write
from prosmin.common import files
from prosmin.common.encoders import ENCODERS

ROOT = Path(__file__).parents[1]
FULL = 1_281_167
L2, K, QUERIES = 1e-3, 20, 1000  # of the comparisons with other libraries


# --- the stages -----------------------------------------------------------------------------------


STAGES: dict[str, tuple[str, ...]] = {  # with their arguments
    "linear": (),
    "knn": (),
    "lowshot": (),
    "detectors": (),
    "ood": (SET,),
    "transfer": (TWIN,),
    "calibrate": (),
    "shift": (TWIN,),
    "uncertainty": (DATASET,),
    "audit": (DATASET,),
    "export": (),
    "report": (),
}
AFTER_DETECTORS = ("ood", "export")


def measured(folder: Path, stage: str, threads: int) -> dict[str, float]:
    """Time and memory of a process that runs a stage."""
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads)}
    return watched([sys.executable, "-m", f"stages.{stage}", *STAGES[stage]], folder, environment)


def exponent(sizes: list[int], values: list[float]) -> float:
    """The power of the size that fits the values best."""
    return round(float(np.polyfit(np.log(sizes), np.log(values), 1)[0]), 2)


# --- other libraries ------------------------------------------------------------------------------


def cpu(work: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.process_time()
    result = work()
    return time.process_time() - begun, result


def against_scikit_learn(folder: Path, classes: int) -> dict[str, Any]:
    """One evaluation against the dense one, and one fit against lbfgs."""
    from sklearn.linear_model import LogisticRegression

    from prosmin.common.compute.logistic import LARGE, Regression
    from prosmin.metrics.classification import log_softmax

    arrays = files.read_arrays(folder / f"results/embed/{DATASET}/{ENCODERS[0]}.safetensors")
    features, labels = arrays["train.features"], arrays["train.labels"]
    regression = Regression([(features, labels)], classes)
    mean, std = regression.standard
    inputs = ((features - mean) / std).astype(np.float32)
    at = np.zeros((classes, features.shape[1])), np.zeros(classes)
    dense_inputs, truth = inputs.astype(np.float64), np.eye(classes)[labels]

    def dense() -> tuple[float, np.ndarray]:
        logs = log_softmax(dense_inputs @ at[0].T + at[1])
        slope = (np.exp(logs) - truth) / len(labels)
        return -(logs * truth).sum() / len(labels), slope.T @ dense_inputs

    seconds = {"dense_evaluation": cpu(dense)[0]}
    for kind in ("float32", "float64"):
        seconds[f"evaluation_{kind}"] = cpu(lambda kind=kind: regression.evaluate(*at, L2, kind))[0]
    model = LogisticRegression(C=1 / (len(labels) * L2), max_iter=1000, tol=1e-5)
    seconds["scikit_learn_fit"], fitted = cpu(lambda: model.fit(inputs, labels))
    seconds["fit"], ours = cpu(lambda: regression.minimise(L2, None, LARGE))
    theirs = regression.evaluate(*map(np.float64, (fitted.coef_, fitted.intercept_)), L2)[0]
    return {
        "images": len(labels),
        "l2": L2,
        "cpu_s": {name: round(value, 3) for name, value in seconds.items()},
        "evaluation_ratio": round(seconds["dense_evaluation"] / seconds["evaluation_float32"], 2),
        "fit_ratio": round(seconds["scikit_learn_fit"] / seconds["fit"], 2),
        "objective": regression.evaluate(ours.weight, ours.bias, L2)[0],
        "objective_scikit_learn": theirs,
        "iterations_scikit_learn": int(fitted.n_iter_.max()),
    }


def against_faiss(folder: Path) -> dict[str, Any]:
    """The neighbours of QUERIES test images in train, by median of three rounds."""
    try:
        import faiss
    except ImportError:
        return {"left_out": "faiss is not installed: pip install .[benchmark]"}
    from prosmin.evaluation.knn import neighbours, unit

    arrays = files.read_arrays(folder / f"results/embed/{DATASET}/{ENCODERS[0]}.safetensors")
    bank, queries = arrays["train.features"], arrays["test.features"][:QUERIES]
    faiss.omp_set_num_threads(1)
    index = faiss.IndexFlatIP(bank.shape[1])
    index.add(unit(bank))
    asked, ratios, seconds = unit(queries), [], []
    for _ in range(3):
        ours, (similarity, _) = cpu(lambda: neighbours(bank, queries, K))
        theirs, (expected, _) = cpu(lambda: index.search(asked, K))
        if not np.allclose(similarity, expected, atol=1e-5):
            sys.exit("error: the two searches do not agree")
        ratios.append(ours / theirs)
        seconds.append({"ours": round(ours, 3), "faiss": round(theirs, 3)})
    return {
        "bank": len(bank),
        "queries": len(queries),
        "cpu_s": seconds,
        "ours_to_faiss": round(float(np.median(ratios)), 2),
    }


# --- the command ----------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.imagenet",
        description="Evaluations at the size of ImageNet-1k: time, memory and their exponents.",
    )
    parser.add_argument("--images", type=int, nargs="*", default=[10_000, 20_000, 40_000])
    parser.add_argument("--full", action="store_true", help=f"also {FULL} images")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--features", type=int, default=384)
    parser.add_argument("--only", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    for name in AFTER_DETECTORS:
        if name in given.only and "detectors" not in given.only:
            parser.error(f"{name} reads what detectors writes: --only detectors {name}")
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    sizes = [*given.images, *([FULL] if given.full else [])]
    if not sizes:
        parser.error("no size is asked for: --full, or numbers after --images")
    stages: dict[str, Any] = {name: {} for name in given.only}
    compared: dict[str, Any] = {}
    for count in sizes:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            write(folder, count, given.features, given.classes)
            for name in filter(given.only.__contains__, STAGES):  # in their order
                stages[name][str(count)] = measured(folder, name, given.threads)
                print(name, count, json.dumps(stages[name][str(count)]), file=sys.stderr)
            if [count] == given.images[-1:]:
                if "linear" in given.only:
                    compared["linear"] = against_scikit_learn(folder, given.classes)
                if "knn" in given.only:
                    compared["knn"] = against_faiss(folder)
    for rows in stages.values():
        if len(sizes) > 1:
            rows["exponent"] = {
                key: exponent(sizes, [rows[str(count)][key] for count in sizes])
                for key in ("cpu_s", "peak_mib", "held_mib")
            }
    shape = {"classes": given.classes, "features": given.features, "threads": given.threads}
    packages = ["numpy", "scipy", "scikit-learn"]
    record("imagenet", packages, shape | {"stages": stages, "compared": compared})


if __name__ == "__main__":
    main()
