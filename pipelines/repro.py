"""``make repro``: check ``params.yaml``, run ``dvc repro`` (``pipelines.engine.quick``), name the report and print the headline numbers.

``python -m pipelines.repro [arguments]`` hands its arguments to ``dvc repro``: a target (``linear``), ``--force``,
``--dry``. It exits with DVC's code, with 1 when a file is damaged, with 2 when ``params.yaml`` is wrong, and with 130 when
interrupted.
"""

import signal
import subprocess
import sys
from types import FrameType

from pipelines.engine.execute import ended, guarded
from pipelines.flows.summary import show
from pipelines.graph import dag, lockfile
from pipelines.graph.workspace import alone, end_with_make, heard
from stages.common.command import run
from stages.params.load import Params


def main(params: Params, *arguments: str) -> None:
    code = reproduce(arguments)
    if code:
        sys.exit(code)  # the last line on the screen is DVC's, which says what failed
    if code := show(params):
        sys.exit(code)


def reproduce(arguments: tuple[str, ...]) -> int:
    """Run ``dvc repro`` to its end and return its exit code, or 128 + the signal that stopped it.

    DVC and its stages stand below a guard (``pipelines/engine/guard.py``). When this process is asked to stop, or dies, it hands that
    on as an interrupt, upon which a stage removes what it has half-written, and kills what has not ended after its grace.
    """
    process: subprocess.Popen[str] | None = None
    stopped: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.append(number)
        if process is not None:
            process.terminate()

    end_with_make()
    with alone() as lock:
        before = {number: signal.signal(number, stop) for number in heard()}
        process = guarded(
            [sys.executable, "-m", "pipelines.engine.quick", "repro", *arguments],
            shown=True,
            lock=lock,
        )
        if stopped:  # while it was started
            process.terminate()
        code = ended(process)
        if code - 128 in set(signal.Signals) and not stopped:  # 255 is DVC's own code
            name = signal.Signals(code - 128).name
            print(
                f"error: DVC was ended by {name}; stages that were done are kept, run it again",
                file=sys.stderr,
            )
        if lockfile.noted():  # a run of stages at the same time had been killed
            with dag.locked():
                lockfile.restore_order(lockfile.noted(), dag.read())
            if code == 0 and not arguments:
                lockfile.forget()
        for number, handler in before.items():
            signal.signal(number, handler)
    return 128 + stopped[0] if stopped else code


if __name__ == "__main__":
    run("repro", main)
