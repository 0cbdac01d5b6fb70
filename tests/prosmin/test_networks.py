import pytest
import torch

from prosmin.errors import ConfigError
from prosmin.networks import Encoder, GaussianHead, Projector, build_backbone, momentum_copy, update_momentum

SMALL = {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}


@pytest.mark.parametrize(
    ("name", "size", "channels", "stem", "kwargs"),
    [
        ("resnet18", 8, 1, True, SMALL),
        ("resnet18", 32, 3, True, {}),
        ("resnet18", 64, 3, False, SMALL),
        ("vit_tiny_patch16_224", 8, 1, False, {"patch_size": 2, "embed_dim": 32, "depth": 2, "num_heads": 2}),
        ("convnext_atto", 32, 3, False, {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]}),
    ],
)
def test_encoder_of_any_family_maps_images_to_features(name, size, channels, stem, kwargs):
    encoder = Encoder(build_backbone(name, size, channels, stem, kwargs), [0.5] * channels, [0.25] * channels)
    assert encoder(torch.rand(2, channels, size, size)).shape == (2, encoder.num_features)


def test_cifar_stem_keeps_the_resolution_of_the_first_stage():
    backbone = build_backbone("resnet18", 32, 3, True, SMALL)
    assert backbone.maxpool(backbone.conv1(torch.rand(1, 3, 32, 32))).shape[-2:] == (32, 32)


def test_vit_takes_views_of_another_resolution():
    kwargs = {"patch_size": 4, "embed_dim": 32, "depth": 1, "num_heads": 2}
    backbone = build_backbone("vit_tiny_patch16_224", 32, 3, kwargs=kwargs)
    assert backbone(torch.rand(2, 3, 16, 16)).shape == (2, 32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resnet_18", 32, 3), "did you mean 'resnet18'"),
        (("vit_tiny_patch16_224", 30, 3), "multiple of the patch of vit_tiny_patch16_224, 16 pixels"),
        (("vit_tiny_patch16_224", 32, 3, True), "needs a ResNet"),
        (("resnet18", 32, 3, False, {"depth": 3}), "timm cannot build resnet18"),
    ],
)
def test_what_timm_cannot_build_is_refused_in_one_sentence(arguments, message):
    with pytest.raises(ConfigError, match=message) as caught:
        build_backbone(*arguments)
    assert "\n" not in str(caught.value)


def test_encoder_normalises_its_input():
    identity = torch.nn.Identity()
    identity.num_features = 1
    encoder = Encoder(identity, [0.2], [0.5])
    assert float(encoder(torch.full((1, 1, 1, 1), 0.7))) == pytest.approx(1.0)


def test_log_sigma_stays_within_its_clamp():
    head = GaussianHead(4, (-1.0, 0.5))
    with torch.no_grad():
        _, log_sigma = head(100 * torch.randn(64, 4, generator=torch.Generator().manual_seed(0)))
    assert float(log_sigma.min()) == -1.0 and float(log_sigma.max()) == 0.5


def test_momentum_copy_shares_no_storage_and_takes_no_gradient():
    projector = Projector(4, 8, 2)
    (copied,) = momentum_copy(projector)
    with torch.no_grad():
        projector[0].weight.add_(1.0)
    assert not torch.equal(copied[0].weight, projector[0].weight)
    assert not any(parameter.requires_grad for parameter in copied.parameters())


def test_a_target_that_aliases_the_online_network_is_caught(monkeypatch):
    """The published code wraps the online backbone itself as its target; no backbone tensor then trains."""
    monkeypatch.setattr("prosmin.networks.copy.deepcopy", lambda module: module)
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
