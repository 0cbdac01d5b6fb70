"""DVC with two of its habits changed, of which neither can be seen in what it leaves.

- To note one stage in dvc.lock it parses and writes the whole file with comments and all, in pure Python: a second of a core for
  the default graph after each stage, under the lock that all others wait for. Here the stage's own lines take the place of the
  old ones, written by the same serialiser, so the file is equal to the byte; and it is written whole or not at all.
- Who waits for its lock looks again after half a second. Here after a fiftieth.

``python -m pipelines.quick repro ...`` is ``dvc repro ...`` with both.
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


if __name__ == "__main__":
    from dvc.cli import main

    apply()
    sys.exit(main())
