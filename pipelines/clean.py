"""``make clean``: remove the files of datasets and sets that ``params.yaml`` no longer names.

``python -m pipelines.clean [--dry-run]`` looks for outputs of stages that ``dvc.yaml`` no longer
has: stages of ``dvc.lock`` that are gone, and other items of its loops. An output is removed only
where it is as a stage has written it; any other is named and left. The entries of ``dvc.lock`` go
too.

DVC's cache keeps a copy of an output for every commit and experiment that names it, so that
``dvc checkout`` brings it back. Copies that nothing names any more are removed. In a cache that
``.dvc/config`` has somewhere else, for other projects too, nothing is removed.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pipelines.graph import dag, lockfile
from pipelines.graph.healing import EXPERIMENTS
from pipelines.graph.workspace import alone
from pipelines.recipe import RUNS
from prosmin.common.errors import listed
from stages.common import declared, proof
from stages.common.declared import below
from stages.params.load import load

if TYPE_CHECKING:
    from dvc.repo import Repo

CHECKSUM = re.compile(rb"\b[0-9a-f]{32}(?:\.dir)?\b")
ITEM = re.compile(r"\$\{(?:key|item)\}")  # the part of a path that a loop fills in
LOCKS = f"*/{declared.LOCK}"  # of folders that share the cache
UNITS = ("bytes", "kB", "MB", "GB", "TB")


class Leftover(NamedTuple):
    """An output that no stage writes any more.

    size: in bytes. ours: whether its files are as a stage has written them.
    """

    path: str
    size: int
    ours: bool


class Found(NamedTuple):
    """What no stage of ``dvc.yaml`` is behind.

    entries: stages of ``dvc.lock`` that are gone. checksums: of their outputs. leftovers: outputs
    that are here.
    """

    entries: tuple[str, ...]
    checksums: frozenset[str]
    leftovers: tuple[Leftover, ...]


def find(repo: "Repo") -> Found:
    """What there is to remove. repo: of DVC, which reads all that ``dvc.yaml`` may hold."""
    names = {dag.name_of(stage) for stage in repo.index.stages}
    written = {os.path.relpath(out.fs_path) for out in repo.index.outs}
    lock = declared.locked()
    noted = {
        out["path"]: out.get("md5", "") for entry in lock.values() for out in entry.get("outs", ())
    }
    entries = tuple(name for name in lock if name not in names)
    paths = [
        path
        for path in dict.fromkeys([*noted, *_items()])
        if os.path.exists(path) and not any(below(path, out) or below(out, path) for out in written)
    ]
    sizes = {path: sum(map(os.path.getsize, proof.below(path))) for path in paths}
    return Found(
        entries,
        frozenset(out.get("md5", "") for name in entries for out in lock[name].get("outs", ())),
        tuple(Leftover(path, sizes[path], _is_ours(path, noted.get(path, ""))) for path in paths),
    )


def _items() -> Iterator[str]:
    """Paths that are there and have the form of the outputs of a loop, without hidden files."""
    for definition in declared.definitions().values():
        body = definition.get("do") or {}
        for kind in ("outs", "metrics", "plots"):
            for out in body.get(kind) or ():
                pattern = ITEM.sub("*", next(iter(out)) if isinstance(out, dict) else out)
                if "*" in pattern and "$" not in pattern:
                    found = (path for path in Path().glob(pattern) if path.name[0] != ".")
                    yield from sorted(map(str, found))


def _is_ours(path: str, md5: str) -> bool:
    """Whether the files of an output are as a stage has written them."""
    places = {file: proof.place(file) for file in proof.below(path)}
    if places and places == proof.noted(path):
        return True
    if not md5:
        return False
    digests = {file: proof.digest(file, "md5") for file in places}
    folder = os.path.isdir(path)
    return md5 == (proof.folder_digest(path, digests) if folder else digests[path])


def copies(found: Found) -> tuple[dict[Path, int], dict[Path, int]]:
    """Copies of the outputs in DVC's cache that can go, and those that are kept, with their bytes.

    Kept is what a commit, an experiment, a stash or the folder of a run names.
    """
    here = {path: path.stat().st_size for path in _objects(found.checksums) if path.is_file()}
    if proof.setting("dir"):
        return {}, here
    locks = {path: declared.locked(path) for path in (*RUNS.glob(LOCKS), *EXPERIMENTS.glob(LOCKS))}
    rest = {name: of for name, of in declared.locked().items() if name not in found.entries}
    named = {match.decode() for match in CHECKSUM.findall(repr([locks, rest]).encode())}
    for folder in (Path(), *(path.parent for path in RUNS.glob("*/.git"))):
        named |= _in_history(folder)
    kept = set(_objects(named))
    return (
        {path: size for path, size in here.items() if path not in kept},
        {path: size for path, size in here.items() if path in kept},
    )


def _objects(checksums: Iterable[str]) -> Iterator[Path]:
    """The files in DVC's cache of outputs with these checksums, those in a folder included."""
    for md5 in checksums:
        if md5:
            yield proof.cached(md5)
            yield from map(proof.cached, (proof.listing("", md5) or {}).values())


def _in_history(folder: Path) -> set[str]:
    """The checksums in every version of ``dvc.lock`` that git can reach in ``folder``."""

    def git(*arguments: str, given: bytes = b"") -> bytes:
        return subprocess.run(
            ["git", *arguments], cwd=folder, input=given, capture_output=True, check=True
        ).stdout

    versions = git("rev-list", "--all", "--reflog", "--objects", "--", "*dvc.lock", "*.dvc")
    blobs = {line.split()[0] for line in versions.splitlines() if b" " in line}
    texts = git("cat-file", "--batch", given=b"\n".join(blobs))
    return {match.decode() for match in CHECKSUM.findall(texts)}


def clean(repo: "Repo", dry: bool = False) -> Iterator[str]:
    """Remove what is left over; yields a line per thing. Call it under DVC's lock.

    dry: say it, and remove nothing.
    """
    found = find(repo)
    verb = "would remove" if dry else "removed"
    ours = [leftover for leftover in found.leftovers if leftover.ours]
    free, kept = copies(found)
    for leftover in ours:
        if not dry:
            _remove(Path(leftover.path))
        yield f"{verb} {leftover.path} ({told(leftover.size)})"
    for leftover in found.leftovers:
        if not leftover.ours:
            yield f"left {leftover.path}: it is not as a stage of this project has written it"
    if not ours and not found.entries:
        yield "nothing to remove"
        return
    if found.entries:
        yield f"{verb} from {declared.LOCK}: {listed(found.entries)}"
    if not dry:
        for name in found.entries:
            lockfile.remove(name)
        for copy in free:
            copy.unlink()
    size, cached = sum(leftover.size for leftover in ours), sum(free.values())
    yield f"{'would free' if dry else 'freed'} {told(size)} here and {told(cached)} in DVC's cache"
    if kept:
        stays = told(sum(kept.values()))
        yield f"{stays} stay in DVC's cache: commits, experiments or other projects may name them"


def _remove(path: Path) -> None:
    """Remove an output, what is known of its files, and the folders that it leaves empty."""
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    proof.forget(str(path))
    for folder in list(path.parents)[:-2]:  # data/ and the like stay
        if any(folder.iterdir()):
            break
        folder.rmdir()


def told(size: float) -> str:
    """A number of bytes in words, such as ``3.1 GB``."""
    for unit in UNITS[:-1]:
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} {UNITS[-1]}"


def main(given: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.clean",
        description="Remove the files of datasets and sets that params.yaml no longer names.",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be removed")
    options = parser.parse_args(given)
    load()  # of wrong params, files that are in use would be left over
    with alone(), dag.locked() as repo:
        for line in clean(repo, options.dry_run):
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    from pipelines.run import command

    command(lambda: main(sys.argv[1:]))
