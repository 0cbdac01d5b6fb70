"""A run that an exception or SIGKILL stopped ends like an undisturbed run."""

import random
import resource
import time
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from prosmin.models import store
from prosmin.models.networks import Encoder
from prosmin.objectives import settings
from prosmin.objectives.prosmin import ProSMIN
from prosmin.training import loop
from prosmin.training.checkpoint import Checkpoints
from prosmin.training.settings import TrainSettings
from prosmin.training.watch.monitor import Monitor
from prosmin.views.settings import Views
from tests import gang

SETTINGS = TrainSettings(
    image_size=8,
    epochs=2,
    batch_size=64,
    lr=2e-3,
    views=Views(grayscale=0.0, solarize=0.0, blur=0.0),
    warmup_epochs=1,
)
LONGER = replace(SETTINGS, epochs=6, batch_size=60)
IMAGES = torch.randint(
    0, 256, (256, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)
LABELS = torch.arange(256) % 4


def tiny_model():
    """Batch statistics in the backbone, and dropout, which draws from the global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = (
            nn.Conv2d(1, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(144, 16),
            nn.Dropout(0.2),
        )
        backbone = nn.Sequential(*layers)
        backbone.num_features = 16
        return ProSMIN(Encoder(backbone, [0.5], [0.25]), 32, 8, settings.ProSMIN())


def train(settings=SETTINGS, checkpoints=None):
    model, monitor = tiny_model(), Monitor(IMAGES[:64], LABELS[:64], IMAGES[64:], LABELS[64:])
    return model, loop.pretrain(
        model, IMAGES, settings, 0, Accelerator(cpu=True), monitor, checkpoints=checkpoints
    )


class Stopped(BaseException):
    pass


def stop(monkeypatch, at):
    """Stop inside step ``at``, counted from here, after that of the optimiser."""
    update, calls = ProSMIN.momentum_update, 0

    def counted(self, momentum):
        nonlocal calls
        calls += 1
        if calls == at:
            raise Stopped
        update(self, momentum)

    monkeypatch.setattr(ProSMIN, "momentum_update", counted)


@pytest.mark.parametrize("steps", [(1,), (4,), (5,), (8,), (2, 2, 2, 2)])
def test_a_run_that_was_stopped_goes_on_to_the_same_weights_and_history(steps, tmp_path):
    checkpoints = Checkpoints(tmp_path, "run", every=0)
    whole, seen = train()
    for at in steps:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
            stop(patch, at)
            train(checkpoints=checkpoints)
    model, history = train(checkpoints=checkpoints)
    assert (history.loss, history.diagnostics) == (seen.loss, seen.diagnostics)
    for name, value in whole.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def test_a_checkpoint_that_is_damaged_costs_its_steps_and_no_more(tmp_path, caplog):
    checkpoints = Checkpoints(tmp_path, "run", every=0)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        stop(patch, 6)
        train(checkpoints=checkpoints)
    checkpoints.path(5).write_bytes(checkpoints.path(5).read_bytes()[:-100])
    with caplog.at_level("INFO"):
        model, _ = train(checkpoints=checkpoints)
    assert "goes on from step 4 of 8" in caplog.text
    whole, _ = train()
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), whole.state_dict().values())
    )


def test_a_disk_that_fills_up_costs_checkpoints_and_not_the_run(tmp_path, caplog):
    checkpoints = Checkpoints(tmp_path, "run", every=0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        stop(patch, 4)
        train(checkpoints=checkpoints)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        model, _ = train(checkpoints=checkpoints)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    whole, _ = train()
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), whole.state_dict().values())
    )
    assert "step 7 cannot be written" in caplog.text
    assert sorted(tmp_path.glob("run/*")) == [checkpoints.path(2), checkpoints.path(3)]


def run_to_the_end(folder):
    """A process of a run; the first one leaves the weights when it is done."""
    model, history = train(LONGER, Checkpoints(folder, "run", every=0))
    if history.diagnostics:  # of the first process alone
        store.save_state(folder / "final.safetensors", model.state_dict())


def step_of(folder):
    return max(
        (int(path.stem.split("-")[1]) for path in folder.glob("run/step-*.safetensors")), default=0
    )


@pytest.mark.parametrize("world", [1, 3])
def test_killed_at_random_moments_it_ends_with_the_same_bytes(tmp_path, world):
    """SIGKILL at random moments while it trains and writes a checkpoint per step."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for process in gang.start(run_to_the_end, whole, world=world):
        process.join()
    for moment in (3, 12):
        processes = gang.start(run_to_the_end, killed, world=world)
        while step_of(killed) < moment:
            assert all(process.is_alive() for process in processes)
            time.sleep(0.001)
        time.sleep(random.uniform(0.0, 0.03))
        for process in random.sample(processes, world):
            process.kill()
        for process in processes:
            process.join()
        assert not (killed / "final.safetensors").exists()
    for process in gang.start(run_to_the_end, killed, world=world):
        process.join()
        assert process.exitcode == 0
    assert (killed / "final.safetensors").read_bytes() == (whole / "final.safetensors").read_bytes()
