"""Memory that a process has had once is kept for the next tensor instead of being given back to the system after each.

A step on a CPU makes and drops hundreds of tensors of some MB. By default glibc asks the system for each of the large ones, or gives the
end of its heap back as soon as it is free, and the next tensor then waits for the system to clear every page that it touches
again; on virtual machines that is a fifth of a training step (docs/performance.md). PyTorch's tuning guide answers this with another
allocator (jemalloc, tcmalloc) to preload; glibc can be told. The process then stays as large as it once was.
"""

import ctypes
import sys

# Names and values of glibc's malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
LARGEST = 2**30  # bytes of what is kept: larger tensors are mapped, and given back
PAD = 2**26  # bytes that the heap grows by


def keep_pages() -> bool:
    """Whether glibc does so from now on; elsewhere nothing is changed."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl
        return False
    wanted = {M_MMAP_THRESHOLD: LARGEST, M_TRIM_THRESHOLD: 2 * LARGEST - 1, M_TOP_PAD: PAD}
    return all([mallopt(name, value) == 1 for name, value in wanted.items()])
