"""The metrics of experiments, read from git, and what a study then knows of its runs."""

import hashlib
import json
import subprocess

import pytest

from pipelines.study import results
from pipelines.study.choice import Failed
from pipelines.study.file import Study
from pipelines.study.flow import Progress
from pipelines.study.plan import Plan
from tests.pipelines.study.test_file import SMALL

GRAPH = """
stages:
  linear: {cmd: linear, params: [seed], metrics: [metrics/linear.json: {cache: false}]}
  knn: {cmd: knn, params: [seed], metrics: [metrics/knn.json: {cache: false}]}
"""
LOCK = """
schema: '2.0'
stages:
  linear:
    cmd: linear
    params: {{params.yaml: {{seed: 0}}}}
    outs: [{{path: metrics/linear.json, md5: {linear}}}]
  knn:
    cmd: knn
    params: {{params.yaml: {{seed: 7}}}}
    outs: [{{path: metrics/knn.json, md5: {knn}}}]
"""


@pytest.fixture
def commit(tmp_path, monkeypatch):
    """Makes an experiment on the last commit, whose k-NN is of another seed."""
    monkeypatch.chdir(tmp_path)
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]

    def git(*words):
        done = subprocess.run(
            ["git", *identity, *words], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    git("init", "-q", "-b", "main")
    git("commit", "-q", "--allow-empty", "-m", "first")
    head = git("rev-parse", "HEAD")

    def make(name, message, **values):
        (tmp_path / "metrics").mkdir(exist_ok=True)
        sums = {}
        for stage in ("linear", "knn"):
            content = json.dumps({"trained": values}).encode()
            (tmp_path / f"metrics/{stage}.json").write_bytes(content)
            sums[stage] = hashlib.md5(content).hexdigest()
        (tmp_path / "params.yaml").write_text("seed: 0\n")
        (tmp_path / "dvc.yaml").write_text(GRAPH)
        (tmp_path / "dvc.lock").write_text(LOCK.format(**sums))
        git("add", "-A")
        git("commit", "-q", "-m", message)
        git("update-ref", f"refs/exps/{head[:2]}/{head[2:]}/{name}", "HEAD")
        git("reset", "-q", "--hard", head)

    return make


def test_an_experiment_has_its_own_metrics_and_its_seconds(commit):
    commit("one", 'experiment one\n\nseconds: {"linear": 2.5}', accuracy=0.5, accuracy_low=0.4)
    commit("two", "dvc: commit experiment", accuracy=0.6)
    references = results.references()
    assert sorted(references) == ["one", "two"]
    one = results.read(references["one"])
    assert one.files == {"metrics/linear.json": {"trained": {"accuracy": 0.5, "accuracy_low": 0.4}}}
    assert (
        one.seconds == {"linear": 2.5} and one.value("metrics/linear.json:trained.accuracy") == 0.5
    )
    assert one.value("metrics/knn.json:trained.accuracy") is None
    assert results.read(references["two"]).seconds == {}


def test_a_study_knows_what_its_experiments_say(commit):
    plan = Plan("small", Study.model_validate(SMALL), {})
    runs = [plan.choice_run("prosmin", place, {"pretrain.lr": 0.1}) for place in range(4)]
    commit(runs[0].name, "message", accuracy_val=0.75)
    commit(runs[1].name, "message", accuracy=0.75)
    final = plan.final_run("prosmin", {"pretrain.lr": 0.1}, 0)
    commit(final.name, "message")
    progress = Progress(plan, {})
    progress.ended([runs[0].name, runs[2].name], {runs[0].name: "it exists", runs[2].name: "broke"})
    assert [progress.outcome(run) for run in (*runs, final)] == [
        0.75, "it has no metrics/linear.json:trained.accuracy_val", "broke", None, 0.0
    ]  # fmt: skip
    assert isinstance(progress.outcome(runs[2]), Failed)
