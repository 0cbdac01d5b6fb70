"""``make repro``: check ``params.yaml``, run ``dvc repro`` (``pipelines.quick``), name the report and print the headline numbers.

``python -m pipelines.repro [arguments]`` hands its arguments to ``dvc repro``: a target (``linear``), ``--force``,
``--dry``. It exits with DVC's code, with 1 when a file is damaged, with 2 when ``params.yaml`` is wrong, and with 130 when
interrupted.
"""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

from pipelines.summary import show
from stages.command import run
from stages.params import Params


def main(params: Params, *arguments: str) -> None:
    code = reproduce(arguments)
    if code:
        sys.exit(code)  # the last line on the screen is DVC's, which says what failed
    if code := show(params):
        sys.exit(code)


def reproduce(arguments: tuple[str, ...]) -> int:
    """Run ``dvc repro`` to its end and return its exit code, or 128 + the signal that stopped it.

    DVC and its stages are a process group of their own. Whichever signal asks this process to stop reaches
    each of them once, as an interrupt, upon which a stage removes what it has half-written.
    """
    process: subprocess.Popen[bytes] | None = None
    stopped: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.append(number)
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    # The stages are started as plain `python`, which must be this one though nothing has been activated.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    command = [sys.executable, "-m", "pipelines.quick", "repro", *arguments]
    process = subprocess.Popen(command, env={**os.environ, "PATH": path}, process_group=0)
    code = process.wait()
    return 128 + stopped[0] if stopped else code


if __name__ == "__main__":
    run("repro", main)
