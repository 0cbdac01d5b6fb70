"""The study for a GPU, here on a CPU with few images and a small encoder, without pyarrow."""

import io
import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from benchmarks import study_gpu
from benchmarks.packed import OOD, pack

ROOT = Path(__file__).parents[2]
MISSING = ("pyarrow", "pydantic", "dvc", "prefect", "datasets", "evaluate")
SMALL = "--epochs 2 --batch-size 32 --encoder test_resnet --hidden 16 --dim 8 --corrupted 10"


def jpeg(rng, label):
    pixels = rng.integers(0, 60, (32, 32, 3)) + np.eye(3)[label % 3] * 15 * (label + 1)
    stream = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(stream, "JPEG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Ten classes of coloured noise, packed."""
    folder = tmp_path_factory.mktemp("sets")
    rng = np.random.default_rng(0)
    names = {"cifar10/train": 200, "cifar10/test": 60}
    for name, count in (names | {f"cifar10_ood/{name}": 20 for name in OOD}).items():
        path = folder / f"{name}.parquet"
        path.parent.mkdir(exist_ok=True)
        labels = [place % 10 for place in range(count)]
        rows = [{"bytes": jpeg(rng, label), "path": None} for label in labels]
        pq.write_table(pa.table({"image": rows, "label": labels}), path)
    people = rng.dirichlet(np.ones(10), 60)
    columns = {f"p{place}": people[:, place] for place in range(10)}
    pq.write_table(pa.table(columns), folder / "cifar10/human_labels.parquet")
    pack(folder, folder / "images.safetensors")
    return folder / "images.safetensors"


def test_runs_are_kept_and_not_repeated(images, tmp_path):
    for name in MISSING:
        (tmp_path / f"{name}.py").write_text("raise ImportError('it is not here')\n")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "benchmarks.study_gpu", "run", str(images), str(out)]
    command += ["--methods", "prosmin", "--seeds", "1", *SMALL.split()]
    environment = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "PATH": "", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("prosmin, seed 0: ")
    asked = Namespace(methods=["prosmin", "byol"], epochs=2, seeds=2)
    due = [(method, seed) for method, seed, _ in study_gpu.due(out, asked)]
    assert due == [("byol", 0), ("prosmin", 1), ("byol", 1)]
    content = json.loads((out / "prosmin-2-0.json").read_text())
    assert content["settings"]["objective"]["identification"] == 1
    assert [row["epoch"] for row in content["curve"]] == [0, 1, 2]
    assert content["curve"][1]["seconds"] < content["curve"][2]["seconds"]
    assert 0 < content["linear_accuracy"] <= 1 and 0 < content["corruption_error"] < 1
    assert content["ood_auroc"]["knn"].keys() == OOD.keys()
    assert {"mean_norm", "feature_norm"} <= content["r_auroc"].keys()
    table = study_gpu.table(out).splitlines()
    assert table[2].startswith(f"| prosmin | 2 | 1 | {content['linear_accuracy']:.3f} |")


def test_a_run_is_not_begun_that_the_seconds_do_not_suffice_for(images, tmp_path, capsys):
    asked = ["run", str(images), str(tmp_path), "--seconds", "-1"]
    sys.argv = ["study_gpu", *asked]
    study_gpu.main()
    assert capsys.readouterr().out == "prosmin, seed 0: no time left\n"
    assert not list(tmp_path.iterdir())


def test_settings_are_those_of_the_study():
    assert study_gpu.METHODS[:2] == ("prosmin", "simclr")
    assert set(study_gpu.METHODS) == set(study_gpu.STUDY["methods"])
    byol = study_gpu.settings_of("byol")
    assert byol == {
        "objective": {"name": "byol"}, "lr": 0.002, "target": {"momentum": [0.99, 1.0]}
    }  # fmt: skip
