"""Frozen features of images, and the label-free scores of the networks, on all devices.

``on_devices`` keeps the devices of this process busy. Networks that do not learn exchange nothing,
so threads of one process are enough: what they call (decoders, copies to a device, kernels) runs
outside of the interpreter's lock. Processes, as training starts them, would each load the
libraries and open the data, and would send their features to one of them.
"""

import copy
import queue
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from prosmin.common.compute.backend import in_order
from prosmin.common.threads import one_thread_each
from prosmin.objectives.base import Description, Objective, outputs_of

Made = TypeVar("Made")
Output = TypeVar("Output")
Network = TypeVar("Network", bound=nn.Module)

# uint8 [n, C, S, S], or a function that makes them on the device that it is given.
Images = Tensor | Callable[[torch.device], Tensor]


@torch.inference_mode()
def embed(encoder: nn.Module, images: Tensor, batch_size: int = 512) -> np.ndarray:
    """Compute float32 features [N, F] of uint8 images [N, C, S, S], in their order.

    encoder: in evaluation mode.
    """
    return outputs_of(encoder, images, device_of(encoder), batch_size).numpy()


@dataclass(frozen=True)
class Embedding:
    """Features and label-free scores of N images.

    features: float32 [N, F].
    log_sigma: predicted log sigma, mean over dimensions, float32 [N]; ``None`` where the objective
        predicts no distribution.
    doubts: by name in ``prosmin.objectives.doubts``, float32 [N], high where unsure.
    """

    features: np.ndarray
    log_sigma: np.ndarray | None
    doubts: dict[str, np.ndarray]


@torch.inference_mode()
def describe(model: Objective, images: Tensor, batch_size: int = 512) -> Embedding:
    """Compute the embedding of uint8 images [N, C, S, S], in their order and in one pass.

    model: in evaluation mode.
    """
    device = device_of(model)
    parts = [
        _on_cpu(model.describe(batch.to(device).float() / 255.0))
        for batch in torch.split(images, batch_size)
    ]
    whole = {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}
    return Embedding(whole.pop("features"), whole.pop("log_sigma", None), whole)


def _on_cpu(description: Description) -> dict[str, Tensor]:
    """The fields of ``Embedding`` and the doubts by their names, of one batch."""
    rows = {"features": description.features, **description.doubts}
    if description.log_sigma is not None:
        rows["log_sigma"] = description.log_sigma.float().mean(1)
    return {name: values.float().cpu() for name, values in rows.items()}


# --- many parts on all devices --------------------------------------------------------------------


def device_of(network: nn.Module) -> torch.device:
    """The device that the network is on."""
    return next(network.parameters()).device


def devices() -> list[str]:
    """The devices that networks of this process run on: every visible GPU, else the CPU."""
    return [f"cuda:{number}" for number in range(torch.cuda.device_count())] or ["cpu"]


def on_devices(
    networks: Sequence[Network],
    parts: Iterable[Callable[[], Made]],
    work: Callable[[Sequence[Network], Made], Output],
    on: Sequence[str] | None = None,
) -> Generator[Output, None, None]:
    """Yield ``work(networks, part())`` of every part, in the order of the parts.

    On a CPU each thread of torch makes a part and works on it, by itself. On GPUs, as many threads
    make parts, each device has its copy of the networks, and a part goes to the first device that
    is free. So neither the threads nor the devices change a digit; the boundaries of the parts do.
    Of each thread two parts and outputs at most are in memory before they are taken.

    networks: in evaluation mode, at least one.
    parts: called in threads, some ahead of the output that is taken.
    on: the devices. None: those of ``devices``.
    An error in a part is raised in place of its output, and no further part begins.
    """
    on, makers = on or devices(), torch.get_num_threads()
    if list(on) == ["cpu"]:
        on, makers = ["cpu"] * makers, 0
    copies: dict[str, Sequence[Network]] = {}
    free: queue.SimpleQueue[Sequence[Network]] = queue.SimpleQueue()
    for device in on:
        free.put(copies.setdefault(device, moved(networks, device)))

    def output(part: Callable[[], Made]) -> Output:
        made, mine = part(), free.get()
        try:
            return work(mine, made)
        finally:
            free.put(mine)

    count = makers + len(on)
    if count == 1:
        yield from map(output, parts)
        return
    with one_thread_each(count) as pool:
        yield from in_order(pool, output, parts, 2 * count)


def moved(networks: Sequence[Network], device: str) -> Sequence[Network]:
    """The networks on a device, copied where they are elsewhere."""
    if all(device_of(network) == torch.device(device) for network in networks):
        return networks
    return [copy.deepcopy(network).to(device) for network in networks]


def embed_parts(
    encoders: Sequence[nn.Module],
    parts: Iterable[Callable[[], Images]],
    batch_size: int = 512,
    on: Sequence[str] | None = None,
) -> Generator[list[np.ndarray], None, None]:
    """Yield the features of every part, one array float32 [N, F] per encoder: ``on_devices``."""

    def work(encoders: Sequence[nn.Module], images: Images) -> list[np.ndarray]:
        made = images if isinstance(images, Tensor) else images(device_of(encoders[0]))
        return [embed(encoder, made, batch_size) for encoder in encoders]

    return on_devices(encoders, parts, work, on)
