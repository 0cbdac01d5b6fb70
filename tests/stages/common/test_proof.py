"""A damaged file is told before it is used, whichever way it came into the folder, and the mend
that is named mends it."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from prosmin.common import files
from prosmin.common.errors import UserError
from stages.common import proof
from tests.stages.conftest import ROOT, moved_to_copy, project

GRAPH = """
stages:
  linear:
    cmd: python linear.py
    params: [linear]
    outs: [results/linear]
    metrics: [metrics/linear.json: {cache: false}]
  knn: {cmd: python knn.py, params: [knn], deps: [results/linear, metrics], outs: [results/knn]}
"""
MAKE = """
from stages.common.command import run
from prosmin.common import files

def main(params):
    with files.whole_folder("results/NAME") as folder:
        files.write_text(folder / "weights", "weights of " + str(params.NAME.bootstrap))
    if "NAME" == "linear":
        files.write_json("metrics/linear.json", {"accuracy": 0.5})

run("NAME", main)
"""


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True
    )


def flip(path: Path) -> None:
    """A bit, with the mode and the time of the file as they were."""
    before, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(before.st_mode)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder in which DVC has run both stages."""
    folder = project(tmp_path_factory.mktemp("made") / "a project")
    (folder / "dvc.yaml").write_text(GRAPH)
    for name in ("linear", "knn"):
        (folder / f"{name}.py").write_text(MAKE.replace("NAME", name))
    done = run(folder, "-m", "dvc", "repro")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def folder(made, tmp_path, monkeypatch) -> Path:
    return moved_to_copy(made, tmp_path, monkeypatch)


def copy_of(folder: Path, content: bytes) -> Path:
    """The object of the cache with this content."""
    return next(
        path
        for path in (folder / ".dvc/cache/files").rglob("*")
        if path.is_file() and path.read_bytes() == content
    )


@pytest.mark.integration
def test_a_bit_that_flips_in_the_cache_is_told_before_it_is_used_and_the_mend_mends(folder):
    whole = Path("results/linear/weights").read_bytes()
    rotten = copy_of(folder, whole)
    flip(rotten)
    shutil.rmtree("results")
    done = run(folder, "-m", "dvc", "repro", "--force", "-s", "knn")
    assert done.returncode  # it is not there at all
    run(folder, "-m", "dvc", "repro", "linear")
    assert (
        Path("results/linear/weights").read_bytes() != whole
    )  # as DVC restores it, and takes it for right
    for command in (("-m", "dvc", "repro", "--force", "-s", "knn"), ("knn.py",)):
        done = run(folder, *command)
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert done.returncode and line.startswith(
            "error: results/linear/weights is damaged, and so is DVC's copy of it: "
        )
    assert str(rotten.relative_to(folder)) in line and not Path("results/knn").exists()
    mend = line.split("`")[1]
    assert shlex.split(mend)[:2] == ["rm", "-f"]
    subprocess.run(mend, shell=True, cwd=folder, check=True)
    assert run(folder, "-m", "dvc", "repro").returncode == 0
    assert (
        Path("results/linear/weights").read_bytes() == whole
        and Path("results/knn/weights").exists()
    )


def damaged(*paths: str) -> list[str]:
    return list(proof.faults(paths or ("results/linear", "metrics")))


def test_each_file_is_looked_at_again_when_it_has_changed_and_only_then(folder, monkeypatch):
    assert damaged() == []
    with monkeypatch.context() as patch:
        patch.setattr(proof, "digest", lambda *_: pytest.fail("a file that is known was read"))
        assert damaged() == []
    for path in map(Path, ("results/linear/weights", "metrics/linear.json")):
        whole = path.read_bytes()
        path.write_bytes(whole[:-1])
        (said,) = damaged()
        assert said == (
            f"{path} is damaged: it is not what the stage that makes "
            f"{path if path.suffix else path.parent} has written; "
            f"`rm -f {path}` and run again with `dvc repro`, which restores it or makes it anew"
        )
        path.write_bytes(whole)
        assert damaged() == []


@pytest.mark.parametrize("list_of_files", ["gone", "damaged"])
def test_without_dvcs_list_the_folder_is_told_as_a_whole(folder, list_of_files):
    (path,) = [
        path
        for path in (folder / ".dvc/cache/files").rglob("*.dir")
        if b"weights" in path.read_bytes()
    ][:1]
    for path in (folder / ".dvc/cache/files").rglob("*.dir"):
        flip(path) if list_of_files == "damaged" else path.unlink()
    shutil.rmtree(proof.NOTES)
    assert damaged() == []
    Path("results/linear/weights").write_text("others")
    (said,) = damaged()
    assert said.startswith("results/linear is damaged") and "`rm -rf results/linear" in said


def test_what_a_stage_has_written_by_hand_is_its_own_though_the_lock_has_another(folder):
    text = Path("params.yaml").read_text()
    assert text.count("bootstrap: 1000") > 1
    Path("params.yaml").write_text(text.replace("bootstrap: 1000", "bootstrap: 777"))
    assert run(folder, "linear.py").returncode == 0
    assert Path("results/linear/weights").read_text() == "weights of 777"
    done = run(folder, "knn.py")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_cache_is_where_the_settings_say(folder):
    os.rename(".dvc/cache", "kept")
    Path(".dvc/config.local").write_text(
        "[cache]\n    dir = ../kept\n['remote \"x\"']\n    url = y\n"
    )
    assert proof.listing("results/linear", next_md5("results/linear")) is not None


def next_md5(path: str) -> str:
    from stages.common import declared

    return next(
        out["md5"]
        for entry in declared.locked().values()
        for out in entry["outs"]
        if out["path"] == path
    )


def test_a_dataset_without_a_lock_is_held_against_its_manifest(tmp_path, monkeypatch):
    import hashlib

    monkeypatch.chdir(tmp_path)
    Path("data/pets").mkdir(parents=True)
    Path("data/pets/train.arrow").write_bytes(b"rows")
    digest = hashlib.sha256(b"rows").hexdigest()
    files.write_json("data/pets/manifest.json", {"splits": {"train": {"sha256": digest}}})
    proof.check(["data/pets", "stages/fetch.py"])
    assert [path.name for path in proof.NOTES.iterdir()] == ["data+pets.json"]
    Path("data/pets/train.arrow").write_bytes(b"rowt")
    with pytest.raises(
        UserError,
        match="^data/pets/train.arrow is damaged: it is not what the stage that makes data/pets",
    ):
        proof.check(["data/pets"])


@pytest.mark.parametrize("place", [20, -1, -20])
def test_arrays_carry_a_checksum_of_all_that_is_in_their_file(tmp_path, place):
    from safetensors import SafetensorError

    path = tmp_path / "x.safetensors"
    arrays = {
        "a": np.arange(12, dtype=np.float32).reshape(3, 4),
        "b": np.float32(3),
        "none": np.zeros((1, 0)),
    }
    files.write_arrays(path, arrays, {"fact": "text"})
    for name, array in files.read_arrays(path).items():
        np.testing.assert_array_equal(array, arrays[name])
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises((UserError, SafetensorError)) as error:
        files.read_arrays(path)
    assert place == 20 or str(error.value) == (
        f"{path} is damaged: its content does not match its checksum; remove it and make it again"
    )
