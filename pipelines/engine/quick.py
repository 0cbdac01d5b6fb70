"""DVC with some of its habits changed, of which none can be seen in what it leaves.

- To note one stage in dvc.lock it parses and writes the whole file with comments and all, in pure Python: a second of a core for
  the default graph after each stage, under the lock that all others wait for. Here the stage's own lines take the place of the
  old ones, written by the same serialiser, so the file is equal to the byte; and it is written whole or not at all.
- Who waits for its lock looks again after half a second. Here after a fiftieth.
- It notes the params and the files that a stage has read as they are when the stage has ended. Here a stage for which they are not
  those of its beginning has failed.
- It empties ``.dvc/tmp/rwlock`` before it writes it, several times a stage; whoever comes upon the file that an interrupt has left
  empty gives up. Here it is written whole, and a torn one is taken for empty.
- An entry of its run cache that is torn or empty fails its stage, each time. Here it is removed, and the stage runs.
- It takes a read-only object of its cache for whole. Here its checksum is looked at, once for each state of the file; a rotten one
  is removed, and what it held is made again.
- Where a copy fails it names link types and a web page. Here it says why.

``python -m pipelines.engine.quick repro ...`` is ``dvc repro ...`` with all of them.
"""

import contextlib
import copy
import json
import os
import re
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines.graph import lockfile
from stages.common.stopping import raise_interrupts

POLL = 0.02  # seconds between two looks at a lock
# By which YAML writes what stands in params.yaml under an anchor and an alias of it.
ANCHOR = re.compile(r"[:-] &id\d+")


def apply() -> None:
    """Change the DVC that this process has."""
    _lock_files()
    _rwlock()
    _run_cache()
    _cache()
    _reasons()
    watch_inputs()


def _lock_files() -> None:
    import dvc.dvcfile
    import dvc.lock

    whole = dvc.dvcfile.Lockfile.dump_stages

    def dump_stages(self: Any, stages: Any, **kwargs: Any) -> None:
        path = Path(self.path)
        if not stages or not path.is_file():
            whole(self, stages, **kwargs)
            return
        from dvc.stage import serialize
        from dvc.utils.serialize import dumps_yaml

        text = {}
        for stage in stages:
            data = serialize.to_lockfile(stage, **kwargs)
            if (
                stage.name in data
            ):  # nothing is noted of a stage that has neither inputs nor outputs
                text[stage.name] = dumps_yaml({"stages": data}).removeprefix("stages:\n")
        if any(
            ANCHOR.search(each) for each in text.values()
        ):  # whose names must be different over the whole file
            whole(self, stages, **kwargs)
        elif lockfile.update(path, text):
            dvc.dvcfile.logger.info("Updating lock file '%s'", self.relpath)
            self.repo.scm_context.track_file(self.relpath)

    def lock(self: Any) -> None:
        end = time.monotonic() + (float("inf") if self._wait else dvc.lock.DEFAULT_TIMEOUT)
        while True:
            try:
                return self._do_lock()
            except dvc.lock.LockError:
                if time.monotonic() > end:
                    raise
            time.sleep(POLL)

    dvc.dvcfile.Lockfile.dump_stages = dump_stages
    dvc.lock.Lock.lock = lock


def watch_inputs() -> None:
    """A stage whose inputs have changed since it was started is not noted, neither in dvc.lock nor in the run cache."""
    from dvc.exceptions import DvcException
    from dvc.stage import Stage

    from stages.common import inputs

    run, save_deps = Stage.run, Stage.save_deps
    noted: dict[int, inputs.Inputs | None] = {}

    def run_watched(self: Any, *arguments: Any, **kwargs: Any) -> None:
        noted[id(self)] = inputs.look(getattr(self, "name", ""))
        try:
            run(self, *arguments, **kwargs)
        finally:
            del noted[id(self)]

    def save_deps_watched(self: Any, *arguments: Any, **kwargs: Any) -> None:
        save_deps(self, *arguments, **kwargs)
        before = noted.get(id(self))
        if before and (what := before.changed()):
            raise DvcException(f"{what}; its results are not noted, run it again")

    Stage.run, Stage.save_deps = run_watched, save_deps_watched


def _rwlock() -> None:
    import dvc.rwlock
    from voluptuous import Invalid

    @contextlib.contextmanager
    def edit(folder: str, fs: Any, hardlink: bool) -> Iterator[dict[str, Any]]:
        path = Path(folder, dvc.rwlock.RWLOCK_FILE)
        guard = dvc.rwlock.make_lock(
            str(path.with_name(dvc.rwlock.RWLOCK_LOCK)), tmp_dir=folder, hardlink_lock=hardlink
        )
        with guard:
            try:
                lock = dvc.rwlock.SCHEMA(json.loads(path.read_text(encoding="utf-8")))
            except (OSError, ValueError, RecursionError, Invalid):
                lock = dvc.rwlock.SCHEMA({})
            lock["read"] = defaultdict(list, lock["read"])
            lock["write"] = defaultdict(dict, lock["write"])
            yield lock
            part = path.with_name(
                f".{path.name}.{os.getpid()}.part"
            )  # not for long: a power cut ends who holds it, too
            part.write_text(json.dumps(lock), encoding="utf-8")
            part.replace(path)

    dvc.rwlock._edit_rwlock = edit


def _run_cache() -> None:
    from dvc.stage import cache as run_cache

    load = run_cache.StageCache._load_cache

    def load_whole(self: Any, key: str, value: str | None) -> Any:
        """The entry whose name is the hash of what it says, else None."""
        path = Path(self._get_cache_path(key, value or ""))
        with contextlib.suppress(Exception):
            found = load(self, key, value)
            if found is None or run_cache._get_cache_hash(copy.deepcopy(found)) == value:
                return found
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        run_cache.logger.warning(
            "an entry of the run cache was torn and has been removed: '%s'", run_cache.relpath(path)
        )
        return None

    run_cache.StageCache._load_cache = load_whole


def _cache() -> None:
    from dvc_data.hashfile.db import HashFileDB
    from dvc_data.hashfile.db.local import LocalHashFileDB

    LocalHashFileDB.check = HashFileDB.check  # which knows the objects that it has looked at


def _reasons() -> None:
    import dvc.exceptions

    init, known = dvc.exceptions.CacheLinkError.__init__, {}

    def explained(self: Any, paths: list[str]) -> None:
        init(self, paths)
        error = sys.exc_info()[1]
        while error is not None and not isinstance(error, OSError):
            error = error.__cause__ or error.__context__
        if error is not None:  # else all that failed are listed again at the end
            known.update(dict.fromkeys(paths, error.strerror))
        reasons = dict.fromkeys(known[path] for path in paths if path in known)
        if reasons:
            self.args = (self.msg,) = (
                f"cannot write {', '.join(map(repr, paths))}: {', '.join(reasons)}",
            )

    dvc.exceptions.CacheLinkError.__init__ = explained


if __name__ == "__main__":
    from dvc.cli import main

    apply()
    raise_interrupts()
    sys.exit(main())
