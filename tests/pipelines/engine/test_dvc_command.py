"""DVC whose method for ``dvc.lock`` is replaced leaves the bytes that DVC leaves."""

import subprocess
import sys

import pytest

from pipelines.engine import dvc_command
from pipelines.graph import dvc
from tests.pipelines.flows.test_graph_flow import CHANGES, FORCED, set_param
from tests.pipelines.projects import Project

LONG = "a value that is longer than the eighty columns of a line of YAML, so that it is folded"
ODD = f"""
  odd:
    cmd: python -c "open('results/odd é', 'w').write('{LONG}')"
    wdir: .
    params: [seed, knn, "pretrain.encoder"]
    outs: ["results/odd é"]
  nothing: {{cmd: python -c pass, always_changed: true}}
  alias:
    foreach: [one, other]
    do:
      cmd: python -c "open('results/alias-${{item}}', 'w').write('${{item}}')"
      params: [same, again]
      outs: ["results/alias-${{item}}"]
"""


@pytest.mark.integration
@pytest.mark.timeout(200)
def test_it_leaves_what_dvc_leaves(tmp_path):
    left = []
    for name, words in {
        "plain": ["dvc", "repro"],
        "quick": ["pipelines.engine.dvc_command", dvc_command.QUICK, "repro"],
    }.items():
        project = Project(tmp_path / name / "a project", {})
        with open(project.folder / "dvc.yaml", "a") as graph:
            graph.write(ODD)
        with open(project.folder / "params.yaml", "a") as params:
            params.write("same: &same {a: [1, 2]}\nagain: *same\n")
        left.append([])
        for change, force in zip(CHANGES, FORCED, strict=True):
            set_param(project.folder, *change)
            project.run(*words, *force)
            left[-1].append(project.left())
        assert b"odd" in left[-1][0]["dvc.lock"]
    assert left[0] == left[1]


@pytest.fixture
def replaced(monkeypatch):
    """Whether the command would replace the method of DVC."""
    calls = []
    monkeypatch.setattr(dvc_command, "replace_lock_writer", lambda: calls.append(True))
    monkeypatch.setattr("dvc.cli.main", lambda arguments: calls.append(arguments))
    return calls


def test_only_the_word_for_it_replaces_the_method(replaced):
    dvc_command.main(["repro", "--quiet"])
    assert replaced == [["repro", "--quiet"]]
    dvc_command.main([dvc_command.QUICK, "repro"])
    assert replaced[1:] == [True, ["repro"]]


def test_with_another_dvc_nothing_is_replaced(replaced, monkeypatch):
    monkeypatch.setattr(dvc, "VERSION", "1.2.3")
    dvc_command.main([dvc_command.QUICK, "repro"])
    assert replaced == [["repro"]]
    assert "not 1.2.3: DVC itself writes dvc.lock" in dvc_command.different_version()


def test_a_progress_bar_that_was_interrupted_while_it_was_made_says_nothing():
    code = """
import dvc.cli
from dvc.progress import Tqdm
from pipelines.engine import dvc_command

def interrupted(arguments):
    Tqdm.__new__(Tqdm)  # never initialised; its destructor fails
    return 255

dvc.cli.main = interrupted
raise SystemExit(dvc_command.main([]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (255, "", "")
