"""When ``make`` makes ``.venv`` anew."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from pipelines import environment
from tests.pipelines.environment.conftest import PYTHON, VERSION


def test_an_environment_is_made_once_and_again_only_when_it_must(machine):
    machine.link("python3", PYTHON)
    machine.offers(
        machine.wheel("uv"), machine.wheel("hello")
    )  # a uv without its program: pip takes over
    first = machine.make()
    assert first.returncode == 0, first.stderr
    assert f"Making .venv with Python {VERSION} (python3)" in first.stdout
    assert "installing with pip" in first.stdout
    python = machine.checkout / ".venv" / "bin" / "python"
    subprocess.run([python, "-c", "import hello"], check=True)

    shutil.rmtree(machine.wheels)  # from here on nothing could be installed
    second = machine.make()
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")

    # From the activated environment, the Python behind it is taken, not the one to be replaced.
    machine.variables["PATH"] = f"{python.parent}{os.pathsep}{machine.commands}"
    assert machine.make().stdout == ""
    (machine.checkout / ".venv" / "complete").unlink()  # as an interrupted installation leaves it
    assert "Making .venv" in machine.make().stdout


def test_an_interrupted_installation_says_so_and_is_not_taken_for_a_finished_one(machine):
    machine.offers(machine.wheel("uv"))
    process = subprocess.Popen(
        [PYTHON, "-I", "pipelines/environment.py"],
        cwd=machine.checkout,
        env=machine.variables | {"PATH": f"{machine.commands}{os.pathsep}{Path(PYTHON).parent}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout.readline().startswith("Making .venv")
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "interrupted; the next call starts the installation again"
    assert not (machine.checkout / ".venv" / "complete").exists()


def look_at(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, path in {
        "ROOT": "",
        "LOCK": "requirements.lock",
        "VENV": ".venv",
        "STAMP": ".venv/complete",
    }.items():
        monkeypatch.setattr(environment, name, str(folder / path))


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """A folder that the module looks at, whose environment is complete."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "requirements.lock").write_text("uv==1.0\n")
    subprocess.run([PYTHON, "-m", "venv", "--without-pip", folder / ".venv"], check=True)
    look_at(folder, monkeypatch)
    (folder / ".venv" / "complete").write_text(environment.signature())
    assert environment.complete(None)
    return folder


def test_a_changed_lock_makes_it_anew(finished):
    (finished / "requirements.lock").write_text("uv==1.1\n")
    assert not environment.complete(None)


def test_a_moved_checkout_makes_it_anew(finished, monkeypatch):
    """The scripts in .venv/bin name the folder that they were installed in."""
    moved = finished.rename(finished.with_name("elsewhere"))
    look_at(moved, monkeypatch)
    assert not environment.complete(None)


def test_a_python_that_was_removed_or_replaced_makes_it_anew(finished):
    python = finished / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to(finished / "nowhere")
    assert not environment.complete(None)
    stamp = finished / ".venv" / "complete"
    python.unlink()
    python.symlink_to(PYTHON)
    assert environment.complete(None)
    stamp.write_text(stamp.read_text().replace(VERSION, "3.11.0"))
    assert not environment.complete(None)


def test_asking_for_another_python_makes_it_anew(finished, machine, monkeypatch):
    machine.disguised("other", (3, 12, 99))
    monkeypatch.setenv("PATH", str(machine.commands))
    assert not environment.complete("other")
    assert environment.complete(PYTHON)
