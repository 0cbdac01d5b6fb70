"""How far rounding alone moves the numbers: ``python -m benchmarks.trust.noise [--seeds 5]``.

The same seed runs with one thread, with two threads, with oneDNN limited to AVX2 and without
oneDNN. These runs differ only in the order of sums. Each run executes the real stages, from fetch
to transfer, in its own folder. The result has the spread of every headline number over these ways,
and for comparison its spread over seeds with one thread. A run takes two or three minutes with the
default epochs.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import stdev
from typing import Any

import yaml

from benchmarks.record import record
from prosmin.common.files import write_text
from stages.common.headlines import rows
from stages.common.layout import METRICS
from stages.params.load import load

ROOT = Path(__file__).parents[2]
WITHOUT = "import torch; torch.backends.mkldnn.enabled = False; "
RUN = "import runpy, sys; runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
# By name: the environment, and Python code to run before the stage.
WAYS: dict[str, tuple[dict[str, str], str]] = {
    "1 thread": ({"OMP_NUM_THREADS": "1"}, ""),
    "2 threads": ({"OMP_NUM_THREADS": "2"}, ""),
    "1 thread, oneDNN to AVX2": ({"OMP_NUM_THREADS": "1", "ONEDNN_MAX_CPU_ISA": "AVX2"}, ""),
    "1 thread, without oneDNN": ({"OMP_NUM_THREADS": "1"}, WITHOUT),
}
FIRST = "1 thread"


def complete(folder: Path, seed: int, epochs: int, way: str) -> dict[str, float]:
    """Run all stages and return the headline numbers by label."""
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["seed"] = seed
    warmup = min(content["pretrain"]["warmup_epochs"], epochs)
    content["pretrain"] |= {"epochs": epochs, "warmup_epochs": warmup}
    write_text(folder / "params.yaml", yaml.safe_dump(content, sort_keys=False))
    special, before = WAYS[way]
    environment = {**os.environ, **special, "PYTHONPATH": str(ROOT), "PROSMIN_PROCESSES": "1"}
    environment["CUDA_VISIBLE_DEVICES"] = ""
    sets = [content["dataset"], *content["ood"]["sets"], *content["transfer"]["targets"]]
    names = list(dict.fromkeys(sets))
    stages = [*(("fetch", name) for name in names), ("pretrain",)]
    stages += [("embed", name) for name in names]
    stages += [*(("prediction", name) for name in names)]
    stages += [("linear",), ("detectors",), ("calibrate",), ("knn",), ("lowshot",)]
    stages += [*(("ood", name) for name in content["ood"]["sets"])]
    stages += [*(("transfer", name) for name in content["transfer"]["targets"])]
    stages += [*(("uncertainty", name) for name in content["uncertainty"]["datasets"])]
    stages += [*(("audit", name) for name in content["audit"]["datasets"])]
    for stage, *name in stages:
        done = subprocess.run(
            [sys.executable, "-c", before + RUN, f"stages.{stage}", *name],
            cwd=folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        if done.returncode:
            raise SystemExit(f"{way}, seed {seed}, {stage} {' '.join(name)}: {done.stderr[-2000:]}")
    return {row.label: row.value for row in rows(load(folder / "params.yaml"), folder / METRICS)}


def spread(runs: dict[str, dict[str, float]], label: str) -> dict[str, Any]:
    """Range and standard deviation of one number over runs."""
    values = [found[label] for found in runs.values()]
    return {
        "range": round(max(values) - min(values), 4),
        "std": round(stdev(values), 4),
        "values": {name: round(found[label], 4) for name, found in runs.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.trust.noise", description="Rounding beside seeds."
    )
    parser.add_argument("--epochs", type=int, default=80)
    parser.add_argument("--seeds", type=int, default=5, help="runs with one thread, from seed 0")
    parser.add_argument(
        "--repeats", type=int, default=1, help="more runs of seed 0, one thread: equal?"
    )
    given = parser.parse_args()
    if given.seeds < 2:
        parser.error(f"--seeds is {given.seeds}; the spread over seeds needs at least 2")
    wanted = [(way, 0, way) for way in WAYS]
    wanted += [(f"seed {seed}", seed, FIRST) for seed in range(1, given.seeds)]
    wanted += [(f"again {turn}", 0, FIRST) for turn in range(given.repeats)]
    found = {}
    for name, seed, way in wanted:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = complete(Path(folder), seed, given.epochs, way)
        said = {label: round(value, 3) for label, value in found[name].items()}
        print(name, said, file=sys.stderr, flush=True)
    by_way = {way: found[way] for way in WAYS}
    by_seed = {"seed 0": found[FIRST]}
    by_seed |= {name: run for name, run in found.items() if name.startswith("seed ")}
    table = {
        label: {"rounding": spread(by_way, label), "seeds": spread(by_seed, label)}
        for label in found[FIRST]
    }
    equal = all(found[f"again {turn}"] == found[FIRST] for turn in range(given.repeats))
    for label, row in table.items():
        ranges = (row[kind]["range"] for kind in ("rounding", "seeds"))
        print("{:<50} rounding {:.3f}   seeds {:.3f}".format(label, *ranges))
    figures = {"epochs": given.epochs, "seeds": given.seeds, "repeats_are_equal": equal}
    record("noise", ["torch", "numpy", "scipy"], figures | {"table": table})


if __name__ == "__main__":
    main()
