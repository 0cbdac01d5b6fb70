"""Before a run: repair what an earlier run that was killed has left in the folder.

All of it belongs to this program or to DVC and is made anew when needed: half-written files, DVC's
notes and locks (``dvc.py``), torn entries of ``dvc.lock`` (``lockfile.py``) and of the cache,
folders of experiments. Nothing that a living process holds is touched.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pipelines.engine import measured
from pipelines.graph import dvc, lockfile
from pipelines.graph.private import FOLDER, private
from prosmin.common.files import recover
from stages.common import declared, layout, proof

EXPERIMENTS = FOLDER / "experiments"
POINTS = FOLDER / "points"  # checkpoints of experiments, by name
# Stages write into these at any depth. data/ holds folders of files and may be large.
WRITTEN = ("metrics", "plots", "results")


def heal() -> Iterator[str]:
    """Repair the current folder; yields a sentence per repair.

    Call it while no other run is at work in the folder.
    """
    locks = ("lock", "rwlock", "rwlock.lock")
    yield from make_room(dvc.TMP, *(dvc.TMP / name for name in locks))
    yield from make_room(FOLDER, *(measure.kept for measure in measured.ALL))
    cache = proof.cache()
    with dvc.held("lock") as alone:  # else a `dvc` that somebody has started by hand is copying
        removed = [
            path
            for folder in _folders()
            for path in (
                *recover(folder, _is_output),
                *(dvc.remove_copies(folder) if alone else ()),
            )
        ]
    removed += dvc.remove_abandoned_copies(cache)
    if removed:
        yield f"removed what an interrupted write had left: {_first(removed)}"
    if removed := list(dvc.remove_torn_runs(cache)):
        yield f"removed torn entries of the run cache: {_first(removed)}"
    dvc.distrust(cache)
    yield from dvc.mend_note()
    yield from lockfile.mend()
    yield from clear_experiments()


def _first(paths: list[Path]) -> str:
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return f"{', '.join(map(str, paths[:3]))}{more}"


def _is_output(path: Path) -> bool:
    """Whether a stage writes this folder; yes where the graph cannot be read."""
    content = declared.sections(declared.PARAMS)
    stages = declared.graph(content) if content else {}
    return not stages or any(str(path) in stage.outs for stage in stages.values())


def _folders() -> Iterator[Path]:
    yield from (Path("."), FOLDER, dvc.TMP, Path("data"))
    with contextlib.suppress(OSError):
        yield from (
            path
            for path in sorted(Path("data").iterdir())
            if path.is_dir() and not path.is_symlink()
        )
    for name in WRITTEN:
        for folder, inside, _ in os.walk(name):
            inside.sort()
            yield Path(folder)


def make_room(folder: Path, *files: Path) -> Iterator[str]:
    """Move a file away from the place of ``folder``, and remove folders from those of ``files``."""
    if folder.is_file():
        away = folder.with_name(f"{folder.name}.away")
        os.replace(folder, away)
        yield f"moved {folder} to {away}: it was a file, and there must be a folder"
    for path in files:
        if path.is_dir():
            shutil.rmtree(path)
            yield f"removed {path}: it was a folder, and there must be a file"


# --- experiments ----------------------------------------------------------------------------------


@contextlib.contextmanager
def experiment_folder(name: str) -> Iterator[Path]:
    """Make a folder that exists while the block runs.

    It is locked until then, so ``clear_experiments`` leaves it.
    """
    private(EXPERIMENTS)
    with contextlib.ExitStack() as locks:
        with contextlib.ExitStack() as making:
            _lock_folder(EXPERIMENTS, making)
            folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=EXPERIMENTS.resolve()))
            _lock_folder(folder, locks)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def keeping_checkpoints(name: str) -> Iterator[Path | None]:
    """Keep the checkpoints of an experiment below this folder while the block runs; yields where.

    An experiment that did not end goes on from them when it is started again. While another run of
    this name is at work, this one keeps its own in its own folder, and None is yielded.
    """
    kept = POINTS / name
    private(POINTS)
    private(kept)
    with contextlib.ExitStack() as until:
        if not _lock_file(kept / "lock", until):
            yield None
            return
        before = os.environ.get(layout.CHECKPOINTS)
        os.environ[layout.CHECKPOINTS] = str(kept.resolve())
        try:
            yield kept.resolve()
        finally:
            if before is None:
                del os.environ[layout.CHECKPOINTS]
            else:
                os.environ[layout.CHECKPOINTS] = before


def _lock_file(path: Path, until: contextlib.ExitStack) -> bool:
    """Lock a file; False where another process holds it. Disks that know no locks lock nothing."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    until.callback(os.close, handle)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def clear_experiments() -> Iterator[str]:
    """Remove the folders of experiments whose process has ended without doing so."""
    if not EXPERIMENTS.is_dir():
        return
    with contextlib.ExitStack() as making:
        _lock_folder(EXPERIMENTS, making)
        for folder in sorted(EXPERIMENTS.iterdir()):
            with contextlib.ExitStack() as lock:
                if _lock_folder(folder, lock, fcntl.LOCK_NB):
                    shutil.rmtree(folder, ignore_errors=True)
                    yield f"removed {folder}, which an experiment that was killed had left"


def _lock_folder(folder: Path, until: contextlib.ExitStack, how: int = 0) -> bool:
    """Lock the folder itself; False where that fails, as on some network disks."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        until.callback(os.close, handle)
        fcntl.flock(handle, fcntl.LOCK_EX | how)
        return True
    return False
