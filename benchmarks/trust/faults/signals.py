"""Signals to every process of a run, at a random moment or at one system call."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks.trust.faults.judge import ENDS, Missed, NotHeld, Skipped, ended, python
from benchmarks.trust.faults.project import FLOW, REPRO, Place, forget, something_to_do, wait_until

STOPS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
APPEARS = 30.0  # seconds until a process that is to be hit must be there
FATAL = 15.0  # seconds in which a run must end whose own process was told to
PAUSE = 1.0  # seconds between SIGSTOP and SIGCONT
SERVER = "pipelines.flows.local_server"
DVC = "pipelines.engine.dvc_command"
PORTS = range(20000, 30000)


class Running(NamedTuple):
    """A process. above: command lines of what started it, the nearest first."""

    pid: int
    command: str
    above: tuple[str, ...]


Target = Callable[[Running], bool]


def tree(root: int) -> list[Running]:
    """The process ``root`` and all below it."""
    below: list[Running] = []

    def visit(pid: int, above: tuple[str, ...]) -> None:
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
            command = words.decode(errors="replace").strip()
            below.append(Running(pid, command, above))
            for thread in Path(f"/proc/{pid}/task").iterdir():
                for child in (thread / "children").read_text().split():
                    visit(int(child), (command, *above))

    visit(root, ())
    return below


def _is_stage(running: Running) -> bool:
    others = ("sh -c", "guard.py")
    return " -m stages." in running.command and not any(
        other in running.command for other in others
    )


def _runs(words: str) -> Target:
    """What has ``words`` on its command line and is no guard of it."""
    return lambda running: words in running.command and "guard.py" not in running.command


def _guards(words: str) -> Target:
    return lambda running: words in running.command and "guard.py" in running.command


# What may be hit, by the name that the table gives it.
IN_REPRO: dict[str, Target] = {
    "main": lambda running: not running.above,
    "guard": _guards(DVC),
    "DVC": _runs(DVC),
    "stage": _is_stage,
}
IN_FLOW: dict[str, Target] = {
    "main": lambda running: not running.above,
    "guard": _guards(DVC),
    "DVC": _runs(DVC),
    "stage": _is_stage,
    "server": _runs(SERVER),
    "server's guard": _guards(SERVER),
}
IN_SWEEP: dict[str, Target] = {
    "main": lambda running: not running.above,
    "point": _runs("pipelines.run"),
    "point's guard": _guards("pipelines.run"),
    "stage": _is_stage,
}
IN_DASHBOARD: dict[str, Target] = {
    "main": lambda running: not running.above,
    "server": _runs(SERVER),
    "worker": _runs("prefect worker start"),
}


def strike(process: subprocess.Popen[bytes], target: Target, number: int, delay: float) -> None:
    """Signal the process that is ``target``, ``delay`` seconds after it has appeared."""
    hit: list[Running] = []

    def look() -> bool:
        hit[:] = [running for running in tree(process.pid) if target(running)]
        return bool(hit) or process.poll() is not None

    if not wait_until(look, APPEARS) or not hit:
        raise Missed
    time.sleep(delay)
    if process.poll() is not None:
        raise Missed
    victim = hit[-1].pid
    try:
        os.kill(victim, number)
        if number == signal.SIGSTOP:
            time.sleep(PAUSE)
            os.kill(victim, signal.SIGCONT)
    except ProcessLookupError:
        raise Missed from None


def _disturbed(
    place: Place,
    command: list[str],
    draw: random.Random,
    targets: dict[str, Target],
    span: float,
    endless: bool = False,
) -> None:
    """Run ``command`` and signal one of its ``targets`` within ``span`` seconds of its start.

    endless: it never ends by itself, and is stopped if it has not ended over the signal.
    """
    target = draw.choice(list(targets))
    number = draw.choice((*STOPS, signal.SIGSTOP))
    delay = draw.uniform(0, span)
    place.story.append(f"{number.name} to {target} after {delay:.1f} s")
    process = place.start(command)
    strike(process, targets[target], number, delay)
    goes_on = endless and (target != "main" or number == signal.SIGSTOP)
    if goes_on and not wait_until(lambda: process.poll() is not None, PAUSE):
        process.send_signal(signal.SIGINT)
        place.story.append("then SIGINT to main")
    fatal = target == "main" and number != signal.SIGSTOP
    silent = fatal and number == signal.SIGKILL
    code = ended(place, process, FATAL if fatal else ENDS, silent)
    place.story.append(f"ended with {code}")
    if fatal and code not in (128 + number, -number, 0):
        raise NotHeld(f"the code {code} does not name the signal")
    if number == signal.SIGSTOP and code and not endless:
        raise NotHeld("it failed after it went on")


def repro(place: Place, draw: random.Random) -> None:
    something_to_do(place, draw)
    _disturbed(place, python(*REPRO), draw, IN_REPRO, 3.0)


def flow(place: Place, draw: random.Random) -> None:
    something_to_do(place, draw)
    _disturbed(place, python(*FLOW), draw, IN_FLOW, 3.0)


def parent(place: Place, draw: random.Random) -> None:
    """``make``, which started the run, or all that the terminal signals: make and the run."""
    if not shutil.which("make"):
        raise Skipped("make is not installed")
    something_to_do(place, draw)
    number, delay = draw.choice(STOPS), draw.uniform(0, 3.0)
    goal, whole = draw.choice(["repro", "repro", "flow"]), draw.choice([True, False])
    place.story.append(f"{number.name} to {'the terminal of ' if whole else ''}make {goal}")
    # The rule that installs is taken for done.
    process = place.start(["make", "-o", "environment", goal])
    if not wait_until(lambda: any(_is_stage(running) for running in tree(process.pid)), APPEARS):
        raise Missed
    time.sleep(delay)
    if process.poll() is not None:
        raise Missed
    (os.killpg if whole else os.kill)(process.pid, number)
    ended(place, process, FATAL, silent=True)


def sweep(place: Place, draw: random.Random) -> None:
    """A sweep that was disturbed, and the same one once more, which makes its experiments."""
    file = place.root / "points.yaml"
    rank = "rank: metrics/knn.json:trained.accuracy"
    file.write_text(f"grid: {{knn.k: [[1, 5], [1, 3]]}}\n{rank}\nstages: [knn]\n")
    command = python("-m", "pipelines.sweep", str(file))
    _disturbed(place, command, draw, IN_SWEEP, 6.0)
    if code := ended(place, place.start(command)):
        raise NotHeld(f"the same sweep once more ended with {code}")
    listed = ["git", "for-each-ref", "refs/exps", "--format=%(refname:lstrip=4)"]
    names = subprocess.run(listed, cwd=place.folder, capture_output=True, text=True).stdout.split()
    if sorted(names) != ["points-0", "points-1"]:  # a sweep counts its points from 0
        raise NotHeld(f"the experiments are {names}")


def dashboard(place: Place, draw: random.Random) -> None:
    command = python("-m", "pipelines.dashboard", "--port", str(draw.choice(PORTS)))
    _disturbed(place, command, draw, IN_DASHBOARD, 8.0, endless=True)


def two_processes(place: Place, draw: random.Random) -> None:
    """Pretraining in two processes; the place goes on with two."""
    forget(place, "pretrain")

    def rank(wanted: str) -> Target:
        def check(running: Running) -> bool:
            with contextlib.suppress(OSError):
                variables = Path(f"/proc/{running.pid}/environ").read_bytes()
                return _is_stage(running) and f"\0RANK={wanted}\0".encode() in variables
            return False

        return check

    def launcher(running: Running) -> bool:
        return _is_stage(running) and not any(
            _is_stage(Running(0, above, ())) for above in running.above
        )

    targets = {"launcher": launcher, "rank 0": rank("0"), "rank 1": rank("1")}
    _disturbed(place, python(*place.command), draw, targets, 8.0)


# --- at one system call ---------------------------------------------------------------------------

BY_HAND = (
    "linear",
    "knn",
    "detectors",
    "calibrate",
    "lowshot",
    "ood patches",
    "transfer patches",
    "uncertainty digits",
    "audit digits",
    "report",
    "export",
    "fetch digits",
)


def placed(place: Place, draw: random.Random) -> None:
    """A signal at the n-th call of a kind: between the steps of a write, of a lock, of a start."""
    if not shutil.which("strace"):
        raise Skipped("strace is not installed")
    number = draw.choice(STOPS)
    lock = place.folder / ".dvc/tmp/rwlock"
    call, path, most = draw.choice(
        [
            ("rename", None, 12),
            ("rename", None, 12),
            ("fsync", None, 10),
            ("unlink,rmdir", None, 10),
            ("openat", lock, 30),
            ("write", lock, 12),
            ("vfork,clone3", None, 3),
        ]
    )
    if call in ("rename", "fsync", "unlink,rmdir") and draw.random() < 0.5:
        stage = draw.choice(BY_HAND)
        command, name = python("-m", *f"stages.{stage}".split()), f"stages.{stage} by hand"
    else:
        something_to_do(place, draw)
        module = draw.choice([REPRO, REPRO, FLOW])
        command, name = python(*module), module[1]
    when = draw.randint(1, most)
    place.story.append(f"{name}: {number.name} at {call}{' of rwlock' if path else ''} {when}")
    strace = traced(place, call, f"signal={number.name}:when={when}", path)
    process = place.start([*strace, *command])
    ended(place, process, silent=True)
    trace = (place.root / "trace").read_text(errors="replace")
    if ("killed by SIGKILL" if number == signal.SIGKILL else "si_code=SI_KERNEL") not in trace:
        raise Missed


def traced(place: Place, call: str, injected: str, path: Path | None) -> list[str]:
    """The words before a command that inject something at a system call, of ``path`` or of any."""
    only = ["-P", str(path)] if path else []
    words = ["strace", "-f", *only, "-qq", "-o", str(place.root / "trace"), "-e", f"trace={call}"]
    return [*words, "-e", f"inject={call}:{injected}"]
