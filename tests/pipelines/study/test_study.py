"""A tiny study on digits: killed, and finished by the next command."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.pipelines.clones import TINY, clone, command

DIGITS = TINY | {
    "dataset": "digits",
    "ood.sets": {"other": "far"},
    "fetch.other": {"source": "builtin", "name": "digits"},
    "transfer.targets": [],
    "uncertainty.datasets": [],
    "audit.datasets": ["digits"],
    "finetune.datasets": [],
    "pretrain.channels": 1,
    "pretrain.epochs": 1,
}
# The stages as they are, in one process instead of four below four of DVC.
GRAPH = """
stages:
  brief:
    cmd: python brief.py
    params: [params.yaml: ]
    deps: [brief.py]
    outs: [data/digits, results/pretrain, results/embed/digits]
    metrics: [metrics/knn.json: {cache: false}]
"""
BRIEF = """
from stages import embed, fetch, knn, pretrain
from stages.params.load import load

params = load()
fetch.main(params, "digits")
pretrain.main(params)
embed.main(params, "digits")
knn.main(params)
"""
STUDY = {
    "question": "Does it pay?",
    "test": "prosmin",
    "methods": {"prosmin": {}, "simclr": {"set": {"pretrain.objective": {"name": "simclr"}}}},
    "seeds": [0, 1],
    "stages": ["brief"],
}
RUNS = [f"tiny-{method}-seed-{seed}" for method in ("prosmin", "simclr") for seed in (0, 1)]


@pytest.mark.integration
@pytest.mark.timeout(400)
def test_a_killed_study_goes_on_and_its_page_stays_the_same(tmp_path, api, prefect_home):
    folder = clone(
        tmp_path / "a study",
        DIGITS,
        {"dvc.yaml": GRAPH, "brief.py": BRIEF, ".gitignore": "/.prosmin/\n"},
    )
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(STUDY, sort_keys=False))
    words = ["-m", "pipelines.study", "../tiny.yaml"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    variables = api | {"PREFECT_HOME": str(prefect_home), "PATH": path}
    with subprocess.Popen(
        [sys.executable, *words, "--slots", "1"],
        cwd=folder,
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        first = next(line for line in process.stdout if line.startswith("tiny-"))
        process.kill()
    name = first.removesuffix(": done\n")
    said = command(folder, *words, environment=variables)
    names = [line.partition(":")[0] for line in said.splitlines() if line.startswith("tiny-")]
    assert name not in names and len(names) == 3, said
    listed = command(folder, "-m", "dvc", "exp", "list", "--name-only").split()
    assert {*names, name} <= set(listed)
    assert sorted(run.rpartition("-")[0] for run in listed) == RUNS
    results = folder / "results/study/tiny"
    before = {path.name: path.read_bytes() for path in results.iterdir()}
    assert set(before) == {"index.html", "results.md", "runs.json"}
    assert b"In-distribution accuracy" in before["index.html"]
    assert b"not complete" not in before["index.html"]
    for file in results.iterdir():
        file.unlink()
    again = command(folder, *words, environment=variables)
    assert again.splitlines() == ["page: results/study/tiny/index.html"]
    assert {path.name: path.read_bytes() for path in results.iterdir()} == before
