"""The real graph, run by the real DVC at tiny size, in clones of this checkout."""

import filecmp
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import dvc.api
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from sklearn.datasets import load_sample_images

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
TINY = {
    "fetch.digits.limit": {"train": 200, "val": 60, "test": 80},
    "fetch.patches.limit": {"train": 80, "val": 40, "test": 60},
    "fetch.digits_halves": None,
    "fetch.digits_rotated": None,
    "fetch.digits_inverted": None,
    "ood.sets": {"patches": "far"},
    "pretrain.epochs": 2,
    "pretrain.batch_size": 64,
    "pretrain.encoder.kwargs": {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "zero_init_last": False},
    "lowshot.per_class": [1, 3],
    "lowshot.percent": [10],
    "corrupt.types": ["gaussian_noise", "contrast"],
    "corrupt.severities": [1, 5],
    "linear.bootstrap": 100,
    "knn.bootstrap": 100,
    "corrupt.bootstrap": 100,
    "ood.bootstrap": 100,
    "transfer.bootstrap": 100,
    "prediction.bootstrap": 100,
    "prediction.views": 2,
}


def command(folder: Path, *arguments: str, environment: dict[str, str] | None = None, expect: int | None = 0) -> str:
    """Run Python in ``folder`` with this interpreter's tools on the path and return what it printed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PATH": path, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=280,
    )
    assert expect is None or done.returncode == expect, done.stdout
    return done.stdout


def edit(folder: Path, changes: dict[str, Any]) -> None:
    """Set dotted keys of the clone's params.yaml; None removes one."""
    content = yaml.safe_load((folder / "params.yaml").read_text())
    for key, value in changes.items():
        *sections, name = key.split(".")
        section = content
        for step in sections:
            section = section[step]
        if value is None:
            section.pop(name)
        else:
            section[name] = value
    (folder / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def clone(folder: Path, changes: dict[str, Any]) -> Path:
    """What git would check out of this working tree, with a small graph, in a repository of its own."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file() and not name.startswith(("tests/", "docs/", "metrics/", "plots/", "dvc.lock")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    edit(folder, TINY | changes)
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for arguments in (["init", "-q", "-b", "main"], ["add", "-A"], [*identity, "commit", "-q", "-m", "tiny"]):
        subprocess.run(["git", *arguments], cwd=folder, check=True)
    return folder


def ran(output: str) -> set[str]:
    """The stages that DVC says it ran (not those it skipped or took from the run cache)."""
    return {line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage '")}


def commit(folder: Path) -> None:
    subprocess.run(["git", "add", "-A"], cwd=folder, check=True)
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", *identity, "commit", "-q", "-m", "results"], cwd=folder, check=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A clone, at a path with a space, whose graph has run."""
    folder = clone(tmp_path_factory.mktemp("a clone"), {})
    output = command(folder, "-m", "dvc", "repro")
    assert {"fetch@digits", "pretrain", "embed@patches", "linear", "ood@patches", "report"} <= ran(output)
    commit(folder)
    return folder


def test_every_stage_leaves_what_the_graph_declares(finished):
    output = command(finished, "-m", "dvc", "status")
    assert "up to date" in output
    assert (finished / "results/report/index.html").stat().st_size > 10_000
    for name in ("linear", "knn", "lowshot", "corrupt", "ood/patches", "transfer/patches"):
        metrics = json.loads((finished / f"metrics/{name}.json").read_text())
        assert {"trained", "random"} <= set(metrics), name


def test_nothing_to_do_runs_nothing(finished):
    assert not ran(command(finished, "-m", "dvc", "repro"))


def test_git_sees_only_metrics_plots_and_the_lock(finished):
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=finished, capture_output=True, text=True, check=True
    ).stdout.split()
    assert "dvc.lock" in tracked and "metrics/linear.json" in tracked and "plots/pretrain/loss.csv" in tracked
    assert not [name for name in tracked if name.startswith(("results/", "data/digits"))]


def test_a_second_clone_gives_the_same_bytes(finished, tmp_path):
    other = clone(tmp_path, {})
    command(other, "-m", "dvc", "repro")
    names = sorted(
        str(path.relative_to(other)) for part in ("metrics", "plots") for path in (other / part).rglob("*.*")
    ) + ["dvc.lock", "results/report/index.html"]
    assert len(names) > 15
    _, differing, missing = filecmp.cmpfiles(finished, other, names, shallow=False)
    assert (differing, missing) == ([], [])


def test_an_ood_setting_touches_ood_and_report_and_its_old_value_runs_nothing(finished):
    before = (finished / "params.yaml").read_text()
    try:
        edit(finished, {"ood.k": 3})
        assert ran(command(finished, "-m", "dvc", "repro")) == {"ood@patches", "report"}
        shown = command(finished, "-m", "dvc", "params", "diff")
        assert "ood.k" in shown
        assert "auroc" in command(finished, "-m", "dvc", "metrics", "diff")
        assert "index.html" in command(finished, "-m", "dvc", "plots", "diff", "HEAD")
    finally:
        (finished / "params.yaml").write_text(before)
        shutil.rmtree(finished / "dvc_plots", ignore_errors=True)
    assert not ran(command(finished, "-m", "dvc", "repro"))
    assert "up to date" in command(finished, "-m", "dvc", "status")


def test_an_experiment_runs_with_a_changed_parameter(finished):
    command(finished, "-m", "dvc", "exp", "run", "--temp", "--name", "nearer", "-S", "knn.k=[3]")
    found = {
        revision: json.loads(dvc.api.read("metrics/knn.json", repo=str(finished), rev=revision))["trained"]["k"]
        for revision in ("main", "nearer")
    }
    assert found["nearer"] == 3 != found["main"]
    assert "up to date" in command(finished, "-m", "dvc", "status")


def photographs(folder: Path, count: int) -> dict[str, list[Path]]:
    """JPEG and PNG files of assorted sizes cut from two real photographs, a folder a class."""
    rng = np.random.default_rng(0)
    found = {}
    for name, picture in zip(("china", "flower"), load_sample_images().images):
        found[name] = []
        (folder / name).mkdir(parents=True)
        for place in range(count):
            side = int(rng.integers(40, 72))
            top, left = int(rng.integers(0, 427 - side)), int(rng.integers(0, 640 - side))
            path = folder / name / f"{place:03d}.{'jpg' if place % 3 else 'png'}"
            Image.fromarray(picture[top : top + side, left : left + side]).save(path)
            found[name].append(path)
    return found


def own_images(source: dict[str, Any]) -> dict[str, Any]:
    return {
        "fetch.photos": source,
        "fetch.patches": None,
        "dataset": "photos",
        "ood.sets": {"digits": "far"},
        "transfer.targets": ["digits"],
        "pretrain.channels": 3,
        "pretrain.batch_size": 32,
        "lowshot.per_class": [2],
    }


def test_a_folder_of_images_runs_the_whole_graph_by_params_alone(tmp_path):
    photographs(tmp_path / "my photos", 40)
    folder = clone(tmp_path / "clone", own_images({"source": "folder", "path": str(tmp_path / "my photos")}))
    command(folder, "-m", "dvc", "repro")
    metrics = json.loads((folder / "metrics/linear.json").read_text())
    assert metrics["trained"]["n"] == 16
    assert "photos" in (folder / "results/report/index.html").read_text()


def test_unlabelled_images_are_enough_to_pretrain(tmp_path):
    flat = tmp_path / "unlabelled"
    flat.mkdir()
    for kind, paths in photographs(tmp_path / "photos", 30).items():
        for path in paths:
            path.rename(flat / f"{kind}-{path.name}")
    source = {"source": "folder", "path": str(flat), "val_fraction": 0.0}
    folder = clone(tmp_path / "clone", own_images(source))
    assert "48 images of train" in command(folder, "-m", "dvc", "repro", "pretrain")
    assert "knn_accuracy" not in json.loads((folder / "metrics/pretrain.json").read_text())
    output = command(folder, "-m", "dvc", "repro", "linear", expect=255)
    assert "have no label" in output and "Traceback" not in output


def test_parquet_files_run_up_to_the_probe_by_params_alone(tmp_path):
    rows = [
        ({"bytes": path.read_bytes(), "path": path.name}, label)
        for label, paths in enumerate(photographs(tmp_path / "photos", 40).values())
        for path in paths
    ]
    columns = {"img": [image for image, _ in rows], "kind": [label for _, label in rows]}
    pq.write_table(pa.table(columns), tmp_path / "train.parquet")
    source = {"source": "parquet", "files": {"train": str(tmp_path / "train.parquet")}, "image": "img", "label": "kind"}
    folder = clone(tmp_path / "clone", own_images(source))
    command(folder, "-m", "dvc", "repro", "linear", "knn")
    assert json.loads((folder / "metrics/linear.json").read_text())["trained"]["n"] == 16


def test_two_processes_train_one_model(finished, tmp_path):
    shutil.copytree(finished / "data", tmp_path / "data")
    for name in ("prosmin", "stages"):
        shutil.copytree(finished / name, tmp_path / name)
    shutil.copy(finished / "params.yaml", tmp_path)
    output = command(
        tmp_path, "-m", "stages.pretrain", environment={"PROSMIN_PROCESSES": "2", "CUDA_VISIBLE_DEVICES": ""}
    )
    assert "2 process(es)" in output
    two, one = (json.loads((folder / "metrics/pretrain.json").read_text()) for folder in (tmp_path, finished))
    assert (two["steps"], two["images"]) == (one["steps"], one["images"])
    # Each process draws views of its own, so the runs agree only roughly.
    assert two["loss"] == pytest.approx(one["loss"], rel=0.2)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_pretraining_leaves_the_old_model_whole(finished, tmp_path, number):
    for name in ("data", "prosmin", "stages", "results/pretrain", "metrics"):
        shutil.copytree(finished / name, tmp_path / name)
    shutil.copy(finished / "params.yaml", tmp_path)
    edit(tmp_path, {"pretrain.epochs": 100_000})
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.pretrain"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    for line in process.stderr:
        if "process(es)" in line:
            break
    time.sleep(1)
    os.killpg(process.pid, number)
    rest = process.communicate(timeout=60)[1]
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    assert "Traceback" not in rest
    left = filecmp.dircmp(finished / "results/pretrain", tmp_path / "results/pretrain")
    assert not (left.left_only or left.right_only or left.diff_files)
    assert (tmp_path / "metrics/pretrain.json").read_bytes() == (finished / "metrics/pretrain.json").read_bytes()
    assert not list(tmp_path.rglob(".*.part"))


@pytest.mark.parametrize("module", ["linear", "embed"])
def test_a_stage_without_its_inputs_says_which_stage_makes_them(tmp_path, module):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    arguments = ["digits"] if module == "embed" else []
    output = command(tmp_path, "-m", f"stages.{module}", *arguments, environment={"PYTHONPATH": str(ROOT)}, expect=2)
    assert output.startswith("error: ") and len(output.splitlines()) == 1 and "stages." in output
