"""A disk without room is named, also where only one folder of outputs lies on it."""

import os
import subprocess
from pathlib import Path

import pytest

from pipelines.graph import workspace


@pytest.fixture
def small_disk(tmp_path, monkeypatch):
    """A disk of its own for metrics/, with inodes for its root and two files."""
    monkeypatch.chdir(tmp_path)
    Path("metrics").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "nr_inodes=3", "tmpfs", "metrics"]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small disk, where the system allows it")
    yield tmp_path / "metrics"
    subprocess.run(["umount", tmp_path / "metrics"], check=True)


def test_a_disk_with_too_few_inodes_is_full(small_disk):
    assert workspace.disk_fault() == f"{small_disk} cannot be written to: No space left on device"


def test_a_disk_with_room_is_no_fault(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("metrics").mkdir()
    assert workspace.disk_fault() == ""
