"""A stage computes with the threads that dvc.yaml declares, however it is started."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from prosmin.common.errors import UserError
from stages.common.threads import cores, declared, keep_to_share, share

ROOT = Path(__file__).parents[3]
GRAPH = """
stages:
  plain: {cmd: x}
  wide: {cmd: x, meta: {resources: {threads: 3}}}
  whole: {cmd: x, meta: {resources: {gpus: 1, threads: all}}}
  item: {foreach: [a, b], do: {cmd: "x ${item}", meta: {resources: {threads: 2}}}}
"""
# (stage, what the environment says, threads of torch and of every pool, the variables afterwards)
CASES = [
    ("plain", None, "1 1 1 passive"),
    ("wide", None, "3 3 3 passive"),
    ("whole", None, "4 4 4 passive"),
    ("plain", "2", "2 2 2 passive"),  # what the environment says goes first
    ("plain", "3,1", "3 3 3 passive"),  # OpenMP's list: a number for each level of nesting
    ("wide", "", "3 3 3 passive"),
    ("repro", None, None),  # no stage of the graph: left as it is
]
# Loads the libraries once, and then forks a process for each case.
TELL = """
import json, os, sys, torch
from threadpoolctl import threadpool_info
from stages.common.threads import keep_to_share

for stage, given, _ in json.loads(sys.argv[1]):
    if (child := os.fork()) == 0:
        if given is not None:
            os.environ |= {"OMP_NUM_THREADS": given, "OPENBLAS_NUM_THREADS": given.split(",")[0]}
        keep_to_share(stage)
        pools = {pool["num_threads"] for pool in threadpool_info()}
        said = [os.environ.get(name) for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")]
        print(torch.get_num_threads(), *pools, *said, flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, stage
"""


@pytest.fixture
def graph(tmp_path) -> Path:
    (tmp_path / "dvc.yaml").write_text(GRAPH)
    return tmp_path / "dvc.yaml"


def test_threads_are_read_from_the_graph(graph):
    assert {
        name: declared(name, graph) for name in ("plain", "wide", "whole", "item", "other")
    } == {
        "plain": 1,
        "wide": 3,
        "whole": "all",
        "item": 2,
        "other": None,
    }
    assert declared("plain", graph.with_name("missing.yaml")) is None


@pytest.mark.parametrize(
    ("wanted", "available", "expected"),
    [(1, 8, 1), (3, 2, 2), ("all", 8, 8), ("all", 0, 0), (1, 0, 0)],
)
def test_a_stage_gets_no_more_than_there_is(wanted, available, expected):
    assert share(wanted, available) == expected


def test_libraries_that_are_loaded_already_keep_to_it_too(graph):
    variables = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OMP", "MKL", "OPENBLAS"))
    }
    done = subprocess.run(
        [sys.executable, "-c", TELL, json.dumps(CASES)],
        cwd=graph.parent,
        env=variables | {"PYTHONPATH": str(ROOT), "PROSMIN_CORES": "4"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for (stage, given, expected), said in zip(CASES, done.stdout.splitlines(), strict=True):
        assert said == expected or (expected is None and said.endswith("None None")), (stage, given)


@pytest.mark.parametrize("given", ["abc", "0", "-1", "2,", "2,x", "1.5", "²", "999999"])
def test_a_number_of_threads_that_is_none_is_refused(graph, monkeypatch, given):
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    monkeypatch.chdir(graph.parent)
    with pytest.raises(
        UserError,
        match=f"^OMP_NUM_THREADS is '{given}'; it must be a whole number, 1 to 4096, or sev",
    ):
        keep_to_share("plain")


@pytest.mark.parametrize("given", ["abc", "0", "-1", "²", "1.5", "4097"])
def test_a_number_of_cores_that_is_none_is_refused(monkeypatch, given):
    monkeypatch.setenv("PROSMIN_CORES", given)
    with pytest.raises(
        UserError, match=f"^PROSMIN_CORES is '{given}'; it must be a whole number, 1 to 4096"
    ):
        cores()
