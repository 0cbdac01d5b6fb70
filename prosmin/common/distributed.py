"""Training on several processes as if they were one: sums, gathers and batch normalisation over all of them.

Without a process group everything here is the identity. Gradients are right for a loss that is the *mean over processes*
of each one's loss, which is what DistributedDataParallel minimises: a value that came from every process hands the sum
of what all of them say about it back to each.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def world() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if world() > 1 else 0


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, value: Tensor) -> Tensor:
        value = value.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(value)
        return value

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return _Sum.apply(gradient)


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
        return _Sum.apply(gradient)[start : start + context.count]


def total(value: Tensor) -> Tensor:
    """The sum of ``value`` over processes, of any shape; differentiable."""
    return _Sum.apply(value) if world() > 1 else value


def mean(value: Tensor) -> Tensor:
    """The mean of ``value`` over processes, of any shape; differentiable."""
    return total(value) / world() if world() > 1 else value


def gather(value: Tensor) -> Tensor:
    """[N, ...] of each process, the same N -> [world * N, ...] in the order of ranks; differentiable."""
    return _Gather.apply(value) if world() > 1 else value


def least(values: list[float], device: torch.device) -> list[float]:
    """Of each number the smallest that a process names: how all of them come to one decision."""
    if world() == 1:
        return values
    agreed = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(agreed, dist.ReduceOp.MIN)
    return agreed.tolist()


def from_main(content: bytes | None, device: torch.device) -> bytes | None:
    """What the first process holds, or None where it holds nothing; the others' ``content`` is not looked at."""
    if world() == 1:
        return content
    length = torch.tensor([-1 if content is None or rank() else len(content)], device=device)
    dist.broadcast(length, 0)
    if length.item() < 0:
        return None
    if rank() == 0:
        data = torch.frombuffer(bytearray(content), dtype=torch.uint8).to(device)
    else:
        data = torch.empty(int(length), dtype=torch.uint8, device=device)
    dist.broadcast(data, 0)
    return data.cpu().numpy().tobytes()


class BatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation whose statistics, while training, are of the batches of all processes, on any backend.

    ``torch.nn.SyncBatchNorm`` is faster and for CUDA alone. Each process must hold a batch of the same size.
    """

    @classmethod
    def of(cls, layer: nn.modules.batchnorm._BatchNorm) -> "BatchNorm":
        """With the parameters and statistics of ``layer`` and, where it is timm's ``BatchNormAct2d``, its activation."""
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
        for after in self.children():  # of BatchNormAct2d: dropout, then activation
            output = after(output)
        return output

    def _normalise(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)
        axes = [axis for axis in range(input.dim()) if axis != 1]
        shape = [1, -1] + [1] * (input.dim() - 2)
        values = input.float()
        own = torch.stack(torch.var_mean(values, axes, correction=0))
        variances, averages = gather(own[None]).unbind(1)  # [world, C] each, in one exchange
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
        self.num_batches_tracked.add_(1)
        share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(average, share)
        self.running_var.lerp_(variance * (count / max(count - 1, 1)), share)


def synchronise_batch_norm(module: nn.Module, device: torch.device) -> None:
    """Make batch normalisation inside ``module`` span all processes; parameters and their names stay."""
    if world() == 1:
        return
    if device.type == "cuda":
        from timm.layers import (
            convert_sync_batchnorm,
        )  # PyTorch's own drops the activation of BatchNormAct2d

        convert_sync_batchnorm(module)
        return
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            module.register_module(name, BatchNorm.of(child))
        else:
            synchronise_batch_norm(child, device)
