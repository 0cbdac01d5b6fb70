"""Training as a whole: what moves, what it notes, and the precisions and layouts it runs in."""

import math
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from prosmin.common.errors import ConfigError
from prosmin.models import networks, store
from prosmin.training import loop
from prosmin.training.settings import Target
from prosmin.training.watch.monitor import Monitor
from prosmin.views.settings import LocalViews
from tests.prosmin.training.tiny import SETTINGS, VIEWS, changed, tiny_model, train


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


def test_training_leaves_the_global_generator_as_it_was(digits):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    train(digits, changed(epochs=1))
    assert torch.equal(torch.rand(1), expected)
