"""Curves on the disk while a run trains."""

import errno
import math

from prosmin.common import files
from prosmin.training.state import History
from prosmin.training.watch.progress import Progress
from stages.common import layout, pretraining
from stages.common.pretraining import Live

ROW = {"step": 0, "epoch": 0, "rankme": 3.0, "knn_accuracy": 0.5}
PROBED = [ROW | {"probe_accuracy": 0.6}, ROW | {"step": 8, "epoch": 2, "probe_accuracy": 0.7}]
LOSS = [
    {"step": 4, "epoch": 1, "loss": 0.5, "lr": 0.1},
    {"step": 8, "epoch": 2, "loss": 0.25, "lr": 0.1},
]


def test_the_disk_has_the_run_so_far_and_at_the_end_no_times(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    live = Live({"images": 32}, 4, every=0)
    live.tell(Progress(History([], PROBED[:1]), 0, 0.0, math.nan))
    assert files.read_csv(layout.LOSS) == []
    live.tell(Progress(History(LOSS[:1], PROBED[:1]), 4, 12.34, 56.7))
    assert files.read_json(layout.metrics("pretrain")) == {
        "loss": 0.5,
        "rankme": 3.0,
        "knn_accuracy": 0.5,
        "probe_accuracy": 0.6,
        "epochs": 1,
        "steps": 4,
        "images": 32,
        "images_per_second": 12.3,
        "seconds_left": 57,
    }
    assert [row["loss"] for row in files.read_csv(layout.LOSS)] == ["0.5"]
    live.write(History(LOSS, PROBED), 8)
    last = files.read_json(layout.metrics("pretrain"))
    assert (last["loss"], last["epochs"]) == (0.25, 2) and "seconds_left" not in last
    assert list(files.read_csv(layout.DIAGNOSTICS)[0]) == list(ROW)
    assert [row["probe_accuracy"] for row in files.read_csv(layout.ONLINE_PROBE)] == ["0.6", "0.7"]


def test_a_disk_that_is_full_costs_a_line_and_writes_are_not_too_many(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.chdir(tmp_path)
    live, history = Live({}, 4, every=3600), History(LOSS, PROBED)

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pretraining.files, "write_json", full)
    live.tell(Progress(history, 4, 1.0, 1.0))
    live.tell(Progress(history, 8, 1.0, 0.0))
    assert caplog.text.count("the curves cannot be written (No space left on device)") == 1
    assert not layout.LOSS.exists()
