"""Read damaged files: ``python -m benchmarks.trust.mutants``.

The stages create a small project. A mutant is that project with one damaged file
(``benchmarks.trust.mutations``). Its usual reader reads it: ``params.yaml`` by a stage that starts,
which also builds the model and the views where it accepts the file; every other file by a
stage or by the library. Each mutant runs in a forked process with limits on memory and CPU time.

A reader may

- read the file: damage to a pixel or a digit cannot be detected;
- refuse the file in one sentence (``params.yaml``: one line per fault), with exit code 2 and no
  half-written file;
- fail: with a traceback, by hanging or by crashing. This should never happen.

``--case params:37`` shows one mutant. Another seed gives other mutants.
"""

import argparse
import collections
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

# A process with threads cannot be forked safely.
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

import numpy as np

from benchmarks.record import record
from benchmarks.trust import mutations
from benchmarks.trust.small import KINDS, build, checked_params

SECONDS, WALL = 10, 600  # of CPU time, and of wall-clock time on a busy machine
MEMORY = 3 * 2**30  # bytes, on top of the memory at the start
OUTCOMES = ("read", "refused", "traceback", "hang", "crash")


class Mutant(NamedTuple):
    """One damaged file and what its reader did.

    kind: of the file.
    path: in the project.
    mutation: name of the function that damaged it.
    outcome: one of ``OUTCOMES``.
    said: standard error of the reader.
    """

    name: str
    kind: str
    path: str
    mutation: str
    outcome: str
    said: str

    @property
    def failed(self) -> bool:
        return self.outcome not in ("read", "refused")


def in_child(work: Callable[[], None], folder: Path) -> tuple[str, str]:
    """Run ``work`` in a forked process inside ``folder`` and return (outcome, standard error)."""
    log = folder / ".log"
    child = os.fork()
    if child == 0:
        _limited(work, folder, log)
    end, status = time.monotonic() + WALL, None
    while status is None and time.monotonic() < end:
        done, code = os.waitpid(child, os.WNOHANG)
        status = code if done else time.sleep(0.005)
    if status is None:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return "hang", f"it ran longer than {WALL} s"
    said = log.read_text(errors="replace")
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGXCPU:
        return "hang", f"it computed longer than {SECONDS} s"
    if code < 0:
        return "crash", f"{signal.Signals(-code).name}: {said}"
    if "Traceback" in said or code not in (0, 2):
        return "traceback", said
    if code == 0:
        return "read", said
    told = [line for line in said.splitlines() if line.startswith("error: ")]
    clear = told and all(len(line) < 1500 and line.isprintable() for line in told)
    return ("refused" if clear else "traceback"), said


def _limited(work: Callable[[], None], folder: Path, log: Path) -> None:
    code = 1
    try:
        os.chdir(folder)
        out = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(out, 1), os.dup2(out, 2)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY,) * 2)
        spent = int(time.process_time()) + SECONDS
        resource.setrlimit(resource.RLIMIT_CPU, (spent, spent + 5))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        work()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)


def mutant(name: str, seed: int, base: Path, scratch: Path) -> Mutant:
    """Create the mutant ``params:<number>`` or ``data:<number>`` of a seed and read it."""
    group, number = name.split(":")
    rng = np.random.default_rng([seed, zlib.crc32(group.encode()), int(number)])
    folder = _copy(base, scratch)
    if group == "params":
        kind, path, changes, read = (
            "params.yaml",
            Path("params.yaml"),
            [mutations.settings],
            checked_params,
        )
    else:
        chosen = list(KINDS)[int(number) % len(KINDS)]  # all kinds equally often
        kind, made = chosen, KINDS[chosen]
        path = mutations.pick(rng, sorted(base.glob(made.files))).relative_to(base)
        changes, read = made.changes, partial(mutations.pick(rng, made.readers), path)
    change = mutations.pick(rng, changes)
    content = change((base / path).read_bytes(), rng)
    (folder / path).unlink()
    (folder / path).write_bytes(content)
    outcome, said = in_child(read, folder)
    return Mutant(name, kind, str(path), change.__name__, outcome, said)


def run(
    params: int, data: int, seed: int, show: Callable[[Mutant], Any] = lambda found: None
) -> list[Mutant]:
    """Create and read ``params`` mutants of params.yaml and ``data`` mutants of other files."""
    names = [
        f"{group}:{number}"
        for group, count in (("params", params), ("data", data))
        for number in range(count)
    ]
    with tempfile.TemporaryDirectory() as scratch:
        base = prepare(Path(scratch))
        check_sound(base, Path(scratch))
        found = []
        for name in names:
            found.append(mutant(name, seed, base, Path(scratch)))
            show(found[-1])
    return found


def prepare(scratch: Path) -> Path:
    """Create the small project in another process, so that this one starts no threads."""
    base = scratch / "base"
    base.mkdir()
    outcome, said = in_child(build, base)
    if outcome != "read":
        raise RuntimeError(f"the project cannot be made: {said}")
    (base / ".log").unlink()
    return base


def check_sound(base: Path, scratch: Path) -> None:
    """Raise ``RuntimeError`` where a reader refuses an undamaged file."""
    readers = {reader: (kind, made) for kind, made in KINDS.items() for reader in made.readers}
    for reader, (kind, made) in readers.items():
        folder = _copy(base, scratch)
        path = min(base.glob(made.files)).relative_to(base)
        outcome, said = in_child(partial(reader, path), folder)
        if outcome != "read":
            raise RuntimeError(f"{kind} is not read undamaged: {said}")


def _copy(base: Path, scratch: Path) -> Path:
    """Copy the project by hard links: writers replace a file and never change it in place."""
    folder = scratch / "project"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(base, folder, copy_function=os.link, symlinks=True)
    return folder


def table(found: list[Mutant]) -> dict[str, dict[str, int]]:
    counts: dict[str, collections.Counter[str]] = {}
    for each in found:
        counts.setdefault(each.kind, collections.Counter())[each.outcome] += 1
    return {
        kind: {outcome: count[outcome] for outcome in OUTCOMES}
        for kind, count in sorted(counts.items())
    }


def told(found: Mutant) -> None:
    if found.failed:
        last = (found.said.strip().splitlines() or [""])[-1]
        print(
            f"{found.name} {found.path} ({found.mutation}): {found.outcome}: {last[:300]}",
            file=sys.stderr,
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.trust.mutants",
        description="Read damaged files, drawn by a seed.",
    )
    parser.add_argument(
        "--params", type=int, default=500, help="mutants of params.yaml (default: 500)"
    )
    parser.add_argument(
        "--data", type=int, default=600, help="mutants of all other files (default: 600)"
    )
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    parser.add_argument("--case", help="show a single mutant, such as params:37")
    given = parser.parse_args()
    if given.case:
        with tempfile.TemporaryDirectory() as scratch:
            found = mutant(given.case, given.seed[0], prepare(Path(scratch)), Path(scratch))
            print(f"{found.path}, {found.mutation}: {found.outcome}\n{found.said}")
        sys.exit(found.failed)
    begun, found = time.monotonic(), []
    for seed in given.seed:
        found += run(given.params, given.data, seed, told)
    seconds = round(time.monotonic() - begun)
    counts = {outcome: sum(each.outcome == outcome for each in found) for outcome in OUTCOMES}
    packages = ["pydantic", "pyyaml", "torch", "timm", "safetensors", "pyarrow", "pillow"]
    facts = {"seeds": given.seed, "mutants": len(found), "seconds": seconds}
    record("mutants", packages, facts | counts | {"kinds": table(found)})
    sys.exit(any(each.failed for each in found))


if __name__ == "__main__":
    main()
