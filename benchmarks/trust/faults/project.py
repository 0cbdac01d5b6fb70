"""The graph at a size of half a minute, finished once, and copies in which things go wrong."""

import hashlib
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.pipelines import clones

MINI = {
    **{
        key: value
        for key, value in clones.TINY.items()
        if not key.startswith(("fetch.", "pretrain.", "dataset"))
    },
    "fetch.digits.limit": {"train": 200, "val": 60, "test": 80},
    "fetch.patches.limit": {"train": 60, "val": 30, "test": 40},
    "fetch.digits_inverted": None,
    "fetch.digits_halves": None,
    "fetch.digits_rotated": None,
    "ood.sets": {"patches": "far"},
    "transfer.targets": ["patches"],
    "uncertainty.datasets": ["digits"],
    "audit.datasets": ["digits"],
    "pretrain.epochs": 4,
    "pretrain.batch_size": 64,
    "pretrain.warmup_epochs": 1,
    "pretrain.encoder.kwargs": clones.TINY["pretrain.encoder.kwargs"],
}
MADE = ("data", "metrics", "plots", "results")  # folders that a run fills, beside dvc.lock
SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
    "PYTHONFAULTHANDLER": "1",
    "PROSMIN_CHECKPOINT_SECONDS": "0",
    **{f"GIT_{who}_NAME": "faults" for who in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{who}_EMAIL": "faults@example.org" for who in ("AUTHOR", "COMMITTER")},
}
MARK = "PROSMIN_FAULT"  # a variable that all processes of a place inherit, by which they are found
REPRO = ("-m", "pipelines.repro")
FLOW = ("-m", "pipelines.run")


@dataclass
class Place:
    """A copy of the finished project.

    root: the folder of all that belongs to it; command: what brings it up to date; story: what was
    done to it; said: what each command has printed; expected: digests by path of the files that an
    undisturbed run leaves; after: what is to be done when the place is given up.
    """

    root: Path
    command: tuple[str, ...] = REPRO
    variables: dict[str, str] = field(default_factory=dict)
    story: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    expected: dict[str, str] = field(default_factory=dict)
    after: list[Callable[[], object]] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.root / "a project"

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """Temporary files and DVC's own notes stay in the place; plain ``python`` is this one."""
        own = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "TMPDIR": str(self.root / "tmp"),
            "DVC_SITE_CACHE_DIR": str(self.root / "site"),
            MARK: str(self.root),
        }
        return {**os.environ, **SETTINGS, **own, **self.variables, **(extra or {})}

    def start(
        self, command: list[str], extra: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start ``command`` as the leader of a session, as a terminal does."""
        with open(self.root / f"said-{len(self.said)}", "wb") as output:
            self.said.append("")
            return subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.environment(extra),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def printed(self) -> str:
        """What the command that was started last has said so far."""
        self.said[-1] = (self.root / f"said-{len(self.said) - 1}").read_text(errors="replace")
        return self.said[-1]

    def run(self, *arguments: str, seconds: float | None = None) -> tuple[int, str]:
        """The code and the words of Python with ``arguments``, once it has ended."""
        code = self.start([sys.executable, *arguments]).wait(seconds)
        return code, self.printed()

    def left(self) -> dict[str, str]:
        """The digest of every file that a run leaves, by its path in the project."""
        paths = [path for part in MADE for path in (self.folder / part).rglob("*")]
        paths += [self.folder / name for name in ("dvc.lock", "summary.json")]
        paths = [path for path in paths if path.is_file()]
        return {
            str(path.relative_to(self.folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(paths)
        }

    def close(self) -> None:
        for step in reversed(self.after):
            step()
        shutil.rmtree(self.root, ignore_errors=True)


def prepared(scratch: Path, name: str) -> Place:
    """The project, run to its end without any fault: ``one`` process that pretrains, or ``two``."""
    place = Place(scratch / name)
    if name == "two":
        place.command, place.variables = (*REPRO, "-s", "pretrain"), {"PROSMIN_PROCESSES": "2"}
    if not (place.root / "ready").exists():
        shutil.rmtree(place.root, ignore_errors=True)
        (place.root / "tmp").mkdir(parents=True)
        print(f"preparing {place.root}", file=sys.stderr, flush=True)
        if name == "two":
            shutil.copytree(prepared(scratch, "one").folder, place.folder, symlinks=True)
            _must(place, *REPRO, "-s", "-f", "pretrain")
        else:
            place.folder.mkdir()
            clones.clone(place.folder, MINI)
            _must(place, *REPRO)
            clones.commit(place.folder)
            _must(place, *FLOW)  # which does nothing but make Prefect's database
        (place.root / "ready").touch()
    place.expected = place.left()
    return place


def _must(place: Place, *arguments: str) -> None:
    code, said = place.run(*arguments)
    if code:
        sys.exit(f"error: without any fault, {' '.join(arguments)} ended with {code}:\n{said}")


def copied(original: Place, root: Path) -> Place:
    """A place like ``original``, in which something may go wrong."""
    variables = dict(original.variables)
    place = Place(root, original.command, variables, expected=original.expected)
    shutil.rmtree(root, ignore_errors=True)
    for folder in (root / "tmp", place.folder):
        folder.mkdir(parents=True)
    copy = ["cp", "-a", "--reflink=auto", f"{original.folder}/.", place.folder]
    subprocess.run(copy, check=True)
    return place


def stages(place: Place) -> list[str]:
    """Names of the stages, in the order of dvc.lock."""
    lines = (place.folder / "dvc.lock").read_text().splitlines()
    return [line.strip(" :") for line in lines if line.startswith("  ") and line[2] not in " -"]


def forget(place: Place, *names: str) -> None:
    """Make stages run again: dvc.lock names other code, and the run cache does not know them."""
    path, inside = place.folder / "dvc.lock", ""
    lines = path.read_text().splitlines(keepends=True)
    for number, line in enumerate(lines):
        if line.startswith("  ") and line[2] not in " -":
            inside = line.strip(" :\n")
        if inside in names and line.startswith("    - path: stages/"):
            start, _, _ = lines[number + 2].partition("md5: ")
            lines[number + 2] = f"{start}md5: {'f' * 32}\n"
    path.write_text("".join(lines))
    # The stages of a foreach have one command.
    modules = "|".join({name.partition("@")[0] for name in names})
    command = re.compile(rf"^cmd: python -m stages\.({modules})\b", re.M)
    for entries in list((place.folder / ".dvc/cache/runs").glob("*/*")):
        if any(command.search(entry.read_text()) for entry in entries.iterdir()):
            shutil.rmtree(entries)


def never_ran(place: Place, count: int) -> None:
    """Take the last ``count`` entries out of dvc.lock, as if no run had come so far."""
    last = stages(place)[-count:]
    forget(place, *last)
    path = place.folder / "dvc.lock"
    path.write_text(path.read_text().partition(f"  {last[0]}:\n")[0])


def something_to_do(place: Place, draw: random.Random) -> None:
    """Make the next run run a stage: one of all, or the last few as if they had never run."""
    if draw.random() < 0.15:
        count = draw.randint(2, 4)
        never_ran(place, count)
        place.story.append(f"last {count} stages to run")
    else:
        forget(place, chosen := draw.choice(stages(place)))
        place.story.append(f"{chosen} to run")


def patient(seconds: float) -> float:
    """``seconds`` of a machine that has nothing else to do, as long as they are on this one now."""
    return seconds * max(1.0, os.getloadavg()[0] / len(os.sched_getaffinity(0)))


def wait_until(check: Callable[[], object], seconds: float, pause: float = 0.02) -> bool:
    """Whether ``check`` becomes true within ``seconds``, more on a busy machine."""
    end = time.monotonic() + patient(seconds)
    while not (result := check()) and time.monotonic() < end:
        time.sleep(pause)
    return bool(result)
