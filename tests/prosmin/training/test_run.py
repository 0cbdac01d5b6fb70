"""A run that fails, goes back, goes on and stops."""

import math

import pytest
import torch

from prosmin.common.errors import ConfigError, UserError
from prosmin.objectives.prosmin import ProSMIN
from prosmin.training import loop, replay
from prosmin.training.checkpoint import Checkpoints
from prosmin.training.settings import StopBelow, Target
from prosmin.training.watch.monitor import Monitor
from tests.prosmin.training.tiny import changed, counted, equal, tiny_model, train, watching


def poison(monkeypatch, at, times):
    """Make the loss NaN in the calls of ``forward`` numbered from ``at``, so many of them."""
    forward, calls = ProSMIN.forward, 0

    def poisoned(self, *arguments):
        nonlocal calls
        calls += 1
        return forward(self, *arguments) * (math.nan if at <= calls < at + times else 1.0)

    monkeypatch.setattr(ProSMIN, "forward", poisoned)


def test_a_loss_that_is_not_finite_stops_with_step_and_rate(digits):
    model = tiny_model()
    with torch.no_grad():
        model.head.mu.weight.fill_(math.nan)
    with pytest.raises(
        UserError,
        match=r"^the loss is nan in epoch 1 \(step 1, lr 0.0005\); .* no checkpoint to go",
    ):
        train(digits, model=model)


def test_an_infinite_gradient_is_found_though_the_loss_is_finite(digits, monkeypatch):
    clip = loop.Run.clip_gradients
    norms = iter([1.0, 1.0, math.inf])
    monkeypatch.setattr(loop.Run, "clip_gradients", lambda run: clip(run) * next(norms, 1.0))
    with pytest.raises(UserError, match=r"^the norm of the gradient is inf in epoch 1 \(step 3, "):
        train(digits)


def test_after_one_accident_the_run_goes_back_and_ends_as_if_nothing_had_been(
    digits, monkeypatch, every_step, caplog
):
    undisturbed, seen = train(digits)
    poison(monkeypatch, at=6, times=1)
    model, history = train(digits, checkpoints=every_step)
    assert (
        "the loss is nan in epoch 2 (step 6, " in caplog.text
        and "from the checkpoint of step 5" in caplog.text
    )
    assert history.loss == seen.loss
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), undisturbed.state_dict().values())
    )


def test_a_second_time_it_stops_and_names_the_last_good_checkpoint(digits, monkeypatch, every_step):
    poison(monkeypatch, at=6, times=100)
    with pytest.raises(UserError, match=r"^the loss is nan in epoch 2 \(step 6, lr") as caught:
        train(digits, checkpoints=every_step)
    assert (
        f"the last good checkpoint is {every_step.path(5)}" in str(caught.value)
        and every_step.path(5).exists()
    )


def test_a_run_with_channels_last_goes_back_to_the_same_weights(digits, monkeypatch, every_step):
    """Moments of the optimiser have the layout of their parameters, which no checkpoint keeps."""
    settings = changed(channels_last=True)
    undisturbed, _ = train(digits, settings)
    poison(monkeypatch, at=6, times=1)
    model, _ = train(digits, settings, checkpoints=every_step)
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), undisturbed.state_dict().values())
    )


def test_without_a_checkpoint_yet_it_starts_again(digits, monkeypatch, tmp_path):
    undisturbed, seen = train(digits)
    poison(monkeypatch, at=3, times=1)
    model, history = train(digits, checkpoints=Checkpoints(tmp_path, "a" * 16))
    assert history.loss == seen.loss and equal(model, undisturbed)
    assert not list(tmp_path.rglob("kept-*"))


def test_the_step_that_fails_twice_is_kept_with_its_views(digits, monkeypatch, every_step):
    views = []
    backward = loop.Run.backward

    def noted(self, given, *place):
        views.append((self.steps_done, given))
        return backward(self, given, *place)

    monkeypatch.setattr(loop.Run, "backward", noted)
    poison(monkeypatch, at=6, times=100)
    kept = every_step.step_path(5, 0)
    with pytest.raises(UserError, match=f"`python -m prosmin.training.replay {kept}`"):
        train(digits, checkpoints=every_step)
    step = replay.read(kept)
    assert (step.facts["step"], step.facts["where"]) == (5, [0, 1, 1])
    of_step = [given for place, given in views if place == 5]
    assert len(of_step) == 2
    assert all(torch.equal(a, b) for a, b in zip(of_step[1], step.views, strict=True))


# --- longer runs and hopeless runs ----------------------------------------------------------------


CONSTANT = changed(
    epochs=4, decay_epochs=1, target=Target(momentum=(0.5, 1.0)), weight_decay_end=0.2
)


def test_a_run_with_more_epochs_goes_on_from_the_shorter_one_to_the_bit(
    digits, tmp_path, monkeypatch
):
    trunk, monitor, longer = Checkpoints(tmp_path, "b" * 16), watching(digits), 6
    train(digits, CONSTANT, monitor=monitor, trunk=trunk)
    whole, seen = train(digits, changed(CONSTANT, epochs=longer), monitor=monitor)
    made = counted(monkeypatch)
    model, history = train(
        digits,
        changed(CONSTANT, epochs=longer),
        monitor=monitor,
        model=tiny_model(seed=9),
        trunk=trunk,
    )
    assert made == list(range(3 * 4, 6 * 4)) and equal(model, whole)
    assert (history.loss, history.diagnostics) == (seen.loss, seen.diagnostics)
    made.clear()
    train(digits, changed(CONSTANT, epochs=3), trunk=trunk)  # its decay begins before that state
    assert made == list(range(3 * 4))


def test_who_watches_is_told_of_every_epoch(digits):
    told = []
    _, history = train(
        digits, tell=lambda now: told.append((now.step, len(now.history.loss), now)), monitor=None
    )
    assert [(step, rows) for step, rows, _ in told] == [(0, 0), (4, 1), (8, 2)]
    assert told[-1][2].seconds_left == 0 < told[1][2].seconds_left
    assert math.isnan(told[0][2].seconds_left) and told[1][2].images_per_second > 0
    assert history.images_per_second > 0


def test_a_hopeless_run_stops_and_goes_on_once_the_limit_is_gone(
    digits, monkeypatch, tmp_path, every_step
):
    monitor, plain = watching(digits), changed(epochs=4)
    whole, _ = train(digits, plain, monitor=monitor)
    limited = changed(plain, stop_below=StopBelow(metric="rankme", value=500.0, epoch=2))
    with pytest.raises(UserError, match=r"^stopped early after epoch 2: rankme is .*, below 500 "):
        train(digits, limited, monitor=monitor, checkpoints=every_step)
    made = counted(monkeypatch)
    with pytest.raises(UserError, match="^stopped early after epoch 2"):
        train(digits, limited, monitor=monitor, checkpoints=every_step)
    assert not made
    model, _ = train(digits, plain, monitor=monitor, checkpoints=every_step)
    assert made == list(range(8, 16)) and equal(model, whole)


def test_a_limit_of_what_needs_labels_is_refused_without_labels(digits):
    limited = changed(stop_below=StopBelow(metric="knn_accuracy", value=0.5, epoch=1))
    with pytest.raises(ConfigError, match="^stop_below.metric is 'knn_accuracy'; it needs labels"):
        train(digits, limited, monitor=Monitor(digits[0][:64]))
