"""Trackers: those of the environment, off by default; each row is sent once."""

import math

import pytest

from prosmin.common.errors import UserError
from prosmin.training.state import History
from prosmin.training.watch.progress import Progress
from stages.common import trackers


def test_none_is_asked_for_by_default(monkeypatch):
    monkeypatch.delenv(trackers.VARIABLE, raising=False)
    assert trackers.options() == {}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("tensorbord", "it must name tensorboard or mlflow .did you mean 'tensorboard'?"),
        ("mlflow, tensorboard", "names mlflow, which is not installed: pip install mlflow"),
    ],
)
def test_what_is_unknown_or_not_installed_is_one_sentence(monkeypatch, given, words):
    monkeypatch.setenv(trackers.VARIABLE, given)
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=f"^PROSMIN_TRACKERS .*{words}"):
        trackers.options()


def test_both_are_given_to_accelerate_once(monkeypatch):
    monkeypatch.setenv(trackers.VARIABLE, "tensorboard, mlflow,tensorboard")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    monkeypatch.setattr(trackers, "find_spec", lambda name: name)
    assert trackers.options()["log_with"] == ["tensorboard", "mlflow"]


class Accelerator:
    log_with = ("tensorboard",)

    def __init__(self):
        self.runs, self.logged = [], []

    def init_trackers(self, run):
        self.runs.append(run)

    def log(self, numbers, step):
        self.logged.append((step, numbers))


def test_each_row_is_sent_once():
    accelerator, history = Accelerator(), History()
    send = trackers.start(accelerator, "a run")
    history.diagnostics.append({"step": 0, "epoch": 0, "rankme": 3.0})
    send(Progress(history, 0, 0.0, math.nan))
    history.loss.append({"step": 4, "epoch": 1, "loss": 0.5})
    send(Progress(history, 4, 20.0, 1.0))
    assert accelerator.runs == ["a run"]
    assert accelerator.logged == [
        (0, {"diagnostics/epoch": 0, "diagnostics/rankme": 3.0}),
        (4, {"loss/epoch": 1, "loss/loss": 0.5}),
        (4, {"images_per_second": 20.0}),
    ]
    accelerator.log_with = ()
    trackers.start(accelerator, "another")(Progress(history, 4, 20.0, 1.0))
    assert accelerator.runs == ["a run"] and len(accelerator.logged) == 3
