"""Work in torch by several threads, each part by one thread: their number changes no digit."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch

from prosmin.common.compute.backend import blas


@contextmanager
def one_thread_each(count: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of ``count`` threads in which torch computes on the calling thread alone.

    Meanwhile torch and BLAS do so outside of the pool, too. At the end, what has not begun never
    does.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with (
            blas().limit(limits=1),
            ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool,
        ):
            try:
                yield pool
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
    finally:
        # The threads of the pool have changed the default for later threads.
        torch.set_num_threads(before)
