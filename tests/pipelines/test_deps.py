"""The graph and the code agree: a stage lists the code that it imports, and no more."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipelines import deps
from stages.common import current
from stages.common.layout import SUMMARY
from tests.pipelines.clones import noted

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "dvc.yaml").read_text()
STAGES = yaml.safe_load(TEXT)["stages"]


def test_the_lists_of_the_graph_are_those_of_the_imports():
    assert deps.written(TEXT, ROOT) == TEXT


def test_writing_the_lists_changes_nothing_but_the_lists():
    emptied = re.sub(r"(?<=[\[ ])(?:prosmin|stages)/[\w./]+(?:, |,\n +|(?=\]))", "", TEXT)
    assert "prosmin/" not in emptied and deps.written(emptied, ROOT) == TEXT


def test_a_list_of_lines_becomes_a_list_in_brackets():
    lines = "    deps:\n      - data/${dataset}\n      - results/pretrain\n"
    start = TEXT.index('    deps: ["data/${dataset}"')
    end = TEXT.index("    outs: [results/pretrain")
    written = deps.written(TEXT[:start] + lines + TEXT[end:], ROOT)
    listed = yaml.safe_load(written)["stages"]["pretrain"]["deps"]
    assert listed == ["data/${dataset}", "results/pretrain", *STAGES["pretrain"]["deps"][1:]]
    assert '    deps: ["data/${dataset}", results/pretrain, prosmin/' in written


LOAD = """
import importlib, json, sys

def loaded(modules):
    for name in [name for name in sys.modules if name.startswith(("prosmin", "stages"))]:
        del sys.modules[name]
    for module in modules:
        importlib.import_module(module)
    return [name for name in sys.modules if name.startswith(("prosmin.", "stages."))]

plumbing, stages = map(json.loads, sys.argv[1:])
print(json.dumps({stage: loaded([f"stages.{stage}"]) for stage in stages}))
print(json.dumps(loaded(plumbing)))
"""


def test_a_stage_lists_every_module_that_python_loads_for_it():
    """The oracle is Python: the modules that are there when the stage has been imported.

    Modules that the plumbing loads are left out, such as the types of all settings.
    """
    command = [sys.executable, "-c", LOAD, json.dumps(sorted(deps.PLUMBING)), json.dumps([*STAGES])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    by_stage, plumbing = map(json.loads, done.stdout.splitlines())
    for stage, names in by_stage.items():
        listed = STAGES[stage].get("do", STAGES[stage])["deps"]
        for name in set(names) - set(plumbing):
            path = ROOT / name.replace(".", "/")
            file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
            if ast.parse(file.read_text()).body[1:]:  # more than a docstring
                relative = file.relative_to(ROOT)
                assert any(relative.is_relative_to(path) for path in listed), (stage, name)


def test_every_file_of_plumbing_exists():
    for name in deps.PLUMBING:
        path = ROOT / name.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file(), name


SECTION = {"detectors": "ood"}  # of stages whose settings are those of another stage


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_name_of_a_stage_is_its_module_its_section_and_its_folders(stage):
    definition = STAGES[stage].get("do", STAGES[stage])
    assert definition["cmd"].split()[:3] == ["python", "-m", f"stages.{stage}"]
    assert SECTION.get(stage, stage) in yaml.safe_load((ROOT / "params.yaml").read_text())
    written = [
        next(iter(out)) if isinstance(out, dict) else out
        for key in ("outs", "metrics", "plots")
        for out in definition.get(key, [])
    ]
    for path in written:
        parts = Path(path).parts
        of_fetch = parts[0] == "data" and stage == "fetch"
        assert of_fetch or path == str(SUMMARY) or Path(parts[1]).stem == stage, path


def test_git_keeps_metrics_and_plots_and_dvc_shows_the_summary_alone():
    for name, stage in STAGES.items():
        body = stage.get("do", stage)
        for kind in ("outs", "metrics", "plots"):
            for out in body.get(kind, []):
                path = out if isinstance(out, str) else next(iter(out))
                by_git = isinstance(out, dict) and out[path]["cache"] is False
                assert by_git == path.startswith(("metrics/", "plots/", str(SUMMARY))), name
                assert (kind == "metrics") == (path == str(SUMMARY)), name


@pytest.fixture
def clone(tmp_path, monkeypatch) -> Path:
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file() and not name.startswith(("docs/", "tests/")):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    Path("dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": dict(noted())}))
    for arguments in (
        ["init", "-q"],
        ["add", "-A"],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a"],
    ):
        subprocess.run(["git", *arguments], check=True)
    assert not executed()
    return tmp_path


def executed() -> set[str]:
    return {name for name, reasons in current.reasons().items() if reasons}


def append(path: str) -> None:
    with open(path, "a") as file:
        file.write("\n# a comment\n")


def test_a_comment_in_an_evaluation_re_runs_no_pretraining(clone):
    for path in Path("prosmin/evaluation").glob("*.py"):
        append(str(path))
    assert "linear" in executed() and not executed() & {"pretrain", "fetch@digits"}


def test_a_compiled_module_re_runs_nothing(clone):
    for folder in ("prosmin/models", "stages/report"):
        compiled = Path(folder, "__pycache__/other.cpython-311.pyc")
        compiled.parent.mkdir(exist_ok=True)
        compiled.write_bytes(os.urandom(8))
    assert not executed()


def test_a_list_that_differs_is_refused_and_written(clone):
    Path("dvc.yaml").write_text(TEXT.replace("prosmin/fetching, ", "", 1))
    command = [sys.executable, "-m", "pipelines.deps"]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 1 and refused.stderr.startswith(
        "error: dvc.yaml lists other code than its stages import"
    )
    assert refused.stdout == "dvc.yaml: fetch lacks prosmin/fetching\n"
    assert subprocess.run([*command, "--write"], check=False).returncode == 0
    assert Path("dvc.yaml").read_text() == TEXT
