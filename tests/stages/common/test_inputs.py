"""A stage whose params, code or data are changed while it runs fails, by hand, by ``dvc repro`` and
by ``make repro``."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from prosmin.common.files import read_json
from stages.common import inputs
from tests.stages.conftest import ROOT, project

GRAPH = """
stages:
  linear:
    cmd: python linear.py
    params: [seed, linear]
    deps: [linear.py, used.py, data/large]
    outs: [results/linear]
    metrics: [metrics/linear.json: {cache: false}]
"""
STAGE = """
import os, shutil
from pathlib import Path
from stages.common.command import run

def main(params):
    for path in ("results/linear", "metrics/linear.json"):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(str(params.linear.bootstrap))
    if os.environ.get("EDIT"):
        shutil.copy("edited", os.environ["EDIT"])

run("linear", main)
"""
# The edit comes when the stage has looked at its inputs for the last time, before DVC looks.
LATE = STAGE.replace(
    '    if os.environ.get("EDIT"):\n        shutil.copy("edited", os.environ["EDIT"])\n',
    '    if os.environ.get("EDIT"):\n'
    '        atexit.register(shutil.copy, "edited", os.environ["EDIT"])\n',
).replace("import os, ", "import atexit, os, ")


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = project(tmp_path / "a project")
    for name, text in {"dvc.yaml": GRAPH, "linear.py": STAGE, "used.py": "1"}.items():
        (folder / name).write_text(text)
    (folder / "data").mkdir()
    (folder / "data/large").write_bytes(bytes(2 * inputs.SMALL))
    return folder


def run(folder: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), **variables}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True
    )


def edit(folder: Path, *keys: str, to: object) -> None:
    """Leave in ``edited`` the file params.yaml with another value."""
    content = yaml.safe_load((folder / "params.yaml").read_text())
    section = content
    for key in keys[:-1]:
        section = section[key]
    section[keys[-1]] = to
    (folder / "edited").write_text(yaml.safe_dump(content, sort_keys=False))


SAID = "params.yaml: linear.bootstrap was 1000 when linear read it and is 500 now"


@pytest.mark.integration
@pytest.mark.parametrize(
    ("code", "module", "said"),
    [
        (STAGE, "dvc", f"error: {SAID}; its results are removed; run it again\n"),
        (STAGE, "pipelines.repro", f"error: {SAID}; its results are removed; run it again\n"),
        (LATE, "pipelines.repro", f"error: {SAID}; its results are not noted, run it again\n"),
    ],
)
def test_params_that_are_edited_while_a_stage_runs_are_not_noted(folder, code, module, said):
    (folder / "linear.py").write_text(code)
    edit(folder, "linear", "bootstrap", to=500)
    words = ["dvc", "repro"] if module == "dvc" else [module]
    done = run(folder, "-m", *words, EDIT="params.yaml")
    assert done.returncode and said in done.stderr and "Traceback" not in done.stderr
    assert not (folder / "dvc.lock").exists()
    again = run(folder, "-m", "dvc", "repro")
    assert again.returncode == 0 and "Running stage 'linear'" in again.stdout, again.stderr
    assert "bootstrap: 500" in (folder / "dvc.lock").read_text()
    assert (folder / "metrics/linear.json").read_text() == "500"


@pytest.mark.integration
def test_code_that_is_edited_before_dvc_looks_at_it_is_not_noted(folder):
    (folder / "linear.py").write_text(LATE)
    (folder / "edited").write_text("2")
    done = run(folder, "-m", "pipelines.repro", EDIT="used.py")
    said = "used.py has changed since linear read it; its results are not noted, run it again\n"
    assert done.returncode == 1 and f"error: {said}" in done.stderr, done.stderr
    assert not (folder / "dvc.lock").exists()


def test_by_hand_it_is_a_sentence_and_what_was_made_is_removed(folder):
    edit(folder, "linear", "bootstrap", to=500)
    done = run(folder, "linear.py", EDIT="params.yaml")
    assert (done.returncode, done.stderr) == (
        2,
        f"error: {SAID}; its results are removed; run it again\n",
    )
    assert (
        not (folder / "metrics/linear.json").exists() and not (folder / "results/linear").exists()
    )
    done = run(folder, "linear.py")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_note_of_a_stage_has_its_seconds_and_its_memory(folder):
    assert run(folder, "linear.py").returncode == 0
    note = read_json(folder / ".prosmin/read/linear.json")
    assert note["stage"] == "linear" and note["seconds"] >= 0
    if sys.platform == "linux":
        assert 2**20 < note["memory"] < 2**30


def test_a_variable_that_a_launcher_left_changes_nothing_for_a_stage_that_is_one_process(folder):
    assert run(folder, "linear.py", RANK="1").returncode == 0
    assert list((folder / ".prosmin/intact").iterdir())
    edit(folder, "linear", "bootstrap", to=500)
    assert run(folder, "linear.py", EDIT="params.yaml", RANK="1").returncode == 2
    assert not (folder / "metrics/linear.json").exists()


def test_another_stages_keys_may_be_edited(folder):
    edit(folder, "knn", "bootstrap", to=500)
    assert run(folder, "linear.py", EDIT="params.yaml").returncode == 0
    assert (folder / "metrics/linear.json").read_text() == "1000"


@pytest.fixture
def now(folder, monkeypatch):
    """Whether the inputs are what they were when this was called first, and what is said if not."""
    monkeypatch.chdir(folder)
    return inputs.look("linear").changed


def test_code_and_data_may_be_written_anew_but_not_changed(now):
    assert now() == ""
    Path("used.py").write_text("1")
    os.utime("used.py", (1, 1))
    assert now() == ""
    Path("used.py").write_text("2")
    assert now() == "used.py has changed since linear read it"
    Path("used.py").unlink()
    assert now() == "used.py has changed since linear read it"


def test_a_large_file_is_told_by_its_time(now):
    time.sleep(0.01)
    with open("data/large", "r+b") as handle:
        handle.write(b"\1")
    assert now() == "data/large has changed since linear read it"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("linear: [", "params.yaml is not valid YAML"),
        (None, "params.yaml does not exist"),
        ("seed: 0", "params.yaml: linear was {'l2': .* when linear read it and is null now"),
    ],
)
def test_a_file_of_params_that_is_none_any_more_is_a_change(now, text, said):
    import re

    Path("params.yaml").unlink() if text is None else Path("params.yaml").write_text(text)
    assert re.match(said, now())


def test_a_file_that_comes_into_a_folder_is_a_change_and_one_half_written_is_none(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("seed: 0\n")
    Path("dvc.yaml").write_text("stages: {total: {cmd: x, deps: [metrics], outs: [y]}}")
    Path("metrics/ood").mkdir(parents=True)
    before = inputs.look("total")
    Path("metrics/ood/.a.json.7.part").write_text("half")
    assert before.changed() == ""
    Path("metrics/ood/a.json").write_text("{}")
    assert before.changed() == "metrics/ood/a.json has changed since total read it"
    assert inputs.look("other") is None
