"""Does a run that is killed many times end like an undisturbed run?

    python -m benchmarks.speed.resume [kills] [processes]

Runs the real stage, ``python -m stages.pretrain``, on digits in a temporary folder: once
undisturbed, and once ended by SIGKILL at random moments (20). Every other kill comes as soon as a
checkpoint, one per step, is half written. Then it compares every file of both, byte by byte. A
kill takes as long as the stage takes to start.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from prosmin.common.files import write_text

ROOT = Path(__file__).parents[2]
SMALL = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}


def prepare(folder: Path, epochs: int) -> None:
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    # channels_last: the layout of the weights is not in a checkpoint.
    params["pretrain"] |= {"epochs": epochs, "batch_size": 64, "channels_last": True}
    params["pretrain"]["encoder"]["kwargs"] = SMALL
    write_text(folder / "params.yaml", yaml.safe_dump(params))
    stage(folder, "fetch", "digits").wait()


def stage(folder: Path, *arguments: str, processes: int = 1) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PROSMIN_PROCESSES": str(processes),
        "PROSMIN_CHECKPOINT_SECONDS": "0",
        "CUDA_VISIBLE_DEVICES": "",
    }
    return subprocess.Popen(
        [sys.executable, "-m", f"stages.{arguments[0]}", *arguments[1:]],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def reached(folder: Path) -> int:
    """The step of the newest checkpoint."""
    return max(
        (int(path.stem.split("-")[1]) for path in folder.rglob("step-*.safetensors")), default=0
    )


def half_written(folder: Path) -> bool:
    return any(folder.glob(".prosmin/checkpoints/*/.*.part"))


def descendants(process: int) -> list[int]:
    children = [
        int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()
    ]
    return [each for child in children for each in [child, *descendants(child)]]


def kill_once(
    folder: Path, processes: int, draw: random.Random, while_writing: bool
) -> tuple[int, bool]:
    """Start the stage, let it make a step and kill it at a random moment.

    Returns the step reached, and whether a checkpoint was half written.
    """
    start = reached(folder)
    run = stage(folder, "pretrain", processes=processes)
    while run.poll() is None and reached(folder) <= start:
        time.sleep(0.005)
    time.sleep(draw.uniform(0.0, 0.5))
    while while_writing and run.poll() is None and not half_written(folder):
        pass
    if run.poll() is not None:
        sys.exit(f"error: the run ended by itself before it was killed:\n{run.stderr.read()}")
    for process in [run.pid, *descendants(run.pid)]:  # the workers are in sessions of their own
        os.kill(process, signal.SIGKILL)
    run.communicate()
    return reached(folder), half_written(folder)


def outputs(folder: Path) -> dict[str, bytes]:
    paths = [
        path
        for name in ("results", "metrics", "plots")
        for path in sorted((folder / name).rglob("*"))
    ]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if path.is_file()}


def finish(folder: Path, processes: int) -> None:
    run = stage(folder, "pretrain", processes=processes)
    said = run.communicate()[1]
    if run.returncode:
        sys.exit(f"error: the run failed:\n{said}")


def main(kills: int, processes: int) -> None:
    draw = random.Random()
    with tempfile.TemporaryDirectory() as name:
        whole, killed = Path(name, "whole"), Path(name, "killed")
        for folder in (whole, killed):
            folder.mkdir()
            prepare(folder, epochs=max(10, kills))
        finish(whole, processes)
        halves = 0
        for number in range(kills):
            step, half = kill_once(killed, processes, draw, number % 2 == 1)
            halves += half
            print(
                f"kill {number + 1}: at step {step}{', a checkpoint half written' if half else ''}",
                flush=True,
            )
        finish(killed, processes)
        expected, found = outputs(whole), outputs(killed)
        left = [str(path) for path in killed.glob(".prosmin/checkpoints/*")]
    differing = sorted(
        name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
    )
    print(f"{kills} kills, {halves} while a checkpoint was being written, {processes} process(es)")
    print(
        f"{len(expected) - len(differing)} of {len(expected)} files identical; "
        f"{len(left)} checkpoint folders left"
    )
    if differing or left:
        sys.exit(f"error: {', '.join(differing + left)}")


if __name__ == "__main__":
    given = [int(argument) for argument in sys.argv[1:3]]
    main(*given, *(20, 1)[len(given) :])
