"""Check the environment of a stage, and for a training a launcher's variables: all, or none.

Accelerate reads settings from the environment wherever its caller gives none, and some in any case.
Variables left over from another program would change the weights of a run, or make it wait for
processes that nobody has started. So a variable that would have an effect is refused.
"""

import logging
import os
import platform
from collections.abc import Callable

from prosmin.common.errors import UserError, shown

log = logging.getLogger(__name__)

# Set by torchrun and ``accelerate launch`` in every process that they start.
RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
WHOLE = (*RANKS, "MASTER_ADDR", "MASTER_PORT")
# Set by MPI. Accelerate reads these before those above.
MPI = ("PMI_", "OMPI_COMM_WORLD_", "MV2_COMM_WORLD_")

YES, NO = ("1", "true", "yes", "y", "t", "on"), ("0", "false", "no", "n", "f", "off")

# By variable: the values that it may have, and the key of params.yaml, or another, that decides.
SETTLED = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": (("1",), "pretrain.accumulate"),
    "ACCELERATE_DYNAMO_BACKEND": (("no",), "pretrain.compile"),
    "ACCELERATE_TORCH_DEVICE": ((), "CUDA_VISIBLE_DEVICES"),
    "ACCELERATE_FP8_BACKEND": (("no",), "pretrain.precision"),
}
# Switches that may be on: they place processes or write more, and change no number.
# ACCELERATE_USE_CPU changes the device, which is part of the key of the run.
FREE = ("ACCELERATE_USE_CPU", "ACCELERATE_CPU_AFFINITY", "ACCELERATE_DEBUG_MODE", "FORK_LAUNCHED")
SWITCH = "ACCELERATE_USE_"
# Of CUDA, PyTorch and oneDNN: products of float32 are computed with fewer bits. By variable, the
# value that changes nothing.
EXACT = {
    "NVIDIA_TF32_OVERRIDE": "0",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "0",
    "ONEDNN_DEFAULT_FPMATH_MODE": "strict",
    "DNNL_DEFAULT_FPMATH_MODE": "strict",
}


def launched() -> bool:
    """Whether a launcher has started this process as one of several.

    Raises:
        UserError: where some of its variables are missing.
    """
    _without_mpi()
    if not any(name in os.environ for name in RANKS):
        return False
    if missing := [name for name in WHOLE if not os.environ.get(name)]:
        left = [name for name in RANKS if name in os.environ]
        there = ", ".join(f"{name}={os.environ[name]}" for name in left)
        raise UserError(
            f"the environment has {there} but not {', '.join(missing)}; a launcher (torchrun, "
            f"accelerate launch) sets all of them: unset {', '.join(left)} to train without one"
        )
    world = _whole("WORLD_SIZE", lambda value: value >= 1, "a number of processes, at least 1")
    _whole(
        "RANK", lambda value: value < world, f"a whole number from 0 to below WORLD_SIZE, {world}"
    )
    _whole(
        "LOCAL_RANK",
        lambda value: value < world,
        f"a whole number from 0 to below WORLD_SIZE, {world}",
    )
    _whole("MASTER_PORT", lambda value: 1 <= value <= 65535, "a port, 1 to 65535")
    return True


def check_accelerate(precision: str) -> None:
    """Check the variables that Accelerate reads.

    precision: ``pretrain.precision``, fp32 or bf16.

    Raises:
        UserError: for a variable that would override params.yaml.
    """
    mixed = {"fp32": ("no", "fp32"), "bf16": ("no", "bf16")}[precision]
    settled = SETTLED | {"ACCELERATE_MIXED_PRECISION": (mixed, "pretrain.precision")}
    for name, text in sorted(os.environ.items()):
        given = text.strip().lower()
        if name.startswith("ACCELERATE_") and not given:
            del os.environ[name]  # Accelerate would read it as a number or a choice
        elif name in settled:
            allowed, instead = settled[name]
            if given not in allowed:
                _refuse(name, text, f"{instead} says that here")
        elif name in FREE:
            if given not in (*YES, *NO):
                _refuse(name, text, f"it must be {YES[1]} or {NO[1]}")
        elif name.startswith(SWITCH) and given not in NO:
            _refuse(name, text, "training here knows no such mode")


def advise(precision: str, device: str) -> None:
    """Warn of bf16 on a processor that has no instructions for it.

    PyTorch then computes convolutions one number at a time (docs/performance.md).
    """
    import torch

    without = ("DEFAULT", "NO AVX", "AVX2")  # of x86; other processors have names of their own
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    has = torch.backends.cpu.get_cpu_capability()
    if precision == "bf16" and device == "cpu" and x86 and has in without:
        log.warning(
            "pretrain.precision is bf16, but this processor has no AVX-512 (%s): "
            "fp32 is many times faster here",
            has,
        )


def check_arithmetic() -> None:
    """Check the variables by which a library computes with fewer bits than float32 has.

    Raises:
        UserError: for a variable that would change results that params.yaml does not.
    """
    for name, allowed in EXACT.items():
        text = os.environ.get(name, "")
        if text.strip().lower() not in ("", allowed):
            raise UserError(
                f"the environment has {name}={shown(text)}, by which float32 is computed with "
                f"fewer bits; pretrain.precision says that here: unset {name}"
            )


def _refuse(name: str, value: str, why: str) -> None:
    raise UserError(
        f"the environment has {name}={value!r}, which Accelerate would follow; {why}: unset {name}"
    )


def _whole(name: str, fits: Callable[[int], bool], allowed: str) -> int:
    text = os.environ[name]
    if not (text.isascii() and text.isdigit() and len(text) < 10 and fits(int(text))):
        raise UserError(
            f"{name} is {shown(text)}; it must be {allowed}, as a launcher sets it: unset it to "
            "train without one"
        )
    return int(text)


def _without_mpi() -> None:
    """Remove MPI's variables, which nothing here uses.

    Raises:
        UserError: where MPI has started several processes.
    """
    for prefix in MPI:
        size = os.environ.get(f"{prefix}SIZE", "1")
        if size != "1" and not all(os.environ.get(name) for name in WHOLE):
            raise UserError(
                f"{prefix}SIZE is {size!r}: MPI has started this process as one of several, "
                "or has left that behind; start several by torchrun or accelerate launch, "
                f"or unset {prefix}SIZE"
            )
    for name in [name for name in os.environ if name.startswith(MPI)]:
        del os.environ[name]
