"""Whose results belong to the settings as they stand is what DVC itself would find nothing to do
for."""

import re
import shutil
from pathlib import Path

import pytest
import yaml

from pipelines.graph import dag
from pipelines.plan import plan
from stages.common import current
from tests.pipelines.clones import command, ran
from tests.pipelines.projects import Project
from tests.stages.conftest import moved_to_copy

WHOLE = """
  whole:
    cmd: python work.py total
    params: [params.yaml: ]
    deps: [work.py, results/source]
    outs: [results/whole]
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    project = Project(tmp_path_factory.mktemp("made") / "a project", {})
    text = (project.folder / "dvc.yaml").read_text() + WHOLE.replace("work.py total", "more.py")
    (project.folder / "dvc.yaml").write_text(text)
    (project.folder / "more.py").write_text("open('results/whole', 'w').write('1')")
    project.run("dvc", "repro")
    return project.folder


@pytest.fixture
def folder(made, tmp_path, monkeypatch) -> Path:
    return moved_to_copy(made, tmp_path, monkeypatch)


def set_param(key: str, value: object) -> None:
    content = yaml.safe_load(Path("params.yaml").read_text())
    *sections, name = key.split(".")
    section = content
    for step in sections:
        section = section[step]
    section[name] = value
    Path("params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def append(path: str) -> None:
    with open(path, "a") as file:
        file.write("\n")


CHANGES = {
    "nothing": lambda: None,
    "comments": lambda: append("params.yaml"),
    "a number written otherwise": lambda: set_param(
        "linear.l2", [1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1, 1]
    ),
    "a setting above": lambda: set_param("pretrain.epochs", 7),
    "a setting of some": lambda: set_param("knn.k", [3]),
    "a setting that one reads of all": lambda: set_param("report.examples", 3),
    "code": lambda: append("work.py"),
    "a command": lambda: Path("dvc.yaml").write_text(
        Path("dvc.yaml").read_text().replace("work.py middle", "work.py  middle", 1)
    ),
    "a metric": lambda: append("metrics/leaf/two.json"),
    "a file beside the metrics": lambda: Path("metrics/other.json").write_text("{}"),
    "no lock": lambda: Path("dvc.lock").unlink(),
}


@pytest.mark.integration
@pytest.mark.parametrize("change", CHANGES)
def test_it_is_what_dvc_finds(folder, change):
    CHANGES[change]()
    whole, other = current.split()
    stages, done = dag.look()
    assert set(whole) == done and set(whole) | set(other) == set(stages)
    assert bool(other) == (change not in ("nothing", "comments", "a number written otherwise"))


@pytest.mark.integration
def test_a_clone_that_holds_no_results_has_metrics_that_belong_to_its_settings(folder):
    shutil.rmtree("results")
    assert current.stale() == set()
    set_param("pretrain.epochs", 7)
    assert {"metrics/leaf/two.json", "results/total"} <= current.stale()


def test_a_path_below_one_that_is_of_other_settings_is_so_too():
    assert not current.belongs("results/report/index.html", {"results/report"})
    assert not current.belongs("metrics/knn.json", {"metrics/knn.json"})
    assert current.belongs("results/report2/index.html", {"results/report"})


@pytest.mark.integration
def test_what_comes_from_the_cache_is_what_dvc_restores(folder):
    """A setting is changed and changed back, and a result is missing."""
    before = Path("params.yaml").read_bytes()
    set_param("knn.k", [3])
    later = {"leaf@one", "leaf@two", "total", "whole"}
    assert (
        {step.stage for step in plan().steps} == later == ran(command(folder, "-m", "dvc", "repro"))
    )
    Path("params.yaml").write_bytes(before)
    Path("results/middle").unlink()
    planned = plan()
    assert (set(planned.restored), planned.steps) == (later | {"middle"}, ())
    said = command(folder, "-m", "dvc", "repro")
    assert set(re.findall("Stage '(.*)' is cached", said)) == set(planned.restored) and not ran(
        said
    )
