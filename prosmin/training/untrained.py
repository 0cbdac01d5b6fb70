"""The floor of every evaluation: a network at its initial weights, its batch normalisation with
statistics of real images.

As initialised, batch normalisation in evaluation mode is the identity (mean 0, variance 1), which no
trained network has; what such a network is worth then depends on the scale of its initial weights.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from prosmin.common.seeds import sample_rows
from prosmin.models.networks import Encoder
from prosmin.objectives.base import Distilling, Objective

SAMPLE = 1024  # at most so many images behind the statistics
PIXELS = 2**22  # about so many of them in a batch


@torch.no_grad()
def set_statistics(model: Objective, images: Tensor, seed: int) -> Objective:
    """Give the batch normalisation of ``model`` the statistics of a sample of images, drawn by the
    seed, no label seen; returns it.

    images: uint8 [N, C, S, S], un-augmented. Mean and variance are the means over batches of theirs
    (Wu & Johnson 2021, arXiv 2105.07576), taken in one pass of the layers that evaluation reads; a
    target network, at first equal to the online one, gets what that got. Nothing else changes: no
    weight, no mode, no random state. Call it in one process and outside training; on a CPU one thread
    computes it, so that no number depends on how many there are.
    """
    layers = [each for each in model.modules() if isinstance(each, _BatchNorm)]
    layers = [each for each in layers if each.running_mean is not None]
    rows = sample_rows(len(images), SAMPLE, seed, "statistics of the floor")
    chosen = images[torch.from_numpy(rows)]
    if not layers or len(chosen) < 2:
        return model
    kept = [(each, each.momentum, each.num_batches_tracked.clone()) for each in layers]
    modes = [(each, each.training) for each in model.modules()]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model.eval()
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # the mean over batches
        for module in model.modules():
            # Dropout and the like stay off; the encoder takes a batch whole.
            module.training = isinstance(module, _BatchNorm | Encoder)
        for batch in _batches(chosen):
            model.describe(batch.to(layers[0].running_mean.device).float() / 255.0)
    finally:
        torch.set_num_threads(threads)
        for layer, momentum, tracked in kept:
            layer.momentum = momentum
            layer.num_batches_tracked.copy_(tracked)
        for module, mode in modes:
            module.training = mode
    if isinstance(model, Distilling):
        for copied, original in zip(model.target, model._online, strict=True):
            copied.load_state_dict(original.state_dict())
    return model


def _batches(images: Tensor) -> Iterator[Tensor]:
    """Batches of nearly one size, of at least two images."""
    size = max(2, PIXELS // images[0, 0].numel())
    yield from images.chunk(min(-(-len(images) // size), len(images) // 2))
