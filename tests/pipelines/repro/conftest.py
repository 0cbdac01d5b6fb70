"""A project of two stages, set up for DVC as this one is."""

import shutil
import subprocess

import pytest

from tests.pipelines.projects import ROOT
from tests.pipelines.repro.started import WORKS


@pytest.fixture
def project(tmp_path):
    """A git repository, its path with a blank in it, set up for DVC as this one is."""
    folder = tmp_path / "a project"
    shutil.copytree(
        ROOT / ".dvc",
        folder / ".dvc",
        ignore=shutil.ignore_patterns("cache", "tmp", "config.local"),
    )
    subprocess.run(["git", "init", "--quiet", folder], check=True)
    (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (folder / "dvc.yaml").write_text(
        "stages:\n"
        "  one: {cmd: python one.py, deps: [one.py], outs: [results/report]}\n"
        "  two: {cmd: python two.py, deps: [two.py]}\n"
    )
    (folder / "one.py").write_text(WORKS)
    (folder / "two.py").write_text("print('two ran')\n")
    return folder
