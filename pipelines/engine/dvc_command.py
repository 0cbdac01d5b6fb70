"""``python -m pipelines.engine.dvc_command repro ...`` is ``dvc repro ...``.

The one difference: Ctrl-C ends it in one line instead of a traceback, also while DVC loads or makes
a progress bar.

``--quick-lock`` as the first word replaces two methods of DVC, for ``make flow`` alone: the reader
of params (``pipelines.graph.dvc_params``) and the writer of the lock. DVC parses and writes all of
``dvc.lock`` after each stage, in pure Python, while other stages wait for its lock: 0.4 s of a core
with 25 stages, 6 s with 300 (``benchmarks.speed.lock``). Here DVC's own serialiser writes the entry
of the stage, and the entry replaces the old one: the file is the same to the byte. With another DVC
than the one it was written for, nothing is replaced.
"""

import re
import sys
from pathlib import Path
from typing import Any

from pipelines.graph import dvc, lockfile
from pipelines.graph.dvc_params import installed_version, read_once
from stages.common.stopping import raise_interrupts

QUICK = "--quick-lock"
# An anchor, by which YAML writes a value that stands in params.yaml under an anchor and its alias.
ANCHOR = re.compile(r"[:-] &id\d+")


def different_version() -> str:
    """A sentence where ``--quick-lock`` replaces nothing, else an empty text."""
    if installed_version() == dvc.VERSION:
        return ""
    return (
        f"DVC is {installed_version()}, not {dvc.VERSION}: DVC itself writes dvc.lock, "
        "which takes seconds per stage in a graph of hundreds"
    )


def replace_lock_writer() -> None:
    """Make DVC write the entry of one stage instead of the whole of ``dvc.lock``."""
    from dvc.dvcfile import Lockfile, logger
    from dvc.stage import serialize
    from dvc.utils.serialize import dumps_yaml

    write_all = Lockfile.dump_stages

    def dump_stages(self: Any, stages: Any, **options: Any) -> None:
        path = Path(self.path)
        texts = {}
        for stage in stages:
            data = serialize.to_lockfile(stage, **options)
            if stage.name in data:  # DVC notes no stage without inputs and outputs
                texts[stage.name] = dumps_yaml({"stages": data}).removeprefix("stages:\n")
        # The names of anchors must be unique in the file.
        anchors = any(ANCHOR.search(text) for text in texts.values())
        if anchors or not texts or not path.is_file():
            write_all(self, stages, **options)
        elif lockfile.update(path, texts):
            logger.info("Updating lock file '%s'", self.relpath)
            self.repo.scm_context.track_file(self.relpath)

    Lockfile.dump_stages = dump_stages


def main(arguments: list[str]) -> int:
    from dvc.cli import main

    if arguments[:1] == [QUICK]:
        arguments = arguments[1:]
        if not different_version():
            replace_lock_writer()
        read_once()
    raise_interrupts()
    # An error in a destructor changes nothing, and Python goes on. Its traceback would stand after
    # the line that says all: DVC's progress bar has one where Ctrl-C came while it was made.
    sys.unraisablehook = lambda error: None
    return main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
