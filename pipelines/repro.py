"""``make repro``: check ``params.yaml``, run ``dvc repro``, print the headline numbers.

``python -m pipelines.repro [arguments]`` hands its arguments to ``dvc repro``: a target
(``linear``), ``--force``, ``--dry``. It exits with DVC's code, with 1 where a file is damaged, with
2 where ``params.yaml`` is wrong, and with 130 when interrupted.
"""

import signal
import subprocess
import sys
from types import FrameType

from pipelines.engine.execute import DVC, ended, guarded
from pipelines.engine.join import join
from pipelines.flows.summary import show
from pipelines.graph import dag, lockfile, reads
from pipelines.graph.workspace import alone, disk_fault, end_with_make, heard
from pipelines.plan import plan
from prosmin.common.errors import UserError
from stages.common.command import run
from stages.params.load import Params


def main(params: Params, *arguments: str) -> None:
    end_with_make()
    if (joined := join()) is not None:
        sys.exit(joined)
    if code := reproduce(arguments):
        sys.exit(code)  # the last line on the screen is DVC's, which says what failed
    if code := show(params):
        sys.exit(code)


def reproduce(arguments: tuple[str, ...]) -> int:
    """Run ``dvc repro`` and return its code, or 128 + the signal that stopped it.

    DVC and its stages run below a guard (``pipelines/engine/guard.py``). When this process is told
    to stop, or dies, the guard interrupts them, and kills after its grace all that still runs.
    """
    process: subprocess.Popen[str] | None = None
    stopped: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.append(number)
        if process is not None:
            process.terminate()

    with alone() as lock:
        told = announced(arguments)
        before = {number: signal.signal(number, stop) for number in heard()}
        process = guarded([*DVC, "repro", *told], shown=True, lock=lock)
        if stopped:  # while the process was started
            process.terminate()
        code = ended(process)
        if code and not stopped:
            explain(code)
        wrong, order = reads.wrong(), lockfile.noted()
        if wrong or order:
            with dag.locked():
                for stage, what in wrong.items():
                    reads.withdraw(stage)
                    print(f"error: {what}", file=sys.stderr)
                if order:  # an earlier run with stages at the same time was killed
                    lockfile.restore_order(order, dag.read())
        if order and code == 0 and not arguments:
            lockfile.forget()
        for number, handler in before.items():
            signal.signal(number, handler)
    if stopped:
        return 128 + stopped[0]
    return code or int(bool(wrong))


def announced(arguments: tuple[str, ...]) -> tuple[str, ...]:
    """Say how many stages will run and for how long, where ``arguments`` name stages alone.

    Returns the arguments, or others that leave out datasets that nothing uses. DVC itself would
    make them for the stages that read all of ``metrics/``.
    """
    if any(word.startswith("-") for word in arguments):
        return arguments
    try:
        planned = plan(arguments)
    except UserError:  # DVC itself says what is wrong
        return arguments
    print("\n".join(planned.head()), flush=True)
    return ("--single-item", *planned.stages) if planned.unused else arguments


def explain(code: int) -> None:
    """Say on standard error why DVC failed, where DVC itself does not."""
    if fault := disk_fault():
        print(f"error: {fault}", file=sys.stderr)
    if code - 128 in set(signal.Signals):  # 255 is DVC's own code
        name = signal.Signals(code - 128).name
        print(
            f"error: DVC was ended by {name}; stages that were done are kept, run it again",
            file=sys.stderr,
        )


if __name__ == "__main__":
    run("repro", main)
