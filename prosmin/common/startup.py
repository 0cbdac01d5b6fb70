"""Settings of a process before it loads large packages. This module imports none of them.

Freed memory: a training step on a CPU makes and drops hundreds of tensors of some MB. By default
glibc maps each large tensor anew, or returns the end of its heap as soon as it is free. The next
tensor then waits while the system clears every page that it touches; on virtual machines that is a
fifth of a training step (docs/performance.md). PyTorch's tuning guide recommends to preload another
allocator (jemalloc, tcmalloc); telling glibc is enough. The process then never shrinks.

Garbage collection: large packages such as PyTorch make up to a million objects while they load,
none of them garbage. Python's defaults search all of them again and again, which takes up to a
fifth of the loading time.
"""

import gc
import io
import sys

# Names and values of glibc's malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
LARGEST_KEPT = 2**30  # bytes: larger tensors are mapped, and returned to the system
HEAP_STEP = 2**26  # bytes by which the heap grows
THRESHOLDS = 50_000, 50, 100  # objects and collections between two searches, by generation


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory instead of returning it after every large tensor.

    Returns: whether glibc does so from now on; other C libraries are left as they are.
    """
    if not sys.platform.startswith("linux"):
        return False
    import ctypes  # needs some milliseconds

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl
        return False
    options = {
        M_MMAP_THRESHOLD: LARGEST_KEPT,
        M_TRIM_THRESHOLD: 2 * LARGEST_KEPT - 1,
        M_TOP_PAD: HEAP_STEP,
    }
    return all([mallopt(name, value) == 1 for name, value in options.items()])


def escape_output() -> None:
    """Print characters that the encoding of standard output lacks as escapes.

    Python would end the program, as after hours over a name with an ä where the locale is ASCII.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def collect_garbage_less() -> None:
    """Tell Python to search for garbage less often, so that large packages load faster."""
    gc.set_threshold(*THRESHOLDS)
