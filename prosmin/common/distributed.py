"""Train on several processes as on one: sums, gathers and batch normalisation over all processes.

Without a process group every function here is the identity. Gradients are right for the mean of the
processes' losses, which DistributedDataParallel minimises: the gradient of a value from all
processes is the sum of their gradients.
"""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

_ALONE = ContextVar("alone", default=False)


@contextmanager
def alone() -> Iterator[None]:
    """Within it this process computes by itself, as without a process group."""
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)


def world() -> int:
    """Return the number of processes."""
    if _ALONE.get():
        return 1
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if world() > 1 else 0


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, value: Tensor) -> Tensor:
        value = value.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(value)
        return value

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        summed: Tensor = _Sum.apply(gradient)
        return summed


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, value: Tensor) -> Tensor:
        context.count = len(value)
        parts = [
            torch.empty_like(value, memory_format=torch.contiguous_format) for _ in range(world())
        ]
        dist.all_gather(parts, value.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        start = rank() * context.count
        own: Tensor = _Sum.apply(gradient)[start : start + context.count]
        return own


def total(value: Tensor) -> Tensor:
    """Sum a value of any shape over processes; differentiable."""
    return _Sum.apply(value) if world() > 1 else value


def mean(value: Tensor) -> Tensor:
    """Average a value of any shape over processes; differentiable."""
    return total(value) / world() if world() > 1 else value


def gather(value: Tensor) -> Tensor:
    """Concatenate [N, ...] of all processes, N equal, to [world * N, ...]; differentiable."""
    return _Gather.apply(value) if world() > 1 else value


def broadcast(value: Tensor) -> Tensor:
    """Send the first process's ``value`` to all processes; no gradient passes."""
    if world() == 1:
        return value
    sent = value.detach().clone(memory_format=torch.contiguous_format)
    dist.broadcast(sent, 0)
    return sent


def least(values: list[float], device: torch.device) -> list[float]:
    """Return the smallest of each number over processes, so that they come to one decision."""
    if world() == 1:
        return values
    agreed = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(agreed, dist.ReduceOp.MIN)
    smallest: list[float] = agreed.tolist()
    return smallest


def from_main(content: bytes | None, device: torch.device) -> bytes | None:
    """Send the first process's ``content`` to all processes; theirs is ignored."""
    if world() == 1:
        return content
    mine = content if rank() == 0 else None
    length = torch.tensor([-1 if mine is None else len(mine)], device=device)
    dist.broadcast(length, 0)
    if length.item() < 0:
        return None
    if mine is not None:
        data = torch.frombuffer(bytearray(mine), dtype=torch.uint8).to(device)
    else:
        data = torch.empty(int(length), dtype=torch.uint8, device=device)
    dist.broadcast(data, 0)
    return data.cpu().numpy().tobytes()


class BatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation with training statistics over the batches of all processes.

    It runs on any backend; ``torch.nn.SyncBatchNorm`` is faster and needs CUDA. All processes must
    hold batches of one size.
    """

    @classmethod
    def of(cls, layer: nn.modules.batchnorm._BatchNorm) -> "BatchNorm":
        """Return a layer with the parameters, statistics and activation of another layer.

        layer: of PyTorch, or timm's ``BatchNormAct2d``, which has an activation.
        """
        options = (
            layer.num_features,
            layer.eps,
            layer.momentum,
            layer.affine,
            layer.track_running_stats,
        )
        own = cls(*options).train(layer.training)
        own._parameters, own._buffers = layer._parameters, layer._buffers
        for name, child in layer.named_children():
            own.add_module(name, child)
        return own

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected [B, C, ...], got {input.dim()} dimension(s)")

    def forward(self, input: Tensor) -> Tensor:
        output = self._normalise(input) if self.training and world() > 1 else super().forward(input)
        for after in self.children():  # dropout and activation of timm's BatchNormAct2d
            output = after(output)
        return output

    def _normalise(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)
        axes = [axis for axis in range(input.dim()) if axis != 1]
        shape = [1, -1] + [1] * (input.dim() - 2)
        values = input.float()
        own = torch.stack(torch.var_mean(values, axes, correction=0))
        # Both [world, C], in one exchange.
        variances, averages = gather(own[None]).unbind(1)
        average, variance = averages.mean(0), variances.mean(0) + averages.var(0, correction=0)
        if self.track_running_stats:
            self._follow(average, variance, input.numel() // input.shape[1] * world())
        scale = torch.rsqrt(variance + self.eps)
        if self.affine:
            scale = scale * self.weight
        output = (values - average.view(shape)) * scale.view(shape)
        return (output + self.bias.view(shape) if self.affine else output).to(input.dtype)

    @torch.no_grad()
    def _follow(self, average: Tensor, variance: Tensor, count: int) -> None:
        seen, running_mean, running_var = (
            self.num_batches_tracked,
            self.running_mean,
            self.running_var,
        )
        assert seen is not None and running_mean is not None and running_var is not None
        seen.add_(1)
        share = 1.0 / float(seen) if self.momentum is None else self.momentum
        running_mean.lerp_(average, share)
        running_var.lerp_(variance * (count / max(count - 1, 1)), share)


def synchronise_batch_norm(module: nn.Module, device: torch.device) -> None:
    """Make batch normalisation inside ``module`` span all processes; names of parameters stay."""
    if world() == 1:
        return
    if device.type == "cuda":
        # PyTorch's own function drops the activation of BatchNormAct2d.
        importlib.import_module("timm.layers").convert_sync_batchnorm(module)
        return
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            module.register_module(name, BatchNorm.of(child))
        else:
            synchronise_batch_norm(child, device)
