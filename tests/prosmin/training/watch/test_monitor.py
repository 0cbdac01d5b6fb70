import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from prosmin.data.dataset import Split
from prosmin.models.networks import Encoder
from prosmin.objectives.registry import build
from prosmin.training.watch import diagnostics, monitor
from prosmin.training.watch.monitor import Monitor


def test_collapse_is_said_in_the_log_with_its_likely_cause(caplog):
    healthy = {"rankme": 30.0, "feature_std": 0.9, "sigma_clamped": 0.0}
    monitor.warn_of_collapse(healthy, 10)
    assert not caplog.records
    monitor.warn_of_collapse({**healthy, "rankme": 1.2}, 10)
    monitor.warn_of_collapse({**healthy, "sigma_clamped": 0.9}, 10)
    assert (
        "normalise the targets" in caplog.text
        and "widen pretrain.objective.log_sigma" in caplog.text
    )


@pytest.mark.parametrize("labelled", [True, False])
def test_the_monitor_watches_a_draw_of_all_classes(monkeypatch, labelled):
    """A set sorted by class gives as many classes, and as high a rank, as the set in any order."""
    monkeypatch.setattr(monitor, "WATCHED", 140)
    monkeypatch.setattr(monitor, "BANK", 300)
    pictures, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(pictures * 15).to(torch.uint8).view(-1, 1, 8, 8)
    ranks = []
    for rows in (
        np.argsort(labels, kind="stable"),
        np.random.default_rng(1).permutation(len(labels)),
    ):
        kinds = torch.from_numpy(labels[rows]) if labelled else torch.full((len(rows),), -1)
        whole = Split(images[rows], kinds, None)
        watcher = Monitor.of(
            {"train": whole, "val": whole} if labelled else {"train": whole}, seed=0
        )
        ranks.append(diagnostics.rankme(watcher.images.flatten(1).float()))
        assert len(watcher.images) == 140
        if labelled:
            assert len(watcher.bank) == 300
            assert len(watcher.labels.unique()) == len(watcher.bank_labels.unique()) == 10
    assert ranks[0] == pytest.approx(ranks[1], rel=0.03)


def test_a_monitor_of_few_images_has_them_all_in_their_order():
    images = torch.arange(60 * 64, dtype=torch.int32).to(torch.uint8).view(60, 1, 8, 8)
    split = Split(images, torch.arange(60) % 3, ("a", "b", "c"))
    monitor = Monitor.of({"train": split, "val": split}, seed=0)
    assert (
        monitor.images.equal(images)
        and monitor.bank.equal(images)
        and monitor.labels.equal(split.labels)
    )


@pytest.mark.parametrize(
    ("keys", "has_sigma"),
    [
        ({}, True),
        ({"identification": 1.0, "heads": "stopped"}, True),
        ({"identification": 1.0, "regression": 0.0}, False),
    ],
)
def test_sigma_is_watched_where_the_objective_predicts_it(keys, has_sigma):
    backbone = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 6))
    backbone.num_features = 6
    model = build(Encoder(backbone, [0.5], [0.25]), 12, 4, keys)
    images = torch.arange(20 * 64, dtype=torch.int32).to(torch.uint8).view(20, 1, 8, 8)
    state = torch.get_rng_state()
    known = Monitor(images, torch.arange(20) % 2, images, torch.arange(20) % 2)
    both = monitor.observe(model, known, batch_size=7)
    assert {"knn_accuracy", "probe_accuracy"} <= both.keys()
    assert torch.equal(torch.get_rng_state(), state) and model.training
    row = monitor.observe(model, Monitor(images), batch_size=7)
    assert ({"sigma_mean", "sigma_clamped"} <= row.keys()) == has_sigma and "rankme" in row
