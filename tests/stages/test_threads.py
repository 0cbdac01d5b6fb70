"""A stage computes with the threads that dvc.yaml declares, however it is started."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stages.threads import declared, share

ROOT = Path(__file__).parents[2]
GRAPH = """
stages:
  plain: {cmd: x}
  wide: {cmd: x, meta: {resources: {threads: 3}}}
  whole: {cmd: x, meta: {resources: {gpus: 1, threads: all}}}
  each: {foreach: [a, b], do: {cmd: "x ${item}", meta: {resources: {threads: 2}}}}
"""
TELL = """
import sys, torch
from threadpoolctl import threadpool_info
from stages.threads import keep_to_share
import os
keep_to_share(sys.argv[1])
pools = {each["num_threads"] for each in threadpool_info()}
print(torch.get_num_threads(), *pools, os.environ.get("OMP_NUM_THREADS"), os.environ.get("OMP_WAIT_POLICY"))
"""


@pytest.fixture
def graph(tmp_path) -> Path:
    (tmp_path / "dvc.yaml").write_text(GRAPH)
    return tmp_path / "dvc.yaml"


def test_threads_are_read_from_the_graph(graph):
    assert {name: declared(name, graph) for name in ("plain", "wide", "whole", "each", "other")} == {
        "plain": 1,
        "wide": 3,
        "whole": "all",
        "each": 2,
        "other": None,
    }
    assert declared("plain", graph.with_name("missing.yaml")) is None


@pytest.mark.parametrize(
    ("wanted", "available", "expected"), [(1, 8, 1), (3, 2, 2), ("all", 8, 8), ("all", 0, 0), (1, 0, 0)]
)
def test_a_stage_gets_no_more_than_there_is(wanted, available, expected):
    assert share(wanted, available) == expected


@pytest.mark.parametrize(
    ("stage", "given", "expected"),
    [
        ("plain", None, "1 1 1 passive"),
        ("wide", None, "3 3 3 passive"),
        ("whole", None, "4 4 4 passive"),
        ("plain", "2", "2 2 2 passive"),  # what the environment says goes first
        ("repro", None, None),  # no stage of the graph: left as it is
    ],
)
def test_libraries_that_are_loaded_already_keep_to_it_too(graph, stage, given, expected):
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("OMP", "MKL", "OPENBLAS"))}
    variables |= {"PYTHONPATH": str(ROOT), "PROSMIN_CORES": "4"}
    variables |= {"OMP_NUM_THREADS": given, "OPENBLAS_NUM_THREADS": given} if given else {}
    done = subprocess.run(
        [sys.executable, "-c", TELL, stage], cwd=graph.parent, env=variables, capture_output=True, text=True
    )
    assert done.stdout.strip().endswith("None None") if expected is None else done.stdout.strip() == expected, (
        done.stderr
    )
