"""What ``make plan`` says of a small graph: which stages will run, why, and for how long."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from pipelines.engine import measured
from pipelines.plan import last, of, plan, spoken
from pipelines.repro import announced
from prosmin.common.errors import UserError
from prosmin.common.files import write_json
from stages.common import inputs, proof
from tests.pipelines.clones import noted

GRAPH = """
stages:
  source:
    foreach: [a, b]
    do: {cmd: "make source", params: [seed], outs: ["results/source/${item}"]}
  middle:
    cmd: make middle
    params: [middle]
    deps: [prosmin/models, results/source/a]
    outs: [results/middle]
  leaf:
    foreach: [one, two]
    do:
      cmd: make leaf
      deps: [results/middle, results/source/b]
      outs: ["metrics/leaf/${item}.json": {cache: false}]
  total: {cmd: make total, params: [params.yaml: ], deps: [metrics], outs: [results/total]}
"""
PARAMS = {"seed": 0, "middle": {"epochs": 80, "lr": 0.1}}
OUTS = ["results/source/a", "results/source/b", "results/middle", "metrics/leaf/one.json"]
OUTS += ["metrics/leaf/two.json", "results/total"]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A graph of which every stage has run."""
    monkeypatch.chdir(tmp_path)
    Path("dvc.yaml").write_text(GRAPH)
    set_params(PARAMS)
    for path in ("prosmin/models/small.py", "prosmin/models/large.py", *OUTS):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(path)
    Path("dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": dict(noted())}))
    for arguments in (
        ["init", "-q"],
        ["add", "-A"],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a"],
    ):
        subprocess.run(["git", *arguments], check=True)
    return tmp_path


def set_params(content: dict) -> None:
    Path("params.yaml").write_text(yaml.safe_dump(content))


def reasons(*targets: str) -> dict[str, tuple[str, ...]]:
    return {step.stage: step.reasons for step in plan(targets).steps}


def test_nothing_to_do(folder):
    assert plan().line() == "all 6 stages are up to date"
    assert list(plan().text()) == ["all 6 stages are up to date"]


def test_a_key_is_named_with_its_old_and_new_value_and_stages_behind_follow(folder):
    set_params(PARAMS | {"middle": {"epochs": 5, "lr": 0.1}})
    was = "params.yaml: middle.epochs was 80 and is 5"
    assert reasons() == {
        "middle": (was,),
        "leaf@one": ("after middle",),
        "leaf@two": ("after middle",),
        "total": (was, "after leaf@one, leaf@two"),
    }


def test_a_file_of_a_folder_of_code_is_named(folder):
    Path("prosmin/models/large.py").write_text("other")
    Path("prosmin/models/new.py").write_text("new")
    changed = ("prosmin/models/large.py changed", "prosmin/models/new.py changed")
    assert reasons()["middle"] == changed


def test_a_command_and_an_output_of_the_graph(folder):
    text = GRAPH.replace("make middle", "make  middle").replace("results/total", "results/sum")
    Path("dvc.yaml").write_text(text)
    said = reasons()
    assert said["middle"] == ("its command was 'make middle' and is 'make  middle'",)
    assert "dvc.yaml now lists results/sum in its outs" in said["total"]


def test_a_result_that_is_missing_is_made_or_comes_from_the_cache(folder):
    copy = proof.cached(proof.digest("results/middle", "md5"))
    Path("results/middle").unlink()
    assert reasons()["middle"] == ("results/middle is missing",)
    assert reasons()["leaf@one"] == ("after middle",)
    copy.parent.mkdir(parents=True)
    copy.write_text("results/middle")
    restored = plan()
    assert (restored.steps, restored.restored) == ((), ("middle",))
    assert restored.line() == "1 of 6 stages come from DVC's cache"
    assert list(restored.text())[2:] == ["middle    restored from DVC's cache"]


def test_in_a_clone_without_results_or_cache_all_stages_run(folder):
    for name in ("results", "metrics"):
        shutil.rmtree(name)
    assert set(reasons()) == set(plan().stages) and len(plan().stages) == 6
    Path("dvc.lock").unlink()
    assert set(reasons()) == set(plan().stages)


def test_targets_bring_what_they_need(folder):
    Path("dvc.lock").unlink()
    assert set(reasons("leaf@one")) == {"source@a", "source@b", "middle", "leaf@one"}
    assert set(reasons("leaf")) == {*reasons("leaf@one"), "leaf@two"}
    assert plan(["source"]).stages == ("source@a", "source@b")
    with pytest.raises(UserError, match=r"'leav' is not a stage \(did you mean 'leaf'\?\)"):
        plan(["leav"])


def test_a_dataset_that_no_stage_uses_is_named_and_left_out(folder):
    Path("dvc.yaml").write_text(GRAPH.replace("foreach: [a, b]", "foreach: ${fetch}"))
    text = Path("dvc.yaml").read_text().replace("${item}", "${key}", 1)
    Path("dvc.yaml").write_text(text)
    set_params(PARAMS | {"fetch": dict.fromkeys(("a", "b", "c"), {})})
    planned = plan()
    assert "source@c" not in planned.stages and planned.unused == ("c",)
    assert list(planned.head())[1] == (
        "fetch.c is used by no stage and left out; `dvc repro fetch@c` fetches it"
    )
    assert announced(()) == ("--single-item", *planned.stages)
    assert announced(("leaf",))[:1] == ("--single-item",) and announced(("--dry",)) == ("--dry",)
    assert plan(["source@c"]).stages == ("source@c",) and announced(("source@c",)) == ("source@c",)


def test_the_time_is_that_of_the_last_run(folder):
    Path("dvc.lock").unlink()
    assert plan().line() == "6 of 6 stages will run: none of them has run here before"
    measured.SECONDS.save({"middle": 100.0, "total": 30.0})
    write_json(inputs.READ / "source.json", {"stage": "source@a", "seconds": 15.2})
    told = "6 of 6 stages will run: about 2 min and 3 that have not run here before"
    assert plan().line() == told
    assert list(plan().text())[2:5] == [
        "source@a   15 s  dvc.lock has no run of it",
        "source@b         dvc.lock has no run of it",
        "middle    100 s  dvc.lock has no run of it",
    ]
    measured.keep()
    (inputs.READ / "source.json").unlink()
    assert plan().line() == told


def test_the_memory_is_the_most_that_a_stage_held_in_its_last_run(folder):
    Path("dvc.lock").unlink()
    measured.SECONDS.save({"middle": 100.0, "total": 30.0, "source@a": 2.0})
    measured.MEMORY.save({"middle": 300 * 2**20})
    write_json(inputs.READ / "total.json", {"stage": "total", "memory": 3 * 2**30})
    told = "about 2 min and 3.0 GiB of memory, and 3 that have not run here before"
    assert plan().line() == f"6 of 6 stages will run: {told}"
    assert list(plan().text())[2:5] == [
        "source@a    2 s           dvc.lock has no run of it",
        "source@b                  dvc.lock has no run of it",
        "middle    100 s  300 MiB  dvc.lock has no run of it",
    ]
    assert list(last(["middle", "source@b"])) == [
        "source@a           2 s",
        "middle           100 s  300 MiB",
        "source@b  not run here",
    ]
    measured.keep()
    assert measured.MEMORY.load() == {"middle": 300 * 2**20, "total": 3 * 2**30}


def test_a_run_that_is_forced_or_that_dvc_alone_finds_says_so(folder):
    forced = of(["middle", "total"], [], forced=True)
    assert [step.reasons for step in forced.steps] == [("it is told to run again",)] * 2
    assert of(["middle"], []).steps[0].reasons == ("DVC finds that its files differ",)


def test_a_time_is_told_in_a_unit_of_which_there_are_two():
    told = {0.2: "1 s", 119.4: "119 s", 125: "2 min", 7100: "118 min", 7200: "2 h", 1e6: "12 days"}
    assert {seconds: spoken(seconds) for seconds in told} == told
