"""DVC with some of its habits changed, of which none can be seen in what it leaves.

- To note one stage in dvc.lock it parses and writes the whole file with comments and all, in pure Python: a second of a core for
  the default graph after each stage, under the lock that all others wait for. Here the stage's own lines take the place of the
  old ones, written by the same serialiser, so the file is equal to the byte; and it is written whole or not at all.
- Who waits for its lock looks again after half a second. Here after a fiftieth.
- It notes the params and the files that a stage has read as they are when the stage has ended. Here a stage for which they are not
  those of its beginning has failed.

``python -m pipelines.quick repro ...`` is ``dvc repro ...`` with these.
"""

import re
import sys
import time
from pathlib import Path
from typing import Any

from pipelines import lockfile

POLL = 0.02  # seconds between two looks at a lock
# By which YAML writes what stands in params.yaml under an anchor and an alias of it.
ANCHOR = re.compile(r"[:-] &id\d+")


def apply() -> None:
    """Change the DVC that this process has."""
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
            if stage.name in data:  # nothing is noted of a stage that has neither inputs nor outputs
                text[stage.name] = dumps_yaml({"stages": data}).removeprefix("stages:\n")
        if any(ANCHOR.search(each) for each in text.values()):  # whose names must be different over the whole file
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
    watch_inputs()


def watch_inputs() -> None:
    """A stage whose inputs have changed since it was started is not noted, neither in dvc.lock nor in the run cache."""
    from dvc.exceptions import DvcException
    from dvc.stage import Stage

    from stages import inputs

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


if __name__ == "__main__":
    from dvc.cli import main

    apply()
    sys.exit(main())
