"""Clones of this checkout with the real graph at tiny size, and what a run of DVC in them said."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from sklearn.datasets import load_sample_images

from stages.common import declared, proof

ROOT = Path(__file__).parents[2]
TINY = {
    "fetch.digits.limit": {"train": 200, "val": 60, "test": 80},
    "fetch.patches": None,
    "fetch.digits_halves": None,
    "fetch.digits_rotated": None,
    "fetch.digits_inverted": None,
    "dataset": "photos",  # images of one's own, of which ``on_photos`` says where they are
    "ood.sets": {"digits": "far"},
    "transfer.targets": ["digits"],
    "pretrain.channels": 3,
    "pretrain.epochs": 2,
    "pretrain.batch_size": 32,
    "pretrain.encoder.kwargs": {
        "layers": [1, 1, 1, 1],
        "channels": [8, 8, 8, 8],
        "zero_init_last": False,
    },
    "lowshot.per_class": [1, 2],
    "finetune.epochs": 1,
    "finetune.scratch_epochs": [],
    "finetune.steps": 2,
    "finetune.per_class": [1],
    "finetune.bootstrap": 100,
    "lowshot.percent": [10],
    "corrupt.types": ["gaussian_noise", "contrast"],
    "corrupt.severities": [1, 5],
    "linear.bootstrap": 100,
    "calibrate.severities": [5],
    "calibrate.bootstrap": 100,
    "knn.bootstrap": 100,
    "corrupt.bootstrap": 100,
    "ood.bootstrap": 100,
    "transfer.bootstrap": 100,
    "prediction.bootstrap": 100,
    "prediction.views": 2,
    "uncertainty.datasets": ["photos", "digits"],
    "uncertainty.head": {"images": 50, "epochs": 1},
    "uncertainty.bootstrap": 100,
    "audit.datasets": ["photos", "digits"],
    "audit.images": 30,
    "audit.bootstrap": 100,
}


def on_photos(photos: Path) -> dict[str, Any]:
    """A small graph on the images in ``photos``."""
    return TINY | {"fetch.photos": {"source": "folder", "path": str(photos)}}


def command(
    folder: Path, *arguments: str, environment: dict[str, str] | None = None, expect: int | None = 0
) -> str:
    """Run Python in ``folder`` with the tools of this interpreter; returns its output."""
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


def clone(folder: Path, changes: dict[str, Any], files: Mapping[str, str] = {}) -> Path:
    """A new repository with the files of this working tree and ``changes`` of its params.

    files: more files, or others in the place of those of the tree.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file() and not name.startswith(
            ("tests/", "docs/", "metrics/", "plots/", "dvc.lock", "summary.json")
        ):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    edit(folder, changes)
    for name, text in files.items():
        (folder / name).write_text(text)
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for arguments in (
        ["init", "-q", "-b", "main"],
        ["add", "-A"],
        [*identity, "commit", "-q", "-m", "tiny"],
    ):
        subprocess.run(["git", *arguments], cwd=folder, check=True)
    return folder


TWO_STAGES = """
stages:
  fetch: {cmd: mkdir -p data && echo pixels > data/photos, outs: [data/photos]}
  report:
    cmd: mkdir -p results && cat data/photos params.yaml > results/report
    params: [knn.k]
    deps: [data/photos]
    outs: [results/report]
"""


def two_stages(folder: Path) -> None:
    """Make a repository of git and DVC with the graph ``TWO_STAGES``, not committed."""
    ignored = shutil.ignore_patterns("cache", "tmp", "config.local")
    shutil.copytree(ROOT / ".dvc", folder / ".dvc", ignore=ignored)
    subprocess.run(["git", "init", "--quiet", "-b", "main", folder], check=True)
    shutil.copy(ROOT / "params.yaml", folder)
    (folder / "dvc.yaml").write_text(TWO_STAGES)
    (folder / ".gitignore").write_text("/results/\n/data/\n/.prosmin/\n")


def ran(output: str) -> set[str]:
    """The stages that DVC says it ran (not those it skipped or took from the run cache)."""
    return {
        line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage '")
    }


def commit(folder: Path) -> None:
    subprocess.run(["git", "add", "-A"], cwd=folder, check=True)
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", *identity, "commit", "-q", "-m", "results"], cwd=folder, check=True)


def photographs(folder: Path, count: int) -> dict[str, list[Path]]:
    """JPEG and PNG files of assorted sizes cut from two real photographs, a folder a class."""
    rng = np.random.default_rng(0)
    pictures = {}
    for name, picture in zip(("china", "flower"), load_sample_images().images):
        pictures[name] = []
        (folder / name).mkdir(parents=True)
        for place in range(count):
            side = int(rng.integers(40, 72))
            top, left = int(rng.integers(0, 427 - side)), int(rng.integers(0, 640 - side))
            path = folder / name / f"{place:03d}.{'jpg' if place % 3 else 'png'}"
            Image.fromarray(picture[top : top + side, left : left + side]).save(path)
            pictures[name].append(path)
    return pictures


def noted() -> Iterator[tuple[str, dict]]:
    """Entries of dvc.lock as if every stage had just run."""

    def sums(paths):
        for path in paths:
            if Path(path).is_dir():
                files = {file: proof.digest(file, "md5") for file in proof.below(path)}
                yield {"path": path, "md5": proof.folder_digest(path, files)}
            else:
                yield {
                    "path": path,
                    "md5": proof.digest(path, "md5") if Path(path).exists() else "0",
                }

    params = declared.sections(declared.PARAMS)
    for name, stage in declared.graph(params).items():
        values = (
            params
            if "" in stage.params
            else {key: declared.value(params, key) for key in stage.params}
        )
        entry = {"cmd": stage.command, "params": {"params.yaml": values}}
        yield name, entry | {kind: list(sums(getattr(stage, kind))) for kind in ("deps", "outs")}
