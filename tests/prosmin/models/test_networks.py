"""Encoders, heads and momentum copies compute what they document."""

import math

import pytest
import torch

from prosmin.common.errors import ConfigError
from prosmin.models.backbone import build_backbone
from prosmin.models.networks import (
    WIDTHS,
    Encoder,
    GaussianHead,
    Projector,
    WidthHead,
    momentum_copy,
    update_momentum,
)

SMALL = {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}


@pytest.mark.parametrize(
    ("name", "size", "channels", "stem", "kwargs"),
    [
        ("resnet18", 8, 1, True, SMALL),
        ("resnet18", 32, 3, True, {}),
        ("resnet18", 64, 3, False, SMALL),
        (
            "vit_tiny_patch16_224",
            8,
            1,
            False,
            {"patch_size": 2, "embed_dim": 32, "depth": 2, "num_heads": 2},
        ),
        ("convnext_atto", 32, 3, False, {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]}),
    ],
)
def test_encoder_of_any_family_maps_images_to_features(name, size, channels, stem, kwargs):
    encoder = Encoder(
        build_backbone(name, size, channels, stem, kwargs), [0.5] * channels, [0.25] * channels
    )
    assert encoder(torch.rand(2, channels, size, size)).shape == (2, encoder.num_features)


def test_encoder_normalises_its_input():
    identity = torch.nn.Identity()
    identity.num_features = 1
    encoder = Encoder(identity, [0.2], [0.5])
    assert float(encoder(torch.full((1, 1, 1, 1), 0.7))) == pytest.approx(1.0)


class Recording(torch.nn.Module):
    num_features = 1

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, images):
        self.seen.append(len(images))
        return images.mean((1, 2, 3))[:, None]


@pytest.mark.parametrize(
    ("size", "parts"), [(32, [64, 36]), (64, [16] * 6 + [4]), (128, [8] * 12 + [4]), (8, [100])]
)
def test_on_a_cpu_a_batch_is_evaluated_in_parts_of_as_many_pixels_and_trained_on_whole(size, parts):
    images = torch.rand(100, 3, size, size)
    encoder = Encoder(Recording(), [0.0] * 3, [1.0] * 3)
    whole = encoder(images)
    torch.testing.assert_close(encoder.eval()(images), whole, rtol=0, atol=1e-6)
    assert encoder.backbone.seen == [100, *parts]


def test_log_sigma_stays_within_its_clamp():
    head = GaussianHead(4, (-1.0, 0.5))
    with torch.no_grad():
        _, log_sigma = head(100 * torch.randn(64, 4, generator=torch.Generator().manual_seed(0)))
    assert float(log_sigma.min()) == -1.0 and float(log_sigma.max()) == 0.5


@pytest.mark.parametrize("how", ["predicted", "constant", "fixed"])
def test_the_width_starts_at_its_initial_value(how):
    torch.manual_seed(0)
    head = WidthHead(4, how, 0.3)
    assert head(torch.zeros(2, 4)).tolist() == pytest.approx([math.log(0.3)] * 2)
    projection = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        log_width = head(projection.bfloat16())
    assert log_width.dtype == torch.float32 and log_width.shape == (64,)
    assert (len(log_width.unique()) > 1) == (how == "predicted")
    assert [name for name, _ in head.named_parameters()] == {
        "predicted": ["linear.weight", "linear.bias"],
        "constant": ["bias"],
        "fixed": [],
    }[how]


@pytest.mark.parametrize("how", ["predicted", "constant"])
def test_a_width_comes_back_from_its_bounds(how):
    """Wrong answers drive a width up, as in the first steps of a training; right ones down."""
    torch.manual_seed(0)
    head = WidthHead(64, how, 0.45)
    projection = torch.randn(128, 64)
    optimiser = torch.optim.AdamW(head.parameters(), lr=0.005)
    reached = []
    for sign in (-1.0, 1.0):
        for _ in range(2000):
            mean = head(projection).mean()
            optimiser.zero_grad()
            (sign * mean).backward()
            optimiser.step()
        reached.append(mean.exp().item())
    assert WIDTHS[1] > reached[0] > 0.8 and WIDTHS[0] < reached[1] < 0.45


def test_momentum_copy_shares_no_storage_and_takes_no_gradient():
    projector = Projector(4, 8, 2)
    (copied,) = momentum_copy(projector)
    with torch.no_grad():
        projector[0].weight.add_(1.0)
    assert not torch.equal(copied[0].weight, projector[0].weight)
    assert not any(parameter.requires_grad for parameter in copied.parameters())


def test_a_target_that_aliases_the_online_network_is_caught(monkeypatch):
    """The published code takes the online backbone itself as target, which then never trains."""
    monkeypatch.setattr("prosmin.models.networks.copy.deepcopy", lambda module: module)
    with pytest.raises(AssertionError, match="shares storage"):
        momentum_copy(Projector(4, 8, 2))


def test_a_frozen_online_parameter_is_caught():
    projector = Projector(4, 8, 2)
    projector[0].weight.requires_grad_(False)
    with pytest.raises(AssertionError, match="frozen"):
        momentum_copy(projector)


def test_momentum_update_is_the_moving_average():
    online = Projector(3, 5, 2)
    target = momentum_copy(online)
    before = [parameter.clone() for parameter in target.parameters()]
    with torch.no_grad():
        for parameter in online.parameters():
            parameter.add_(torch.randn_like(parameter))
    update_momentum(target, [online], 0.75)
    for old, now, new in zip(before, target.parameters(), online.parameters(), strict=True):
        torch.testing.assert_close(now, 0.75 * old + 0.25 * new)
    update_momentum(target, [online], 0.0)
    for now, new in zip(target.parameters(), online.parameters(), strict=True):
        torch.testing.assert_close(now, new.detach())


def vit(**changes):
    torch.manual_seed(0)
    kwargs = {"patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2, **changes}
    return Encoder(
        build_backbone("vit_tiny_patch16_224", 16, 3, kwargs=kwargs), [0.5] * 3, [0.25] * 3
    )


def features_gradients_and_memory(encoder, parts):
    """And bytes of activations that are held for the backward pass."""
    held = 0

    def pack(tensor):
        nonlocal held
        held += tensor.nbytes
        return tensor

    encoder.in_parts(parts)
    images = torch.rand(10, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        features = encoder(images)
    features.square().sum().backward()
    return (
        features.detach(),
        torch.cat([parameter.grad.flatten() for parameter in encoder.parameters()]),
        held,
    )


def test_a_batch_in_parts_gives_the_same_features_and_gradients_and_holds_less():
    (whole, gradient, much), (parted, again, little) = (
        features_gradients_and_memory(vit(), parts) for parts in (1, 4)
    )
    torch.testing.assert_close(parted, whole)
    torch.testing.assert_close(again, gradient, atol=1e-5, rtol=1e-4)
    assert little < 0.1 * much


def test_parts_are_for_training_and_for_more_images_than_parts():
    encoder, images = vit(), torch.rand(3, 3, 16, 16)
    whole = encoder(images)
    encoder.in_parts(8)
    torch.testing.assert_close(encoder(images), whole)
    torch.testing.assert_close(encoder.eval()(images), whole)


def test_parts_of_a_batch_are_refused_where_the_encoder_normalises_by_it():
    encoder = Encoder(build_backbone("resnet18", 8, 1, True, SMALL), [0.5], [0.25])
    encoder.in_parts(1)
    with pytest.raises(ConfigError, match="accumulate is 2; the encoder normalises by the batch"):
        encoder.in_parts(2)


def test_channels_last_changes_the_layout_and_not_the_features():
    encoder = Encoder(build_backbone("resnet18", 8, 3, True, SMALL), [0.5] * 3, [0.25] * 3)
    images = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    expected = encoder(images)
    encoder.to(memory_format=torch.channels_last).channels_last = True
    seen = []
    encoder.backbone.conv1.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    torch.testing.assert_close(encoder(images), expected, atol=1e-5, rtol=1e-4)
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
