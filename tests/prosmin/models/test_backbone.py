"""Backbones are those of timm, and options that make none are one sentence."""

import pytest
import torch

from prosmin.common.errors import ConfigError
from prosmin.models.backbone import Patches, build_backbone

SMALL = {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        (
            {"block": "x"},
            "encoder.kwargs is {'block': 'x'}; "
            "timm cannot build resnet18 with it: AttributeError: ",
        ),
        (
            {"act_layer": "x"},
            "encoder.kwargs is {'act_layer': 'x'}; "
            "timm cannot build resnet18 with it: KeyError: 'x'",
        ),
        ({"layers": "ab"}, "timm cannot build resnet18 with it: TypeError: "),
        ({"layers": [1, 1]}, "resnet18 cannot take an image of 8 pixels with it: AttributeError: "),
        (
            {"layers": [2000, 1, 1, 1]},
            "encoder.kwargs.layers is [2000, 1, 1, 1]; it must be at most 1000 in all",
        ),
        (
            {"global_pool": ""},
            "resnet18 gives [1, 512, 1, 1] for an image, where [1, 512] is needed",
        ),
        (
            {"features_only": True},
            "encoder.kwargs.features_only is True; it must be left out; the encoder gives one",
        ),
        (
            {"num_classes": 10},
            "encoder.kwargs.num_classes is 10; it must be left out; the encoder has no classifier",
        ),
        ({"pretrained": True}, "it must be left out; weights of others come by pretrain.external"),
        (
            {"checkpoint_path": "x.pth"},
            "it must be left out; weights of others come by pretrain.external",
        ),
        ({"in_chans": 4}, "it must be left out; pretrain.channels says it"),
    ],
)
def test_an_option_that_makes_no_encoder_is_one_sentence(kwargs, says):
    with pytest.raises(ConfigError) as error:
        build_backbone("resnet18", 8, 3, kwargs=kwargs)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_to_try_a_backbone_leaves_it_as_it_was_made():
    import timm

    torch.manual_seed(0)
    built = build_backbone("resnet18", 8, 3, kwargs=SMALL)
    after = torch.rand(3)
    torch.manual_seed(0)
    plain = timm.create_model("resnet18", num_classes=0, in_chans=3, **SMALL)
    assert built.training and torch.equal(after, torch.rand(3))
    for name, tensor in plain.state_dict().items():
        assert torch.equal(built.state_dict()[name], tensor), name


def test_cifar_stem_keeps_the_resolution_of_the_first_stage():
    backbone = build_backbone("resnet18", 32, 3, True, SMALL)
    assert backbone.maxpool(backbone.conv1(torch.rand(1, 3, 32, 32))).shape[-2:] == (32, 32)


def test_cifar_stem_is_as_wide_as_the_stem_whose_place_it_takes():
    backbone = build_backbone(
        "resnet18", 32, 3, True, SMALL | {"stem_type": "deep", "stem_width": 4}
    )
    assert isinstance(backbone.conv1, torch.nn.Conv2d) and backbone.conv1.out_channels == 8
    assert backbone(torch.rand(2, 3, 32, 32)).shape == (2, backbone.num_features)


def test_vit_takes_views_of_another_resolution():
    kwargs = {"patch_size": 4, "embed_dim": 32, "depth": 1, "num_heads": 2}
    backbone = build_backbone("vit_tiny_patch16_224", 32, 3, kwargs=kwargs)
    assert backbone(torch.rand(2, 3, 16, 16)).shape == (2, 32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resnet_18", 32, 3), "did you mean 'resnet18'"),
        (
            ("vit_tiny_patch16_224", 30, 3),
            "multiple of the patch of vit_tiny_patch16_224, 16 pixels",
        ),
        (("vit_tiny_patch16_224", 32, 3, True), "needs a ResNet"),
        (("resnet18", 32, 3, False, {"depth": 3}), "timm cannot build resnet18"),
    ],
)
def test_what_timm_cannot_build_is_refused_in_one_sentence(arguments, message):
    with pytest.raises(ConfigError, match=message) as caught:
        build_backbone(*arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "convnext_atto"])
def test_patches_are_the_convolution_that_they_stand_for(name):
    backbone = build_backbone(name, 32, 3)
    (patches,) = [module for module in backbone.modules() if isinstance(module, Patches)]
    images = torch.rand(2, 3, 34, 35, requires_grad=True)  # the remainder at the end has no part
    ours, theirs = patches(images), torch.nn.Conv2d.forward(patches, images)
    torch.testing.assert_close(ours, theirs)
    slopes = torch.rand_like(ours)
    inputs = (images, *patches.parameters())
    for one, other in zip(
        torch.autograd.grad(ours, inputs, slopes), torch.autograd.grad(theirs, inputs, slopes)
    ):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_a_convolution_with_overlap_stays_one():
    backbone = build_backbone("resnet18", 32, 3)
    assert not any(isinstance(module, Patches) for module in backbone.modules())
