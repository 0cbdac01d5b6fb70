"""``python -m prosmin.training.replay FILE``: the step whose loss or gradient was not finite.

A run that ends because of such a step keeps the state before it and the views of its images (one
file per process). The replay makes the forward and the backward pass again, on the CPU or, with
``--device cuda``, on a GPU, and says in which module and in which gradient a number is first not
finite. In one process on the machine of the run, loss and norm are those of the run to the bit. The
views of several processes are one batch here: sums are added in another order, and dropout and
Monte Carlo losses draw other numbers.
"""

import argparse
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prosmin.common.errors import UserError, say
from prosmin.common.seeds import loss_generator, seed_networks
from prosmin.models.store import ModelSettings, build_model
from prosmin.objectives.base import Objective
from prosmin.training import checkpoint
from prosmin.training.checkpoint import Arrays

SHOWN = 5  # weights that are named


@dataclass(frozen=True)
class Step:
    """A step that a run has kept.

    arrays: of the state before it. views: one tensor per view, of all processes.
    facts: step, place in the run, settings, model, precision and threads.
    """

    arrays: Arrays
    views: Sequence[Tensor]
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Replay:
    """What a replayed step gives.

    loss, norm: of the batch and of its gradient before clipping.
    module: the first whose output is not finite, or empty.
    weights, gradients: names of parameters that are not finite.
    largest: norms of the largest gradients, by parameter.
    """

    loss: float
    norm: float
    module: str
    weights: Sequence[str]
    gradients: Sequence[str]
    largest: Mapping[str, float]


def read(path: str | Path) -> Step:
    """The step in a file of the first process and in those of the others beside it.

    Raises ``UserError`` where a file is missing, damaged or of something else.
    """
    path = Path(path)
    match = re.fullmatch(r"(kept-\d+)\.rank\d+\.safetensors", path.name)
    if match is None:
        raise UserError(f"{path} is no kept step: such a file is named kept-*.rank0.safetensors")
    arrays, facts = _parsed(path.with_name(f"{match[1]}.rank0.safetensors"))
    parts = [arrays]
    for rank in range(1, facts["processes"]):
        parts.append(_parsed(path.with_name(f"{match[1]}.rank{rank}.safetensors"))[0])
    count = sum(name.startswith("views.") for name in arrays)
    views = [
        torch.cat([torch.from_numpy(part[f"views.{place}"]) for part in parts])
        for place in range(count)
    ]
    return Step(arrays, views, facts)


def _parsed(path: Path) -> tuple[Arrays, Any]:
    try:
        return checkpoint.parse(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    except UserError as error:
        raise UserError(f"{path} cannot be replayed: {error}") from None


def build(step: Step) -> Objective:
    """The model of the run, with the weights before the step.

    Raises ``UserError`` where the run did not say of which model they are.
    """
    about = step.facts["about"]
    if about is None:
        raise UserError("the kept step does not say of which model it is; pass the model yourself")
    settings = step.facts["settings"]
    model = build_model(ModelSettings(**about))
    model.prepare_encoders(settings["accumulate"], settings["channels_last"], False)
    return model


def replay(step: Step, model: Objective | None = None, device: str = "cpu") -> Replay:
    """Make the forward and the backward pass of a kept step again.

    model: of the run; ``None``: as the file describes it.
    """
    model = build(step) if model is None else model
    state = {
        name.removeprefix("model."): torch.from_numpy(array)
        for name, array in step.arrays.items()
        if name.startswith("model.")
    }
    model.load_state_dict(state)
    model.to(device).train()
    place = (*step.facts["where"], 0)
    seed_networks(*place)
    mixed = step.facts["precision"] == "bf16"
    with _first_fault(model) as faults, torch.autocast(device, torch.bfloat16, enabled=mixed):
        views = [view.to(device) for view in step.views]
        loss: Tensor = model(views, loss_generator(torch.device(device), *place))
    loss.backward()  # type: ignore[no-untyped-call]
    named = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    gradients = {name: weight.grad for name, weight in named if weight.grad is not None}
    norms = {name: float(gradient.norm()) for name, gradient in gradients.items()}
    norm = nn.utils.clip_grad_norm_([weight for _, weight in named], math.inf)
    return Replay(
        float(loss.detach()),
        float(norm),
        next(iter(faults), ""),
        [name for name, weight in named if not weight.isfinite().all()],
        [name for name, gradient in gradients.items() if not gradient.isfinite().all()],
        dict(sorted(norms.items(), key=lambda pair: -pair[1])[:SHOWN]),
    )


@contextmanager
def _first_fault(model: nn.Module) -> Iterator[list[str]]:
    """Collect the names of modules whose output is not finite, in the order of the pass."""
    faults: list[str] = []

    def watch(name: str) -> Any:
        def look(module: nn.Module, given: Any, output: Any) -> None:
            tensors = output if isinstance(output, tuple) else (output,)
            if not all(part.isfinite().all() for part in tensors if isinstance(part, Tensor)):
                faults.append(f"{name} ({type(module).__name__})")

        return look

    handles = [
        module.register_forward_hook(watch(name)) for name, module in model.named_modules() if name
    ]
    try:
        yield faults
    finally:
        for handle in handles:
            handle.remove()


def told(step: Step, result: Replay) -> Iterator[str]:
    """The lines of a report on a replayed step."""
    seed, epoch, place = step.facts["where"]
    yield f"step {step.facts['step'] + 1}: epoch {epoch + 1}, step {place + 1} of it, seed {seed}"
    finite = all(bool(view.isfinite().all()) for view in step.views)
    sizes = ", ".join(str(list(view.shape)) for view in step.views)
    yield f"views {sizes}: {'finite' if finite else 'not finite'}"
    yield f"loss {result.loss!r}, norm of the gradient {result.norm!r}"
    yield f"first module with an output that is not finite: {result.module or 'none'}"
    for what, names in (("weights", result.weights), ("gradients", result.gradients)):
        named = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
        yield f"{what} that are not finite: {len(names)}{named and ': '}{named}"
    for name, norm in result.largest.items():
        yield f"norm of the gradient of {name}: {norm:.4g}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns 0 when the step was replayed, 2 for a file that cannot be."""
    parser = argparse.ArgumentParser(
        prog="python -m prosmin.training.replay", description="Replay a step that a run has kept."
    )
    parser.add_argument("file", help="as the message at the end of the run names it")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    given = parser.parse_args(arguments)
    try:
        step = read(given.file)
        torch.set_num_threads(step.facts["threads"])
        for line in told(step, replay(step, device=given.device)):
            print(line)
    except UserError as error:
        say(str(error))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
