"""DVC over SSH: what a clone pushes, another pulls; and the words where it cannot."""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from dvc.cli import main

from tests.pipelines.clones import ROOT, command, commit, edit, ran, two_stages
from tests.pipelines.ssh_server import new_key, serving

pytest.importorskip("dvc_ssh", reason="dvc-ssh, for SSH remotes, is not installed")

PATHS = {"PYTHONPATH": str(ROOT)}


def dvc(folder: Path, *arguments: str) -> int:
    """The exit code of a command of DVC in this process, which has DVC loaded."""
    with contextlib.chdir(folder):
        return main([*arguments, "--quiet"])


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Iterator[Path]:
    """A home without settings for SSH, and no agent."""
    folder = tmp_path_factory.mktemp("home")
    (folder / ".ssh").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        patch.delenv("SSH_AUTH_SOCK", raising=False)
        yield folder


@pytest.fixture(scope="module")
def key(home) -> Path:
    return new_key(home / "key")


@pytest.fixture(scope="module")
def server(home, key, tmp_path_factory) -> Iterator[str]:
    """The address of a server that ``home`` knows."""
    with serving(tmp_path_factory.mktemp("served"), key) as (port, host_key):
        (home / ".ssh/known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}")
        yield f"ssh://ada@127.0.0.1:{port}/remote"


@pytest.fixture(scope="module")
def origin(server, key, tmp_path_factory) -> Path:
    """A project whose graph has run and whose results are on the server."""
    folder = tmp_path_factory.mktemp("origin") / "a project"
    two_stages(folder)
    assert dvc(folder, "remote", "add", "--default", "lab", server) == 0
    assert dvc(folder, "remote", "modify", "--local", "lab", "keyfile", str(key)) == 0
    assert dvc(folder, "repro") == 0 and dvc(folder, "push") == 0
    commit(folder)
    return folder


@pytest.fixture
def cloned(origin, key, tmp_path) -> Path:
    """A fresh clone of ``origin`` with the key."""
    folder = tmp_path / "a clone"
    subprocess.run(["git", "clone", "--quiet", origin, folder], check=True)
    use_key(folder, key)
    return folder


def use_key(folder: Path, key: Path) -> None:
    (folder / ".dvc/config.local").write_text(f"['remote \"lab\"']\n    keyfile = {key}\n")


def test_a_clone_pulls_what_it_names_and_runs_what_has_changed(origin, cloned):
    assert "keyfile" not in (cloned / ".dvc/config").read_text()
    assert dvc(cloned, "pull", "report") == 0
    assert (cloned / "results/report").read_bytes() == (origin / "results/report").read_bytes()
    assert not (cloned / "data").exists()
    assert dvc(cloned, "repro", "--pull", "--allow-missing") == 0
    assert not (cloned / "data").exists()  # nothing has changed, so nothing is needed
    edit(cloned, {"knn.k": [3]})
    said = command(cloned, "-m", "pipelines.repro", "--pull", "--allow-missing", environment=PATHS)
    assert ran(said) == {"report"} and "pixels" in (cloned / "results/report").read_text()


def test_what_cannot_be_pulled_is_one_error_and_nothing_is_run(origin, cloned, home):
    use_key(cloned, new_key(home / "another"))
    said = command(cloned, "-m", "pipelines.repro", "--pull", environment=PATHS, expect=255)
    assert "Permission denied for user ada" in error(said) and not ran(said)
    edit(cloned, {"knn.k": [3]})
    shutil.rmtree(cloned / ".dvc/cache", ignore_errors=True)
    assert dvc(cloned, "remote", "add", "--local", "--default", "empty", str(home / "empty")) == 0
    asked = ("-m", "pipelines.repro", "--pull", "--allow-missing")
    said = command(cloned, *asked, environment=PATHS, expect=255)
    assert "data/photos" in said and "report" in error(said) and not ran(said)
    said = command(cloned, "-m", "pipelines.repro", environment=PATHS)  # makes all of it anew
    assert ran(said) == {"fetch", "report"}


def error(said: str) -> str:
    """The only error in an output."""
    assert "Traceback" not in said
    lines = [line for line in said.splitlines() if line.lower().startswith("error: ")]
    assert len(lines) == 1, said
    return lines[0]
