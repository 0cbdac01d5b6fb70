"""Where large matrix products are computed: on the GPU by torch, else on all threads by NumPy.

A kernel is written once, in the functions that NumPy and torch share under the same names, and
takes the module as ``xp``. NumPy is faster than torch on one thread of a CPU (products as fast,
exponentials five times), and torch takes two seconds to load. So torch is loaded only where there
is a GPU.

On a CPU the threads take turns at the parts of a problem, and each part is computed by one thread.
Sums over parts are taken in their order. So the number of threads changes no digit.
"""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import numpy as np

# Files of a GPU's driver: NVIDIA, AMD, and either under Windows' Linux.
DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")

BLOCK = 2**21  # values of a part of a problem: per thread, and for each array of the part

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Backend:
    """A module of array functions and the device that it computes on.

    xp: ``numpy`` or ``torch``.
    device: ``cpu`` or ``cuda``.
    """

    xp: Any
    device: str = "cpu"

    def put(self, array: np.ndarray, kind: str | None = None) -> Any:
        """Return the array on the device, without a copy where that is possible.

        kind: name of its type there, such as ``float64``. None: unchanged.
        """
        dtype = None if kind is None else getattr(self.xp, kind)
        if self.xp is not np:  # torch refuses strides below 0 and warns of memory it must not write
            array = np.require(array, requirements=["C", "W"])
        return self.xp.asarray(array, dtype=dtype, device=self.device)

    def get(self, array: Any) -> np.ndarray:
        """Return an array of the device as one of NumPy."""
        values: np.ndarray = np.asarray(array if self.device == "cpu" else array.cpu())
        return values

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield ``function`` of each item in their order, on a CPU by as many threads as BLAS has.

        The function computes on one thread alone, and shares no array that it writes to.
        """
        items = list(items)
        if self.xp is not np:
            yield from map(function, items)
            return
        count = min(threads(), len(items))
        with blas().limit(limits=1):
            if count < 2:
                yield from map(function, items)
                return
            with ThreadPoolExecutor(count) as pool:
                yield from in_order(pool, function, items, 2 * count)


def in_order(
    pool: Executor,
    function: Callable[[Item], Result],
    items: Iterable[Item],
    ahead: int,
) -> Iterator[Result]:
    """Yield ``function`` of each item in their order, computed by a pool.

    ahead: most results that wait until they are taken; they need memory.
    """
    waiting: deque[Future[Result]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


NUMPY = Backend(np)


def backend() -> Backend:
    """Return torch on the GPU where there is one, else NumPy."""
    return _of_device(os.environ.get("CUDA_VISIBLE_DEVICES"))


@cache
def _of_device(visible: str | None) -> Backend:
    """visible: what the environment says of the GPUs that this process may use."""
    if visible == "" or not ("torch" in sys.modules or any(map(os.path.exists, DRIVERS))):
        return NUMPY
    import torch

    return Backend(torch, "cuda") if torch.cuda.is_available() else NUMPY


@cache
def blas() -> Any:
    """The libraries of matrix products in this process, whose threads can be limited."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


def threads() -> int:
    """Return the number of threads that BLAS may use."""
    return max((library.num_threads for library in blas().lib_controllers), default=1)


def chunks(count: int, size: int) -> Iterator[slice]:
    """Yield consecutive parts of ``count`` rows, ``size`` rows each, the last one fewer."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def rows_at_once(*widths: int) -> int:
    """Return how many rows of arrays with these numbers of columns are held at a time."""
    return max(1, BLOCK // max(widths))
