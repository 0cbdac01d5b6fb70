"""Damaged input, by a seed: ``python -m benchmarks.mutants [--params 500] [--data 600] [--seed 0]``.

A small project is made by the stages themselves. Then each mutant is one file of it, damaged (``benchmarks.mutations``), and what
reads it: ``params.yaml`` by the start of a stage (and, where it is accepted, by building the model and the views that it asks for),
every other kind by a stage or by the reader of the library. Each runs in a process of its own, forked from this one, which has
imported everything, with limits on its memory and on its time on a processor. It may

- read the file, as damage that changes a pixel or a digit cannot be told
- refuse it in one sentence (of a params.yaml a line for each fault), with the exit code 2 and nothing left half-written
- fail: with a traceback, by hanging or by crashing. There should be none

``--case params:37`` shows what one says; another seed gives others, for as long as anyone likes.
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

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"  # a process with threads of its own cannot be forked safely

import numpy as np

from benchmarks import mutations
from benchmarks.record import record
from benchmarks.small import KINDS, build, checked_params

SECONDS, WALL = 10, 600  # on a processor, and in all on a machine that has other work
MEMORY = 3 * 2**30  # bytes more than the process has when it starts
OUTCOMES = ("read", "refused", "traceback", "hang", "crash")


class Mutant(NamedTuple):
    """kind: of the file; path: in the project; mutation: its name; outcome: one of ``OUTCOMES``; said: on standard error."""

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
    """Run ``work`` in a forked process inside ``folder``: (outcome, standard error)."""
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
    """The mutant ``params:<number>`` or ``data:<number>`` of a seed."""
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
        chosen = list(KINDS)[int(number) % len(KINDS)]  # each as often as any other
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
    """So many mutants of each group, one after the other."""
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
    """The small project, made in a process of its own so that this one stays without threads."""
    base = scratch / "base"
    base.mkdir()
    outcome, said = in_child(build, base)
    if outcome != "read":
        raise RuntimeError(f"the project cannot be made: {said}")
    (base / ".log").unlink()
    return base


def check_sound(base: Path, scratch: Path) -> None:
    """Raise ``RuntimeError`` unless each reader reads what is not damaged."""
    readers = {reader: (kind, made) for kind, made in KINDS.items() for reader in made.readers}
    for reader, (kind, made) in readers.items():
        folder = _copy(base, scratch)
        path = min(base.glob(made.files)).relative_to(base)
        outcome, said = in_child(partial(reader, path), folder)
        if outcome != "read":
            raise RuntimeError(f"{kind} is not read undamaged: {said}")


def _copy(base: Path, scratch: Path) -> Path:
    """The project anew, without a copy of what is in its files: whoever writes one replaces it."""
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
        prog="python -m benchmarks.mutants", description="Damaged input, by a seed."
    )
    parser.add_argument(
        "--params", type=int, default=500, help="mutants of params.yaml (default: 500)"
    )
    parser.add_argument("--data", type=int, default=600, help="of all other files (default: 600)")
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    parser.add_argument("--case", help="show one alone, such as params:37")
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
    record("mutants", ["pydantic", "pyyaml", "torch", "timm", "safetensors", "pyarrow", "pillow"],
           {"seeds": given.seed, "mutants": len(found), "seconds": seconds, **counts, "kinds": table(found)})  # fmt: skip
    sys.exit(any(each.failed for each in found))


if __name__ == "__main__":
    main()
