"""Start processes for tests: several that train together on the CPU (gloo), or one to kill."""

import multiprocessing
import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

# The server has loaded the libraries but has run nothing: its forks start quickly, without threads.
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(
    ["torch", "accelerate", "timm", "prosmin.training.loop", "prosmin.models.store"]
)


def start(function: Callable[..., Any], *arguments: Any, world: int = 1) -> list[Any]:
    """Call ``function(*arguments)`` in ``world`` new processes. The function must be importable."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    gang = [
        _processes.Process(target=_member, args=(rank, world, port, function, arguments))
        for rank in range(world)
    ]
    for process in gang:
        process.start()
    return gang


def run(function: Callable[..., Any], *arguments: Any, world: int = 2) -> list[Any]:
    """Call ``function`` in several processes and return its results, by rank.

    The results may be tensors, numbers, text and collections of these.
    """
    with tempfile.TemporaryDirectory() as folder:
        for process in (gang := start(_keep, folder, function, arguments, world=world)):
            process.join()
        assert [process.exitcode for process in gang] == [0] * world
        return [torch.load(Path(folder) / str(rank), weights_only=True) for rank in range(world)]


def _keep(folder: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.save(function(*arguments), Path(folder) / os.environ.get("RANK", "0"))


def _member(
    rank: int, world: int, port: int, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    if world > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
        os.environ |= {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "ACCELERATE_USE_CPU": "true",
        }
    function(*arguments)
    if world > 1 and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
