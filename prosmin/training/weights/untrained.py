"""Give the untrained encoder, which every evaluation measures too, real batch statistics.

At its initial values batch normalisation in evaluation mode is the identity (mean 0, variance 1),
which no trained network has. The accuracy of such a network would depend on the scale of its
initial weights.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from prosmin.common.seeds import sample_rows
from prosmin.models.networks import Encoder
from prosmin.objectives.base import Objective

SAMPLE = 1024  # images at most, for the statistics
PIXELS = 2**22  # pixels of a batch, about


@torch.no_grad()
def set_statistics(
    model: Objective, images: Tensor, seed: int, but: nn.Module | None = None
) -> Objective:
    """Give the batch normalisation of ``model`` the statistics of a sample of images; returns it.

    images: uint8 [N, C, S, S], without augmentation.
    seed: of the sample.
    but: a part of the model whose statistics stay, because its weights were trained with them.

    Mean and variance are the means of those of batches (Wu & Johnson 2021, arXiv 2105.07576), in
    one pass through the layers that evaluation uses. A target network, which equals the online
    network before training, gets the same. No weight, no mode and no random state changes. Call it
    in one process and outside training. On a CPU one thread computes it, so that no number depends
    on the number of threads.
    """
    stays = set(but.modules()) if but is not None else set()
    norms = [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module not in stays
    ]
    layers = [layer for layer in norms if layer.running_mean is not None]
    rows = sample_rows(len(images), SAMPLE, seed, "statistics of the floor")
    chosen = images[torch.from_numpy(rows)]
    if not layers or len(chosen) < 2:
        return model
    kept = [(layer, layer.momentum, _counter(layer).clone()) for layer in layers]
    modes = [(module, module.training) for module in model.modules()]
    threads, device = torch.get_num_threads(), next(model.parameters()).device
    torch.set_num_threads(1)
    try:
        model.eval()
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # the mean over batches
        for module in model.modules():
            # Dropout and the like stay off; the encoder takes a batch whole.
            module.training = module in norms or isinstance(module, Encoder)
        for batch in _batches(chosen):
            model.describe(batch.to(device).float() / 255.0)
    finally:
        torch.set_num_threads(threads)
        for layer, momentum, tracked in kept:
            layer.momentum = momentum
            _counter(layer).copy_(tracked)
        for module, mode in modes:
            module.training = mode
    model.reset_target()
    return model


def _counter(layer: _BatchNorm) -> Tensor:
    """The number of batches that a layer with running statistics has seen, []."""
    assert layer.num_batches_tracked is not None
    return layer.num_batches_tracked


def _batches(images: Tensor) -> Iterator[Tensor]:
    """Batches of nearly one size, of at least two images."""
    size = max(2, PIXELS // images[0, 0].numel())
    yield from images.chunk(min(-(-len(images) // size), len(images) // 2))
