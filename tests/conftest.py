"""Settings of all tests: one thread per operation, and reasons for tests that cannot run here."""

import contextlib
import gc
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

# Set before anything imports torch or NumPy. With two threads, small operations are 2 to 40 times
# slower on two busy cores.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

# Images of containers often set it. The tests start hundreds of processes, each of which would
# compile all of its modules anew, and so would every worker of pytest the tests themselves.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# DVC starts a process after each command to report it.
os.environ.setdefault("DVC_NO_ANALYTICS", "1")

# A process in the background of a script ignores SIGINT, and a process below nohup ignores SIGHUP.
# Its children inherit this, but some tests send these signals to children.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

import pytest

from prosmin.models import light_imports

# A fixture of these folders runs many stages. Their tests run in one worker, as those of a file do,
# so that the fixture runs once.
TOGETHER = ("tests/stages/corrupt", "tests/stages/ood", "tests/stages/report")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Three workers per two cores, at most eight: the longest tests often wait for processes."""
    from stages.common.threads import cores

    return min(cores() + (cores() + 1) // 2, 8)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """``--dist=loadfile``, but for the folders of ``TOGETHER``."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            folder = file.rpartition("/")[0]
            return folder if folder in TOGETHER else file

    return Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None


collection = contextlib.ExitStack()


def pytest_sessionstart() -> None:
    """Turn off the garbage collector during collection, and keep torch.compile out.

    Imports create many objects that live on, and every run of the collector would visit them all.
    torchmetrics would load all of torch.compile, in every worker.
    """
    gc.disable()
    collection.enter_context(light_imports.without_compile())


def pytest_collection_finish() -> None:
    collection.close()
    gc.freeze()
    gc.enable()


def pytest_sessionfinish() -> None:
    collection.close()  # in the process that starts the workers and collects nothing
    gc.unfreeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Short files come last and fill the gaps between the workers.
    short = Path(__file__).parent / "prosmin"
    items.sort(key=lambda item: item.path.is_relative_to(short))
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
