"""A working folder with params.yaml and the embedded features of a real dataset."""

import copy
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from prosmin.common import files
from stages.params.load import Params, load

ROOT = Path(__file__).parents[2]
SPLITS = {"train": slice(0, 500), "val": slice(500, 650), "test": slice(650, 900)}


def project(folder: Path) -> Path:
    """A new folder with git, DVC as this checkout has it, and params.yaml; no stage."""
    ignored = shutil.ignore_patterns("cache", "tmp", "config.local")
    shutil.copytree(ROOT / ".dvc", folder / ".dvc", ignore=ignored)
    subprocess.run(["git", "init", "--quiet", folder], check=True)
    shutil.copy(ROOT / "params.yaml", folder)
    return folder


def moved_to_copy(made: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a folder, in which the test then works."""
    shutil.copytree(made, scratch / "a copy", symlinks=True)
    monkeypatch.chdir(scratch / "a copy")
    return scratch / "a copy"


class Workplace:
    """features: what stands in results/embed, by dataset and encoder; ``write`` puts it on disk."""

    def __init__(self, folder: Path):
        self.folder = folder
        pixels, labels = load_digits(return_X_y=True)
        order = np.random.default_rng(0).permutation(len(labels))
        pixels, labels = pixels[order].astype(np.float32), labels[order]
        # Few of the pixels are a weak encoder. The second dataset is "odd or even".
        self.features = {
            (dataset, encoder): {
                f"{split}.{what}": content[rows]
                for split, rows in SPLITS.items()
                for what, content in {
                    "features": pixels if encoder == "trained" else pixels[:, 18:24],
                    "labels": classes.astype(np.int64),
                    "log_sigma": np.zeros(len(labels), np.float32),
                    "digest": np.arange(len(labels), dtype=np.uint64) + offset,
                }.items()
            }
            for dataset, classes, offset in (("digits", labels, 0), ("patches", labels % 2, 10_000))
            for encoder in ("trained", "random")
        }

    def write(self) -> None:
        for (dataset, encoder), arrays in self.features.items():
            files.write_arrays(
                self.folder / f"results/embed/{dataset}/{encoder}.safetensors", arrays
            )

    def drop(self, split: str) -> None:
        for arrays in self.features.values():
            for name in [name for name in arrays if name.startswith(f"{split}.")]:
                del arrays[name]

    def unlabel(self) -> None:
        """Take the labels of digits away, and the probes that need them."""
        for encoder in ("trained", "random"):
            for split in SPLITS:
                self.features["digits", encoder][f"{split}.labels"][:] = -1
        for probe in (self.folder / "results/linear").iterdir():
            probe.unlink()
        self.write()

    def written(self) -> dict[str, bytes]:
        """All files but the inputs, by relative path."""
        paths = (path for path in self.folder.rglob("*") if path.is_file())
        named = {str(path.relative_to(self.folder)): path.read_bytes() for path in paths}
        inputs = ("params.yaml", "results/embed/")
        return {name: content for name, content in named.items() if not name.startswith(inputs)}

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A Python of its own, here."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, *arguments]
        return subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True
        )


@pytest.fixture
def ready(made, tmp_path, monkeypatch):
    """A copy of ``made``, the workplace of a module or a folder, to change; the current folder."""
    shutil.copytree(made.folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    place = Workplace(tmp_path)
    place.features = copy.deepcopy(made.features)
    return place


@pytest.fixture
def workplace(tmp_path, monkeypatch) -> Workplace:
    """The current directory, with features in place."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    place = Workplace(tmp_path)
    place.write()
    return place


@pytest.fixture
def params() -> Params:
    return load(ROOT / "params.yaml")
