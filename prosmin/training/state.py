"""What is kept of a run: its key, its history, and its state in checkpoints."""

import logging
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
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
from prosmin.training.settings import TrainSettings
from prosmin.training.watch.monitor import Monitor

log = logging.getLogger(__name__)

NONE = torch.empty(0)  # losses and norms at the end of an epoch


@dataclass
class History:
    """The course of a run.

    loss: one row per epoch.
    diagnostics: one row per observation of the monitor, the first before step 1.
    continued: one row per change of the number of processes: the step and the number before it.
    """

    loss: list[dict[str, float]] = field(default_factory=list)
    diagnostics: list[dict[str, float]] = field(default_factory=list)
    continued: list[dict[str, int]] = field(default_factory=list)
    images_per_second: float = math.nan

    def rows(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON."""
        kept = {"loss": self.loss, "diagnostics": self.diagnostics}
        return kept | ({"continued": self.continued} if self.continued else {})

    def thin(self, every: int) -> None:
        """Keep the diagnostics of every so many epochs."""
        self.diagnostics = [row for row in self.diagnostics if row["epoch"] % every == 0]


def run_key(
    settings: TrainSettings,
    images: Tensor | Feed,
    seed: int,
    accelerator: Accelerator,
    monitor: Monitor | None,
    without: Collection[str] = (),
    alike: bool = False,
    **facts: Any,
) -> str:
    """The key of a run's checkpoints, which changes with everything that determines the result.

    without: names of settings that do not determine it.
    alike: the key of all runs that differ in the number of processes or the device alone.
    facts: about the model, as JSON or dataclasses.
    """
    device = f"cpu, {torch.get_num_threads()} threads"
    if accelerator.device.type == "cuda":
        device = torch.cuda.get_device_name(accelerator.device)
    placed = {"processes": accelerator.num_processes, "device": device}
    watched = (monitor.images, monitor.labels, monitor.bank, monitor.bank_labels) if monitor else ()
    return checkpoint.key(
        **facts,
        settings={key: value for key, value in asdict(settings).items() if key not in without},
        seed=seed,
        images=[feed_of(images).facts(), checksum(*watched)],
        precision=str(accelerator.mixed_precision),
        **({} if alike else placed),
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
    trunk: of all runs that differ in the number of epochs alone; ``None``: the run is no such run.
    saved: the step of the last good checkpoint.
    """

    def __init__(
        self,
        checkpoints: Checkpoints | None,
        model: nn.Module,
        optimizer: Optimizer,
        accelerator: Accelerator,
        trunk: Checkpoints | None = None,
    ):
        self.checkpoints, self.model, self.optimizer = checkpoints, model, optimizer
        self.trunk = trunk
        self.start: Arrays | None = None
        self.kept: Path | None = None
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
        self.start = None
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
        facts = {"step": step, "processes": len(of_all), **history.rows()}
        if self.checkpoints.save(step, arrays, facts):
            self.saved = step

    def save_trunk(self, step: int, history: History) -> None:
        """Keep the state at the end of an epoch for runs with more epochs."""
        if self.main and self.trunk is not None:
            arrays = to_arrays(self.model, self.optimizer, losses=NONE[None], norms=NONE)
            self.trunk.save(step, arrays, {"step": step, **history.rows()})

    def remember_start(self) -> None:
        """Hold the initial weights in memory until the first checkpoint, to go back to them."""
        if self.checkpoints is not None:
            arrays = to_arrays(self.model, self.optimizer)
            self.start = {name: array.copy() for name, array in arrays.items()}

    def restore(self, trunk_until: int = 0) -> Restored | None:
        """Load the newest state into the model and the optimiser, if there is one.

        trunk_until: the last step at which a state of the trunk belongs to this run.
        """
        newest = None
        if self.main and self.checkpoints is not None:
            newest = self.checkpoints.newest()
            if newest is None and self.start is None:
                newest = self.checkpoints.borrowed()
        if newest is None and self.start is None and self.main and self.trunk is not None:
            newest = self.trunk.newest(trunk_until)
        content = distributed.from_main(newest[1] if newest else None, self.device)
        if content is None:
            if self.start is None:
                return None
            from_arrays(self.start, self.model, self.optimizer)
            empty = NONE.to(self.device)
            return Restored(None, 0, History(), empty, empty)
        arrays, facts = checkpoint.parse(content)
        epoch = from_arrays(arrays, self.model, self.optimizer)
        self.saved = facts["step"]
        history = History(facts["loss"], facts["diagnostics"], facts.get("continued", []))
        losses, world = epoch["losses"], distributed.world()
        if (before := facts.get("processes", world)) != world:
            history.continued.append({"step": facts["step"], "processes": before})
            if self.main:
                log.warning(
                    "the checkpoint is of %d processes, now there are %d: weights, order of the "
                    "images and learning rate go on, views and other draws are new ones",
                    *(before, world),
                )
        return Restored(
            newest[0] if newest else None,
            facts["step"],
            history,
            (losses[self.rank] if len(losses) == world else losses.mean(0)).to(self.device),
            epoch["norms"].to(self.device),
        )

    def keep_step(self, step: int, views: Sequence[Tensor], facts: Mapping[str, Any]) -> None:
        """Write the views of a step in this process; the first process adds the state before it.

        A full disk costs this file and a line in the log.
        """
        if self.checkpoints is None:
            return
        arrays = to_arrays(self.model, self.optimizer) if self.main else {}
        arrays |= {f"views.{place}": view.cpu().numpy() for place, view in enumerate(views)}
        path = self.checkpoints.step_path(step, self.rank)
        if self.checkpoints.write_step(path, arrays, facts):
            self.kept = path

    def forget_step(self) -> None:
        """Remove the step that was kept, because it went well."""
        if self.kept is not None:
            self.kept.unlink(missing_ok=True)

    def last_good(self) -> str:
        """Name the step that was kept and the last good checkpoint, for a message."""
        if self.kept is not None:
            replay = f"`python -m prosmin.training.replay {self.kept}`"
            return f"the step is kept: {replay}; {self._last_good()}"
        return self._last_good()

    def _last_good(self) -> str:
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
