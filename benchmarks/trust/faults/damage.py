"""Damage to what lies on the disk between two runs: flipped bits, torn files, leftovers."""

import json
import os
import random
import re
import shutil
import signal
import string
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks.trust.faults.judge import Missed, ended, kill_all, python
from benchmarks.trust.faults.project import (
    FLOW,
    MADE,
    REPRO,
    Place,
    forget,
    something_to_do,
    stages,
    wait_until,
)

NOBODY = 4194303  # a process id above those that a system gives away by default
CHECKPOINT = 60.0  # seconds until a pretraining has written one


def _put(path: Path, content: bytes) -> None:
    """Write into a file whatever its mode, and leave the mode."""
    mode = path.stat().st_mode
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(mode)


def _flip(path: Path, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    _put(path, bytes(content))


def _tear(path: Path, draw: random.Random) -> None:
    content = path.read_bytes()
    _put(path, content[: draw.randrange(len(content))])


def _empty(path: Path, draw: random.Random) -> None:
    _put(path, b"")


def _zero(path: Path, draw: random.Random) -> None:
    content = path.read_bytes()
    whole = draw.randrange(len(content))
    _put(path, content[:whole] + bytes(len(content) - whole))


def _delete(path: Path, draw: random.Random) -> None:
    path.unlink()


def _folder(path: Path, draw: random.Random) -> None:
    path.unlink()
    path.mkdir()


def _markers(path: Path, draw: random.Random) -> None:
    """As ``git merge`` leaves it where both branches have run a stage."""
    lines = path.read_text().splitlines(keepends=True)
    number = draw.choice([place for place, line in enumerate(lines) if "md5: " in line])
    other = f"{lines[number].partition('md5: ')[0]}md5: {'f' * 32}\n"
    lines[number] = f"<<<<<<< HEAD\n{lines[number]}=======\n{other}>>>>>>> other\n"
    path.write_text("".join(lines))


def _crlf(path: Path, draw: random.Random) -> None:
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))


def _blanks(path: Path, draw: random.Random) -> None:
    text = path.read_text()
    ends = [match.end() - 1 for match in re.finditer(r"\n  [^ -]", text)]
    path.write_text(text[: draw.choice(ends)])


def _garbage(path: Path, draw: random.Random) -> None:
    path.write_bytes(bytes(draw.randrange(256) for _ in range(200)))


def _nan(path: Path, draw: random.Random) -> None:
    path.write_text('{"linear": NaN, "knn": 1e999, "pretrain": -1, "ood@patches": null}')


def _other(path: Path, draw: random.Random) -> None:
    path.write_text(draw.choice(["3", "[]", '"text"', "null", '{"api": 3, "pid": []}']))


DAMAGES: dict[str, Callable[[Path, random.Random], None]] = {
    "a bit flipped": _flip,
    "torn": _tear,
    "emptied": _empty,
    "zeros at its end": _zero,  # as after a power cut
    "deleted": _delete,
    "a folder in its place": _folder,
    "conflict markers": _markers,
    "lines end with CR LF": _crlf,
    "torn behind two blanks": _blanks,
    "no JSON": _garbage,
    "NaN in it": _nan,
    "another kind of JSON": _other,
}
OF_A_FILE = list(DAMAGES)[:6]


def damage(place: Place, draw: random.Random, path: Path, name: str, ways: Iterable[str]) -> None:
    """Damage ``path`` in one of the ``ways``, and note it by its ``name``."""
    way = draw.choice(list(ways))
    DAMAGES[way](path, draw)
    place.story.append(f"{name}: {way}")


def lock(place: Place, draw: random.Random) -> None:
    ways = [*OF_A_FILE, "torn behind two blanks", "conflict markers", "lines end with CR LF"]
    damage(place, draw, place.folder / "dvc.lock", "dvc.lock", ways)


def made(place: Place, draw: random.Random) -> None:
    """A file that a stage has written: a small one in git or a large one that DVC keeps."""
    part = place.folder / draw.choice(MADE)
    path = draw.choice([path for path in sorted(part.rglob("*")) if path.is_file()])
    damage(place, draw, path, str(path.relative_to(place.folder)), OF_A_FILE)


def cache(place: Place, draw: random.Random) -> None:
    """An object of the cache, when it is all there is, as in a clone that shares the cache."""
    objects = sorted(path for path in _objects(place).glob("*/*") if path.is_file())
    path = draw.choice(objects)
    name = f"cache object of {_held(place, path)}"
    ways = ["a bit flipped", "a bit flipped", "torn", "emptied", "zeros at its end", "deleted"]
    damage(place, draw, path, name, ways)
    for part in ("data", "results"):
        for output in (place.folder / part).iterdir():
            if output.is_dir():  # .gitignore is git's
                shutil.rmtree(output)
    place.story.append("data/ and results/ gone")


def _objects(place: Place) -> Path:
    return place.folder / ".dvc/cache/files/md5"


def _held(place: Place, path: Path) -> str:
    """The name of the file that a cache object holds, from the lists of folders in the cache."""
    if path.suffix == ".dir":
        return "a list of files"
    digest = path.parent.name + path.name
    lists = [json.loads(listed.read_bytes()) for listed in _objects(place).glob("*/*.dir")]
    return next((file["relpath"] for files in lists for file in files if file["md5"] == digest), "")


def run_cache(place: Place, draw: random.Random) -> None:
    """DVC's memory of a stage, which it asks because dvc.lock is gone."""
    runs = place.folder / ".dvc/cache/runs"
    entry = draw.choice(sorted(path for path in runs.glob("*/*/*") if path.is_file()))
    ways = ["deleted", "deleted", "torn", "emptied", "a bit flipped", "a folder in its place"]
    damage(place, draw, entry, "run-cache entry", ways)  # deleted: its folder stays, empty
    (place.folder / "dvc.lock").unlink()
    place.story.append("dvc.lock gone")


def read_write_lock(place: Place, draw: random.Random) -> None:
    path = place.folder / ".dvc/tmp/rwlock"
    held = draw.choice(["results/linear", "results/pretrain", "data/digits", "metrics/knn.json"])
    process = draw.choice([NOBODY, os.getppid()])
    entry = {"write": {"pid": process, "cmd": "dvc repro"}, "read": []}
    path.write_text(json.dumps({str(place.folder / held): entry}))
    forget(place, "fetch@digits", "pretrain", "linear", "knn")  # which want what is held
    if draw.random() < 0.4:
        place.story.append(f"rwlock of a {'dead' if process == NOBODY else 'reused'} process id")
    else:
        ways = ["emptied", "torn", "no JSON", "another kind of JSON", "zeros at its end"]
        damage(place, draw, path, "rwlock", [*ways, "a folder in its place"])


def notes(place: Place, draw: random.Random) -> None:
    """What the programs note for themselves in .prosmin, which the flow reads."""
    kept = place.folder / ".prosmin"
    something_to_do(place, draw)
    name = draw.choice(["seconds.json", "dashboard.json", "run.lock", "prefect/prefect.db", ""])
    if name:
        path = kept / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        json_only = ["NaN in it", "another kind of JSON"] if path.suffix == ".json" else []
        damage(place, draw, path, name, ["no JSON", "emptied", "a folder in its place", *json_only])
    else:
        shutil.rmtree(kept)
        kept.write_text("a file")
        place.story.append("a file in the place of .prosmin")
    code = ended(place, place.start(python(*FLOW)))
    place.story.append(f"the flow ended with {code}")


def checkpoints(place: Place, draw: random.Random) -> None:
    """A checkpoint, which a pretraining left that was killed."""
    forget(place, "pretrain")
    process = place.start(python(*REPRO))

    def written() -> list[Path]:
        paths = (place.folder / ".prosmin").rglob("*.safetensors")
        return [path for path in paths if not path.name.startswith(".")]

    wait_until(lambda: written() or process.poll() is not None, CHECKPOINT)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kill_all(place)
    if not written():
        raise Missed
    damage(place, draw, draw.choice(sorted(written())), "checkpoint", OF_A_FILE)


def leftovers(place: Place, draw: random.Random) -> None:
    """Files and folders that an interrupted write leaves: ours, and those of DVC's copies."""
    for _ in range(draw.randint(1, 4)):
        part = place.folder / draw.choice(MADE)
        # Whole folders are written in data/ and results/, and what lies inside is part of them.
        whole = part.name in ("data", "results")
        inside = [] if whole else sorted(part.rglob("*"))
        folder = draw.choice([part, *(path for path in inside if path.is_dir())])
        names = sorted(path.name for path in folder.iterdir() if path.name[0] != ".")
        name = draw.choice(names)
        ours = [f".{name}.{NOBODY}.{mark}" for mark in (("part", "old") if whole else ("part",))]
        letters = "".join(draw.choices(string.ascii_letters + string.digits, k=22))
        path = folder / draw.choice([*ours, f".{letters}.tmp"])
        place.story.append(str(path.relative_to(place.folder)))
        if whole and path.suffix != ".tmp":
            path.mkdir(exist_ok=True)
            path = path / "half.arrow"
        path.write_bytes(draw.randbytes(draw.randint(0, 1000)))
    if draw.random() < 0.3:
        (place.folder / f".dvc.lock.{NOBODY}.part").write_text("schema: '2.0'\n")
        place.story.append(f".dvc.lock.{NOBODY}.part")
    if draw.random() < 0.3:
        stray = place.folder / ".prosmin/experiments/lambda-2-abcd1234"
        (stray / "data").mkdir(parents=True)
        (stray / "data/train.arrow").write_bytes(b"x" * 100)
        place.story.append(str(stray.relative_to(place.folder)))
    forget(place, draw.choice(stages(place)))
