"""What holds for every test: one thread an operation, and a reason for each test that this machine cannot run."""

import gc
import os
import shutil
import signal

# Before anything imports torch or NumPy: on two busy cores small operations are 2-40 times slower with two threads.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

# What is started in the background of a script ignores Ctrl-C, below nohup it ignores the end of its terminal,
# and either is handed on to what it starts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Three to two cores, at most eight: part of what the longest tests do is waiting for a server or for a process to end."""
    from stages.common.threads import cores

    return min(cores() + (cores() + 1) // 2, 8)


def pytest_sessionstart() -> None:
    """Collect the tests without looking for garbage: what the imported packages make is kept, and looked through again and again."""
    gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_sessionfinish() -> None:
    gc.unfreeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    needs_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if needs_gpu and not _has_gpu():
        for item in needs_gpu:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
    if not any(map(shutil.which, BROWSERS)):
        for item in items:
            if item.get_closest_marker("browser"):
                item.add_marker(pytest.mark.skip(reason="no Chromium or Chrome on the path"))


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
