import math
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from sklearn.datasets import load_digits

from prosmin.common.errors import ConfigError, UserError
from prosmin.models import networks, store
from prosmin.objectives.prosmin import ProSMIN
from prosmin.training import loop, replay
from prosmin.training.checkpoint import Checkpoints
from prosmin.training.settings import StopBelow, Target, TrainSettings
from prosmin.training.state import run_key
from prosmin.training.watch.monitor import Monitor
from prosmin.views.settings import LocalViews, Views

VIEWS = Views(flip=0.0, grayscale=0.0, solarize=0.0, blur=0.0)
SETTINGS = TrainSettings(
    image_size=8, epochs=2, batch_size=64, lr=2e-3, views=VIEWS, warmup_epochs=1
)


@pytest.fixture(scope="module")
def digits():
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images / 16 * 255).round().byte().view(-1, 1, 8, 8)[:256], torch.tensor(
        labels
    )[:256]


def tiny_model(seed=0, **objective):
    return store.build_model(
        store.ModelSettings(
            encoder="resnet18",
            image_size=8,
            channels=1,
            mean=(0.3,),
            std=(0.37,),
            hidden_dim=32,
            dim=8,
            cifar_stem=True,
            kwargs={"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]},
            objective=objective,
        ),
        seed,
    )


def train(digits, settings=SETTINGS, seed=0, monitor=None, model=None, **kept):
    model = model or tiny_model(seed)
    history = loop.pretrain(
        model, digits[0], settings, seed, Accelerator(cpu=True), monitor, **kept
    )
    return model, history


def watching(digits):
    images, labels = digits
    return Monitor(images[:64], labels[:64], images[64:], labels[64:])


def counted(monkeypatch):
    """The steps that are made from now on."""
    step, made = loop.Run.step, []

    def noted(self, *arguments):
        made.append(self.steps_done)
        step(self, *arguments)

    monkeypatch.setattr(loop.Run, "step", noted)
    return made


def equal(first, second):
    return all(
        torch.equal(a, b)
        for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def changed(settings=SETTINGS, **values):
    return replace(settings, **values)


def test_every_online_parameter_moves_and_the_target_follows(digits):
    before = {name: tensor.clone() for name, tensor in tiny_model().named_parameters()}
    model, _ = train(digits)
    for name, parameter in model.named_parameters():
        assert not torch.equal(parameter, before[name]), name


def test_target_of_constant_momentum_equals_a_moving_average_kept_by_hand(digits, monkeypatch):
    model = tiny_model()
    kept = [parameter.detach().clone() for parameter in model.target.parameters()]
    update = type(model).momentum_update

    def watched(self, momentum):
        update(self, momentum)
        online = [*self.encoder.parameters(), *self.projector.parameters()]
        for old, new in zip(kept, online, strict=True):
            old.mul_(0.9).add_(new.detach(), alpha=0.1)

    monkeypatch.setattr(type(model), "momentum_update", watched)
    train(digits, changed(target=Target(momentum=(0.9, 0.9))), model=model)
    for slow, fast in zip(kept, model.target.parameters(), strict=True):
        torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-4)


def test_same_seed_gives_the_same_weights_and_another_seed_others(digits):
    first, again, other = (train(digits, seed=seed)[0].state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_loss_falls_and_history_starts_before_the_first_step(digits):
    images, labels = digits
    monitor = Monitor(images[:64], labels[:64], images[64:], labels[64:])
    _, history = train(digits, changed(epochs=8), monitor=monitor)
    assert history.loss[-1]["loss"] < history.loss[0]["loss"]
    assert [row["epoch"] for row in history.loss] == list(range(1, 9))
    assert history.diagnostics[0]["step"] == 0 and history.diagnostics[-1]["step"] == 8 * 4
    assert {"rankme", "feature_std", "sigma_mean", "sigma_clamped", "knn_accuracy"} <= set(
        history.diagnostics[0]
    )


def test_biases_and_normalisation_do_not_decay():
    decayed, plain = networks.decay_groups(tiny_model())
    assert decayed["decays"] and not plain["decays"]
    assert all(parameter.ndim > 1 for parameter in decayed["params"])
    assert all(parameter.ndim == 1 for parameter in plain["params"])
    assert sum(map(len, (decayed["params"], plain["params"]))) == sum(
        p.requires_grad for p in tiny_model().parameters()
    )


def test_weight_decay_goes_from_its_first_to_its_last_value_and_biases_have_none(
    digits, monkeypatch
):
    seen = []
    step = torch.optim.AdamW.step

    def watched(self, *arguments, **named):
        seen.append([group["weight_decay"] for group in self.param_groups])
        return step(self, *arguments, **named)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    train(digits, changed(weight_decay=0.02, weight_decay_end=0.2))
    decayed, plain = zip(*seen, strict=True)
    assert (decayed[0], decayed[-1]) == pytest.approx((0.02, 0.2)) and list(decayed) == sorted(
        decayed
    )
    assert set(plain) == {0.0}


def test_local_views_of_another_size_train(digits):
    local = LocalViews(count=2, size=(4,), scale=(0.1, 0.4))
    _, history = train(digits, changed(views=replace(VIEWS, local=local)))
    assert math.isfinite(history.loss[-1]["loss"])


def test_bf16_trains_to_about_the_same_loss(digits):
    AcceleratorState._reset_state(reset_partial_state=True)  # the precision is set once a process
    model = tiny_model()
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    history = loop.pretrain(model, digits[0], SETTINGS, 0, accelerator)
    AcceleratorState._reset_state(reset_partial_state=True)
    assert history.loss[-1]["loss"] == pytest.approx(train(digits)[1].loss[-1]["loss"], rel=0.1)


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
def test_a_gpu_trains_in_bf16_and_goes_on_from_a_checkpoint(
    digits, every_step, compiled, monkeypatch
):
    settings = changed(epochs=3, channels_last=True, compile=compiled)
    on_cpu = train(digits, changed(epochs=3))[1]
    AcceleratorState._reset_state(reset_partial_state=True)
    gpu = Accelerator(mixed_precision="bf16")

    def on_gpu(model, checkpoints=None):
        return loop.pretrain(model, digits[0], settings, 0, gpu, checkpoints=checkpoints)

    whole = on_gpu(tiny_model())
    assert whole.loss[-1]["loss"] == pytest.approx(on_cpu.loss[-1]["loss"], rel=0.1)

    step = loop.Run.step

    def killed_at_step_7(self, *arguments):
        if self.steps_done == 7:
            raise InterruptedError
        step(self, *arguments)

    with monkeypatch.context() as patched, pytest.raises(InterruptedError):
        patched.setattr(loop.Run, "step", killed_at_step_7)
        on_gpu(tiny_model(), every_step)
    model = tiny_model(seed=9)
    resumed = on_gpu(model, every_step)
    AcceleratorState._reset_state(reset_partial_state=True)
    assert next(model.parameters()).is_cuda and len(resumed.loss) == 3
    assert resumed.loss[-1]["loss"] == pytest.approx(whole.loss[-1]["loss"], rel=0.02)


def test_a_compiled_encoder_trains_to_the_same_weights(digits, monkeypatch):
    """torch.compile traces it and runs it as it is: the same numbers without a C++ compiler."""
    traced = []

    def backend(graph, inputs):
        traced.append(len(graph.graph.nodes))
        return graph.forward

    kept = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self, **how: kept(self, backend=backend, **how)
    )
    monitor = Monitor(*(part[:100] for part in digits))
    compiled, plain = (
        train(digits, changed(compile=asked, epochs=1), monitor=monitor)[0]
        for asked in (True, False)
    )
    assert len(traced) == 2 and compiled.state_dict().keys() == plain.state_dict().keys()
    for name, tensor in compiled.state_dict().items():
        torch.testing.assert_close(tensor, plain.state_dict()[name], msg=name)


def test_channels_last_trains_to_about_the_same_loss(digits):
    losses = [
        train(digits, changed(channels_last=last))[1].loss[-1]["loss"] for last in (False, True)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_the_encoder_takes_a_batch_in_parts(digits):
    settings = store.ModelSettings(
        encoder="vit_tiny_patch16_224",
        image_size=8,
        channels=1,
        mean=(0.3,),
        std=(0.37,),
        hidden_dim=32,
        dim=8,
        kwargs={"patch_size": 2, "embed_dim": 16, "depth": 1, "num_heads": 2},
    )
    losses = []
    for parts in (1, 3):
        model, history = train(digits, changed(accumulate=parts), model=store.build_model(settings))
        assert model.encoder.parts == model.target[0].parts == parts
        losses.append(history.loss[-1]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    with pytest.raises(ConfigError, match="accumulate is 2; the encoder normalises by the batch"):
        train(digits, changed(accumulate=2))


def test_a_batch_larger_than_the_data_is_refused(digits):
    with pytest.raises(ConfigError, match="batch_size is 257; there are only 256 training images"):
        train(digits, changed(batch_size=257))


# --- guards ---------------------------------------------------------------------------------------


@pytest.fixture
def every_step(tmp_path):
    return Checkpoints(tmp_path, "a" * 16, every=0)


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


def test_training_leaves_the_global_generator_as_it_was(digits):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    train(digits, changed(epochs=1))
    assert torch.equal(torch.rand(1), expected)


def test_the_key_of_a_run_changes_with_settings_seed_images_and_watched_images(digits):
    images, labels = digits
    accelerator = Accelerator(cpu=True)
    monitor = Monitor(images[:10], labels[:10])
    runs = [
        (SETTINGS, images, 0, accelerator, monitor),
        (changed(lr=1e-3), images, 0, accelerator, monitor),
        (SETTINGS, images[1:], 0, accelerator, monitor),
        (SETTINGS, images, 1, accelerator, monitor),
        (SETTINGS, images, 0, accelerator, None),
    ]
    assert len({run_key(*run) for run in runs}) == 5
    assert run_key(*runs[0]) == run_key(*runs[0])
    assert run_key(*runs[0], model={"dim": 8}) != run_key(*runs[0])
    without = [run_key(*run, ("lr",)) for run in runs]
    assert without[0] == without[1] and len(set(without)) == 4
