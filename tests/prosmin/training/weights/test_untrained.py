"""The untrained encoder: batch statistics against a walk through the network; all else stays."""

import copy

import pytest
import torch
from torch import nn

from prosmin.common.seeds import sample_rows
from prosmin.models import store
from prosmin.objectives.base import Distilling
from prosmin.training.weights.untrained import SAMPLE, set_statistics
from tests import gang

NARROW = {"layers": [1, 1, 1, 1], "channels": [4, 4, 4, 8], "zero_init_last": False}


def network(name: str = "prosmin", encoder: str = "resnet18", **kwargs):
    stem = encoder == "resnet18"
    settings = store.ModelSettings(
        encoder, 8, 1, (0.3,), (0.38,), 16, 8,
        cifar_stem=stem, kwargs=kwargs or (NARROW if stem else {}),
        objective={"name": name},
    )  # fmt: skip
    return store.build_model(settings, seed=3)


def pictures(count: int, seed: int = 0):
    return torch.randint(
        0, 256, (count, 1, 8, 8), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8
    )


def norms(module: nn.Module) -> list[nn.Module]:
    return [
        layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)
    ]


def test_a_part_with_statistics_of_its_own_keeps_them():
    model = network()
    kept = {key: tensor.clone() for key, tensor in model.encoder.state_dict().items()}
    set_statistics(model, pictures(100), 0, but=model.encoder)
    assert all(torch.equal(kept[key], tensor) for key, tensor in model.encoder.state_dict().items())
    assert all(layer.running_mean.abs().max() > 0 for layer in norms(model.projector))
    assert model.target[0].state_dict().keys() == kept.keys()


@pytest.mark.parametrize("name", ["prosmin", "published", "byol", "simclr", "external"])
def test_each_layer_normalises_the_images_to_mean_0_and_variance_1(name):
    """With the statistics of the batch every layer outputs its bias and scale, 0 and 1."""
    model, images, seen = network(name), pictures(300), {}
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    for layer in norms(model.eval().encoder):
        layer.register_forward_hook(lambda layer, _, out: seen.__setitem__(layer, out.clone()))
    with torch.inference_mode():
        model.encoder(images / 255)
    assert max((out.std((0, 2, 3)) - 1).abs().max() for out in seen.values()) > 0.3  # as it was
    set_statistics(model, images, 0)
    assert all(
        torch.equal(tensor, before[key])
        for key, tensor in model.state_dict().items()
        if "running_" not in key
    )
    with torch.inference_mode():
        model.encoder(images / 255)
    assert len(seen) == len(norms(model.encoder)) > 8
    for out in seen.values():
        assert (
            out.mean((0, 2, 3)).abs().max() < 1e-2 and (out.std((0, 2, 3)) - 1).abs().max() < 1e-2
        )
    if isinstance(model, Distilling):
        pair = zip(
            model.target.state_dict().values(),
            nn.ModuleList(model._online).state_dict().values(),
            strict=True,
        )
        assert all(torch.equal(*tensors) for tensors in pair)


def test_statistics_are_the_means_over_batches_of_a_seeded_sample():
    model, images = network(), pictures(SAMPLE + 200)
    set_statistics(model, images, 5)
    chosen = images[
        torch.from_numpy(sample_rows(len(images), SAMPLE, 5, "statistics of the floor"))
    ]
    inside = model.encoder.backbone.conv1((chosen / 255 - 0.3) / 0.38).detach()
    layer = model.encoder.backbone.bn1
    torch.testing.assert_close(layer.running_mean, inside.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.running_var, inside.var((0, 2, 3)), rtol=1e-4, atol=1e-5)
    other = set_statistics(network(), images, 6)
    assert not torch.equal(other.encoder.backbone.bn1.running_mean, layer.running_mean)


def test_modes_threads_and_random_states_are_left_alone():
    model = network().train()
    model.projector.eval()
    modes, state, threads = (
        [module.training for module in model.modules()],
        torch.get_rng_state(),
        torch.get_num_threads(),
    )
    moments = [layer.momentum for layer in norms(model)]
    set_statistics(model, pictures(40), 0)
    assert modes == [module.training for module in model.modules()] and torch.equal(
        state, torch.get_rng_state()
    )
    assert threads == torch.get_num_threads() and moments == [
        layer.momentum for layer in norms(model)
    ]


@pytest.mark.parametrize("images", [0, 1])
def test_too_few_images_and_networks_without_batch_normalisation_are_left_as_they_are(images):
    model = network()
    before = copy.deepcopy(model.state_dict())
    set_statistics(model, pictures(images), 0)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    plain = network("external", "vit_tiny_patch16_224", img_size=8, patch_size=4, depth=1)
    before = copy.deepcopy(plain.state_dict())
    set_statistics(plain, pictures(40), 0)
    assert all(torch.equal(tensor, before[key]) for key, tensor in plain.state_dict().items())


def _statistics(threads: int) -> list[torch.Tensor]:
    torch.set_num_threads(threads)
    return [
        tensor
        for key, tensor in set_statistics(network(), pictures(500), 1).state_dict().items()
        if "running" in key
    ]


def test_no_number_depends_on_threads_or_processes():
    alone, two = gang.run(_statistics, 2, world=1)[0], gang.run(_statistics, 1, world=2)[0]
    assert all(torch.equal(*tensors) for tensors in zip(alone, two, strict=True))
