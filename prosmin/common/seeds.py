"""Seeds: the one place that derives random numbers.

The rule: random numbers are a pure function of the run's seed, of the purpose that they serve, and
of the place where they are used (epoch, step, rank, block of images). No generator outlives its
use. So a resumed run needs no generator's state, and no setting shifts the draws of another.

=========================  =====================================================================
``generator``              NumPy, by the name of the purpose: splits, held-out labels, few labels,
                           resamples of the bootstrap, variants of datasets
``sample_rows``            NumPy, through ``generator``: a sample of images that stands for all
``epoch_order``            PyTorch: the order of the training images
``view_generator``         PyTorch: the colours of views; of images in memory their crops, too
``box_generator``          PyTorch: the crops of images that are decoded during training
``loss_generator``         PyTorch: the samples of a Monte Carlo loss and the noise of targets
``seed_networks``          PyTorch's global generators: dropout and stochastic depth
``initial_weights``        PyTorch's global generators: the weights of a new model
``prediction_generator``   PyTorch: the views of the evaluation of predictions
``corruption_generator``   PyTorch: the corruptions of one block of images
``constant_generator``     PyTorch: pictures that are part of the method, the same for every seed
=========================  =====================================================================

The functions mix seed, purpose and place in several ways, through ``numpy.random.SeedSequence``
apart from ``initial_weights`` and ``constant_generator``. They stay as they are, because a change
of the arithmetic would change every result. A new purpose takes ``generator``, or a new number in
``_Purpose``.

The functions of torch import it when they are called, so that a program without torch can use the
others.
"""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch


# --- NumPy ----------------------------------------------------------------------------------------


def generator(seed: int, purpose: str, *key: int) -> np.random.Generator:
    """Return a generator for one purpose, independent of the generators of all other purposes.

    purpose: a short name, such as ``"examples"``.
    key: whole numbers; every call with the same purpose gives equally many.
    """
    # A name holds no 0, so that no other name goes on as this one does with its key.
    return np.random.default_rng([seed, *purpose.encode(), *((0, *key) if key else ())])


def sample_rows(count: int, limit: int, seed: int, purpose: str) -> NDArray[np.int64]:
    """Draw ``limit`` of ``count`` rows at random without replacement, or all where there are fewer.

    Files often lie sorted by class, or with the classes in turn. Then neither the first rows nor
    every n-th row is a fair sample.

    Returns: row numbers, int64 [min(count, limit)], ascending.
    """
    if count <= limit:
        return np.arange(count)
    return np.sort(generator(seed, purpose, count).choice(count, limit, replace=False))


# --- the steps of a training run ------------------------------------------------------------------


class _Purpose(IntEnum):
    """Part of the seed of every generator of a training run, so that no two purposes share one."""

    ORDER = 0
    VIEWS = 1
    LOSS = 2
    NETWORKS = 3
    BOXES = 4


def _step_seed(*key: int) -> int:
    """Mix non-negative integers into a seed of at most 63 bits."""
    # The length goes first, because (0,) and (0, 0) alone seed alike.
    words = np.random.SeedSequence((len(key), *key)).generate_state(2, np.uint32)
    return int(words[0]) << 31 ^ int(words[1])


def _step_generator(device: "torch.device", *key: int) -> "torch.Generator":
    import torch

    return torch.Generator(device).manual_seed(_step_seed(*key))


def epoch_order(count: int, batch_size: int, seed: int, epoch: int) -> "torch.Tensor":
    """Shuffle the images of one epoch; the last batch is dropped where it is not full.

    count: number of training images.
    batch_size: images per step over all processes.

    Returns: row numbers, int64 [count // batch_size, batch_size].
    """
    import torch

    source = _step_generator(torch.device("cpu"), seed, _Purpose.ORDER, epoch)
    order = torch.randperm(count, generator=source)
    steps = count // batch_size
    return order[: steps * batch_size].view(steps, batch_size)


def view_generator(
    device: "torch.device", seed: int, epoch: int, step: int, rank: int
) -> "torch.Generator":
    """Return the generator for the views of one batch, on the device of its images."""
    return _step_generator(device, seed, _Purpose.VIEWS, epoch, step, rank)


def box_generator(seed: int, epoch: int, step: int, rank: int) -> "torch.Generator":
    """Return the generator for the crops of one batch, on the CPU, which decodes the images."""
    import torch

    return _step_generator(torch.device("cpu"), seed, _Purpose.BOXES, epoch, step, rank)


def loss_generator(
    device: "torch.device", seed: int, epoch: int, step: int, rank: int
) -> "torch.Generator":
    """Return the generator for the random numbers of the loss of one batch."""
    return _step_generator(device, seed, _Purpose.LOSS, epoch, step, rank)


def seed_networks(seed: int, epoch: int, step: int, rank: int) -> None:
    """Seed torch's global generators for one step: dropout and stochastic depth draw from them."""
    import torch

    torch.manual_seed(_step_seed(seed, _Purpose.NETWORKS, epoch, step, rank))


# --- models and evaluation ------------------------------------------------------------------------


@contextmanager
def initial_weights(seed: int) -> Iterator[None]:
    """Seed torch's global generator of the CPU within the block; afterwards it is as before."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def prediction_generator(device: "torch.device", seed: int, purpose: int) -> "torch.Generator":
    """Return the generator for the views of one pass over images that evaluates predictions.

    purpose: number of the pass.
    """
    import torch

    state = np.random.SeedSequence((seed, purpose)).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(state[0]) >> 1)


def corruption_generator(
    device: "torch.device", seed: int, name: str, severity: int, block: int
) -> "torch.Generator":
    """Return the generator for one type of corruption, at one severity, of one block of images."""
    import torch

    entropy = [seed, zlib.crc32(name.encode()), severity, block]
    state = np.random.SeedSequence(entropy).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(state[0]))


def constant_generator() -> "torch.Generator":
    """Return a generator on the CPU that is the same in every run, whatever its seed."""
    import torch

    return torch.Generator().manual_seed(0)
