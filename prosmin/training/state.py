"""What is kept of a run: its key, its history, and its state in checkpoints."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from prosmin.common import distributed
from prosmin.data.dataset import checksum
from prosmin.data.feed import Feed, Resident
from prosmin.training import checkpoint
from prosmin.training.checkpoint import Arrays, Checkpoints
from prosmin.training.monitor import Monitor
from prosmin.training.settings import TrainSettings


@dataclass
class History:
    """The course of a run.

    loss: one row per epoch.
    diagnostics: one row per observation of the monitor, the first before step 1.
    """

    loss: list[dict[str, float]] = field(default_factory=list)
    diagnostics: list[dict[str, float]] = field(default_factory=list)
    images_per_second: float = math.nan


def run_key(
    settings: TrainSettings,
    images: Tensor | Feed,
    seed: int,
    accelerator: Accelerator,
    monitor: Monitor | None,
    **facts: Any,
) -> str:
    """The key of a run's checkpoints, which changes with everything that determines the result.

    facts: about the model, as JSON or dataclasses.
    """
    device = f"cpu, {torch.get_num_threads()} threads"
    if accelerator.device.type == "cuda":
        device = torch.cuda.get_device_name(accelerator.device)
    watched = (monitor.images, monitor.labels, monitor.bank, monitor.bank_labels) if monitor else ()
    return checkpoint.key(
        **facts,
        settings=settings,
        seed=seed,
        images=[feed_of(images).facts(), checksum(*watched)],
        processes=accelerator.num_processes,
        precision=str(accelerator.mixed_precision),
        device=device,
    )


def feed_of(images: Tensor | Feed) -> Feed:
    """Images uint8 [N, C, H, W] as a feed; a feed as it is."""
    return Resident(images) if isinstance(images, Tensor) else images


@dataclass(frozen=True)
class Restored:
    """The place in a run that a checkpoint has.

    path: of the checkpoint, in the process that read it.
    losses, norms: of the steps of the running epoch, [steps].
    """

    path: Path | None
    step: int
    history: History
    losses: Tensor
    norms: Tensor


class Keeper:
    """Saves a run to its checkpoints and restores it.

    The first process reads and writes; all processes call each method at the same step.

    checkpoints: ``None`` keeps nothing.
    saved: the step of the last good checkpoint.
    """

    def __init__(
        self,
        checkpoints: Checkpoints | None,
        model: nn.Module,
        optimizer: Optimizer,
        accelerator: Accelerator,
    ):
        self.checkpoints, self.model, self.optimizer = checkpoints, model, optimizer
        self.device, self.rank = accelerator.device, accelerator.process_index
        self.main = accelerator.is_main_process
        self.saved: int | None = None

    @property
    def every(self) -> float:
        """Seconds between two checkpoints, at least."""
        return math.inf if self.checkpoints is None else self.checkpoints.every

    def due(self, epoch_ends: bool) -> bool:
        """Is it time for a checkpoint?"""
        return self.checkpoints is not None and self.checkpoints.due(epoch_ends)

    def save(self, step: int, history: History, losses: list[Tensor], norms: list[Tensor]) -> None:
        """Write a checkpoint. losses, norms: of the running epoch's steps, in this process."""
        empty = torch.empty(0, device=self.device)
        of_all = distributed.gather((torch.stack(losses) if losses else empty)[None])
        if not self.main or self.checkpoints is None:
            return
        arrays = to_arrays(
            self.model,
            self.optimizer,
            losses=of_all,  # [processes, steps]
            norms=torch.stack(norms) if norms else empty,
        )
        rows = {"loss": history.loss, "diagnostics": history.diagnostics}
        if self.checkpoints.save(step, arrays, {"step": step, **rows}):
            self.saved = step

    def restore(self) -> Restored | None:
        """Load the newest checkpoint into the model and the optimiser, if there is one."""
        newest = self.checkpoints.newest() if self.main and self.checkpoints is not None else None
        content = distributed.from_main(newest[1] if newest else None, self.device)
        if content is None:
            return None
        arrays, facts = checkpoint.parse(content)
        epoch = from_arrays(arrays, self.model, self.optimizer)
        self.saved = facts["step"]
        return Restored(
            newest[0] if newest else None,
            facts["step"],
            History(facts["loss"], facts["diagnostics"]),
            epoch["losses"][self.rank].to(self.device),
            epoch["norms"].to(self.device),
        )

    def last_good(self) -> str:
        """Name the last good checkpoint, for a message."""
        if self.saved is None or self.checkpoints is None:
            return "there is no checkpoint to go back to"
        return f"the last good checkpoint is {self.checkpoints.path(self.saved)}"


def to_arrays(model: nn.Module, optimizer: Optimizer, **epoch: Tensor) -> Arrays:
    """Arrays on the CPU: ``model.<name>``, ``optimizer.<index>.<name>`` and ``epoch.<name>``."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for index, kept in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in kept.items()}
    tensors |= {f"epoch.{name}": tensor for name, tensor in epoch.items()}
    return {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}


def from_arrays(arrays: Arrays, model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Load the arrays of ``to_arrays`` into the model and the optimiser; returns ``epoch``."""
    weights: dict[str, Tensor] = {}
    epoch: dict[str, Tensor] = {}
    state: dict[int, dict[str, Tensor]] = {}
    for name, array in arrays.items():
        kind, _, rest = name.partition(".")
        tensor = torch.from_numpy(array)
        if kind == "model":
            weights[rest] = tensor
        elif kind == "optimizer":
            index, _, key = rest.partition(".")
            state.setdefault(int(index), {})[key] = tensor
        else:
            epoch[rest] = tensor
    model.load_state_dict(weights)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    # The fused kernel needs the moments in the memory layout of their parameter.
    for parameter, kept in optimizer.state.items():
        for name, value in kept.items():
            if value.shape == parameter.shape:
                kept[name] = torch.empty_like(parameter).copy_(value)
    return epoch
