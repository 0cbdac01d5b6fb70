"""``stages.common.declared`` reads the same from ``dvc.yaml`` and ``dvc.lock`` as DVC."""

import pytest
import yaml
from dvc.repo import Repo

from stages.common import declared
from tests.stages.conftest import ROOT


def test_the_graph_is_resolved_as_dvc_resolves_it(monkeypatch):
    monkeypatch.chdir(ROOT)
    read = declared.graph(yaml.safe_load((ROOT / "params.yaml").read_text()))
    with Repo() as repo:
        stages = {stage.name: stage for stage in repo.index.stages}
        assert list(read) == list(stages)
        for name, stage in stages.items():
            mine = read[name]
            assert (mine.name, mine.command) == (name, stage.cmd)
            assert set(mine.outs) == {out.def_path for out in stage.outs}
            kept = [dep for dep in stage.deps if not hasattr(dep, "params")]
            assert set(mine.deps) == {dep.def_path for dep in kept}
            (keys,) = [dep.params for dep in stage.deps if hasattr(dep, "params")]
            assert set(mine.params) == (set(keys) or {""}), name


GRAPH = """
stages:
  plain:
    cmd: "x ${name}"
    params: [a.b, other.yaml: [c], params.yaml: [d]]
    deps: [one.py]
    outs: [o: {cache: false}]
  keyed:
    foreach: "${sets}"
    do: {cmd: "x ${key}", deps: ["data/${key}", "data/${item}"], metrics: ["m/${key}"]}
  listed: {foreach: [p, q], do: {cmd: "x ${item}", params: [params.yaml: ]}}
  broken: {cmd: "x ${nothing}"}
"""


def test_each_form_that_a_graph_has(tmp_path):
    (tmp_path / "dvc.yaml").write_text(GRAPH)
    read = declared.graph({"name": "n", "sets": {"s": "t"}}, tmp_path / "dvc.yaml")
    assert read == {
        "plain": declared.Stage("plain", "x n", ("a.b", "d"), ("one.py",), ("o",)),
        "keyed@s": declared.Stage("keyed@s", "x s", (), ("data/s", "data/t"), ("m/s",)),
        "listed@p": declared.Stage("listed@p", "x p", ("",), (), ()),
        "listed@q": declared.Stage("listed@q", "x q", ("",), (), ()),
    }


@pytest.mark.parametrize("text", [None, "", "stages: [", "- a", "stages:", "stages: {a: !!int ''}"])
def test_a_graph_or_a_lock_that_is_none_is_empty(tmp_path, text):
    path = tmp_path / "file"
    if text is not None:
        path.write_text(text)
    assert declared.graph({}, path) == declared.locked(path) == {}


def test_a_key_is_looked_up_by_its_dots():
    assert declared.value({"a": {"b": 1}}, "a.b") == 1
    assert declared.value({"a": {"b": 1}}, "a.b.c") is None and declared.value({"a": 1}, "") == {
        "a": 1
    }


LOOPS = """
stages:
  fetch: {foreach: "${fetch}", do: {cmd: x, outs: ["data/${key}", "metrics/fetch/${key}.json"]}}
  embed: {foreach: "${fetch}", do: {cmd: x, deps: ["data/${key}"], outs: ["results/embed/${key}"]}}
  linear: {cmd: x, deps: ["results/embed/${dataset}"], outs: [metrics/linear.json]}
  finetune: {foreach: "${tuned}", do: {cmd: x, deps: ["data/${item}/train"], outs: ["m/${item}"]}}
  report: {cmd: x, deps: [metrics, data], outs: [results/report]}
"""


def test_a_dataset_is_unused_where_no_other_stage_reads_what_is_made_of_it(tmp_path):
    """A stage that reads a whole folder reads whatever is there."""
    path, fetch = tmp_path / "dvc.yaml", dict.fromkeys(("a", "b", "c"), {})
    path.write_text(LOOPS)
    params = {"fetch": fetch, "dataset": "a", "tuned": ["b"]}
    assert declared.unused(params, path) == {"c": ["fetch@c", "embed@c"]}
    assert declared.unused(params | {"tuned": ["b", "c"]}, path) == {}
    assert declared.unused(params, path, asked=["embed@c"]) == {}
    assert declared.unused(params, tmp_path / "none") == {}
