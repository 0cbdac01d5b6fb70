"""``python -m benchmarks.trust.faults``: faults by seed in copies of a small graph.

A fault is held when

- the command that met it ends in time, in words and without a traceback, and leaves no process,
- the next ``python -m pipelines.repro`` ends well with the bytes of an undisturbed run and no
  leftover,
- and the run after that has nothing to do.

Where only the user can decide (dvc.lock, objects of the cache), the next run may refuse in a
sentence with a command, which is then carried out.

    python -m benchmarks.trust.faults                         # 240 faults; resumes
    python -m benchmarks.trust.faults --seed 7 --count 1000   # others
    python -m benchmarks.trust.faults --kind flow --fresh     # one kind, anew
    python -m benchmarks.trust.faults --number 17             # one again, with its whole output

All outcomes stand in benchmarks/results/faults.json. What a number stands for depends on the seed,
the count and the code: outcomes of others are kept and neither counted nor replaced, and one that
is made once more by ``--number`` is not kept. The exit code is 1 when one was not held.
"""

import argparse
import hashlib
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.record import RESULTS, machine
from benchmarks.trust.faults import damage, judge, project, resources, signals
from prosmin.common.files import read_json, write_json


class Kind(NamedTuple):
    """share: of all faults; text: of the table; asks: whether the next run may ask the user."""

    share: int
    make: Callable[[project.Place, random.Random], None]
    text: str
    asks: bool = False
    original: str = "one"


KINDS = {
    "repro": Kind(34, signals.repro, "signals to `pipelines.repro`: main, guard, DVC, stage"),
    "flow": Kind(34, signals.flow, "signals to `pipelines.run`: main, guard, DVC, stage, server"),
    "parent": Kind(12, signals.parent, "signals to `make repro`, `make flow` and their terminal"),
    "sweep": Kind(8, signals.sweep, "signals to `pipelines.sweep`: main, point, guard, stage"),
    "two": Kind(
        14,
        signals.two_processes,
        "signals to pretraining in two processes: launcher, rank 0, rank 1",
        original="two",
    ),
    "dashboard": Kind(
        6, signals.dashboard, "signals to `pipelines.dashboard`: main, server, worker"
    ),
    "placed": Kind(
        30, signals.placed, "a signal at one system call: rename, fsync, unlink, lock, start"
    ),
    "lock": Kind(14, damage.lock, "damaged `dvc.lock`", asks=True),
    "made": Kind(14, damage.made, "damaged files in data/, metrics/, plots/, results/"),
    "cache": Kind(12, damage.cache, "damaged objects of the cache, working files gone", asks=True),
    "run cache": Kind(8, damage.run_cache, "damaged run cache"),
    "rwlock": Kind(8, damage.read_write_lock, "damaged or stale `.dvc/tmp/rwlock`"),
    "notes": Kind(8, damage.notes, "damaged files in `.prosmin`"),
    "checkpoints": Kind(6, damage.checkpoints, "damaged checkpoints of a killed pretraining"),
    "leftovers": Kind(6, damage.leftovers, "leftovers of interrupted writes and experiments"),
    "full disk": Kind(12, resources.full_disk, "a full disk or no inodes in one of the folders"),
    "read-only": Kind(4, resources.read_only, "a folder that is read-only"),
    "broken disk": Kind(
        8, resources.broken_disk, "a system call that fails once (EIO, EROFS, EDQUOT, ...)"
    ),
    "limits": Kind(8, resources.limits, "`ulimit` of files, memory, sizes, seconds"),
    "surroundings": Kind(
        6, resources.surroundings, "no TMPDIR, no HOME, an output that is full or closed"
    ),
    "at once": Kind(4, resources.at_once, "two runs at the same time"),
}
DRAWS = 8  # times that a fault which hit nothing is drawn again
WORDS = 6000  # characters of what was said that are kept of a fault that was not held
KEPT = RESULTS / "faults.json"


def plan(seed: int, count: int) -> list[str]:
    """The kind of each fault: every kind by its share, in an order drawn by ``seed``."""
    whole = sum(kind.share for kind in KINDS.values())
    exact = {name: count * kind.share / whole for name, kind in KINDS.items()}
    counts = {name: int(value) for name, value in exact.items()}
    missing = count - sum(counts.values())
    for name in sorted(exact, key=lambda name: counts[name] - exact[name])[:missing]:
        counts[name] += 1
    names = [name for name, number in counts.items() for _ in range(number)]
    random.Random(seed).shuffle(names)
    return names


def one(
    number: int, name: str, seed: int, original: project.Place, scratch: Path, talk: bool = False
) -> dict[str, Any]:
    """Make fault ``number``, of the kind ``name``, in a copy of ``original`` and judge it."""
    kind, begun = KINDS[name], time.monotonic()
    entry: dict[str, Any] = {"number": number, "seed": seed, "kind": name, "held": False}
    for attempt in range(DRAWS):
        place = project.copied(original, scratch / str(number))
        try:
            kind.make(place, random.Random(f"{seed}-{number}-{attempt}"))
            advice = judge.goes_on(place, kind.asks)
            entry |= {"held": True, "why": f"after the advised `{advice}`" if advice else ""}
        except judge.Missed:
            entry |= {"why": "it hit nothing"}
            continue
        except judge.Skipped as reason:
            entry |= {"held": None, "why": str(reason)}
        except judge.NotHeld as reason:
            entry |= {"why": str(reason), "said": "\n".join(place.said)[-WORDS:]}
        finally:
            entry["fault"] = ", ".join(place.story)
            judge.kill_all(place)
            if talk:
                print(*place.said, sep=f"\n{'-' * 100}\n")
            place.close()
        break
    return entry | {"seconds": round(time.monotonic() - begun, 1)}


def table(entries: list[dict[str, Any]]) -> str:
    """Markdown: a row a kind, and the sum."""
    tried, held = Counter(), Counter()
    for entry in entries:
        if entry["held"] is not None:
            tried[entry["kind"]] += 1
            held[entry["kind"]] += entry["held"]
    lines = ["| fault | tried | held |", "|---|---|---|"]
    lines += [
        f"| {kind.text} | {tried[name]} | {held[name]} |"
        for name, kind in KINDS.items()
        if tried[name]
    ]
    lines += [f"| **all** | **{tried.total()}** | **{held.total()}** |"]
    skipped = Counter(entry["why"] for entry in entries if entry["held"] is None)
    lines += [f"\n{count} left out: {why}" for why, count in skipped.items()]
    return "\n".join(lines)


def code() -> str:
    """A digest of the code in which the faults are made."""
    root = Path(__file__).parents[3]
    parts = ("prosmin", "stages", "pipelines")
    paths = [path for part in parts for path in sorted((root / part).rglob("*.py"))]
    content = b"".join(path.read_bytes() for path in [*paths, root / "dvc.yaml"])
    return hashlib.sha256(content).hexdigest()[:12]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.trust.faults",
        description="Faults, and whether a run survives them.",
    )
    scratch = Path(tempfile.gettempdir()) / "prosmin-faults"
    parser.add_argument("--count", type=int, default=240)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="faults at the same time (default: 2)")
    parser.add_argument("--kind", choices=list(KINDS), action="append", help="only of this kind")
    parser.add_argument("--number", type=int, action="append", help="only this one, word for word")
    parser.add_argument("--fresh", action="store_true", help="forget what was done before")
    parser.add_argument("--keep", type=Path, default=KEPT, help="the file of outcomes")
    parser.add_argument("--scratch", type=Path, default=scratch, help="the folder of the copies")
    return parser.parse_args()


def main() -> int:
    given = arguments()
    # In the background of a script Ctrl-C is ignored, also by what is started there.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    resources.own_mounts()
    version, names = code(), plan(given.seed, given.count)
    scratch = given.scratch / version
    same = {"seed": given.seed, "count": given.count, "code": version}
    kept = read_json(given.keep)["faults"] if given.keep.exists() and not given.fresh else []
    others = [entry for entry in kept if not same.items() <= entry.items()]
    done = {entry["number"]: entry for entry in kept if same.items() <= entry.items()}

    def wanted(number: int) -> bool:
        if given.kind and names[number] not in given.kind:
            return False
        if given.number:
            return number in given.number
        return number not in done

    chosen = [number for number in range(given.count) if wanted(number)]
    needed = {KINDS[names[number]].original for number in chosen}
    originals = {name: project.prepared(scratch, name) for name in needed}
    keeping = threading.Lock()

    def work(number: int) -> None:
        original = originals[KINDS[names[number]].original]
        entry = one(number, names[number], given.seed, original, scratch, bool(given.number))
        with keeping:
            done[number] = entry | same
            if not given.number:
                faults = [*others, *(done[number] for number in sorted(done))]
                write_json(given.keep, {"machine": machine(), "faults": faults})
            word = {True: "held", False: "NOT HELD", None: "left out"}[entry["held"]]
            what = f"{entry['kind']}: {entry['fault']}: {entry['why']}"
            print(f"{number:4d} {word}: {what} ({entry['seconds']} s)", flush=True)

    with ThreadPoolExecutor(given.jobs) as pool:
        for task in [pool.submit(work, number) for number in chosen]:
            task.result()
    shown = [done[number] for number in sorted(done)]
    print(f"\n{table(shown)}")
    return 1 if any(entry["held"] is False for entry in shown) else 0


if __name__ == "__main__":
    sys.exit(main())
