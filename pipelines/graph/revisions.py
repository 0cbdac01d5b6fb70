"""What of a commit or an experiment belongs together: its metrics and results that are of its own
settings."""

import subprocess
import tempfile
from pathlib import Path
from typing import Any

from stages.common import current, declared


def stale(source: Any, folder: Path) -> set[str]:
    """Paths of results that a revision holds of other settings, as a run of some of the stages
    leaves them.

    source: DVC's file system of it; folder: its metrics, into which its params and its lock are
    brought.
    """
    for path in (declared.PARAMS, declared.GRAPH, declared.LOCK):
        if source.exists(str(path)):
            source.get_file(str(path), str(folder / path))
    return current.stale(folder)


def stale_in_experiment(repo: Any, name: str) -> set[str]:
    """The same of a DVC experiment, read from git alone. repo: DVC's."""
    from dvc.repo.experiments.utils import exp_refs_by_names

    found = exp_refs_by_names(repo.scm, {name})[name]
    if not found:
        return set()
    with tempfile.TemporaryDirectory() as folder:
        for path in (declared.PARAMS, declared.GRAPH, declared.LOCK):
            done = subprocess.run(
                ["git", "show", f"{found[0]}:{path}"], cwd=repo.root_dir, capture_output=True
            )
            if done.returncode == 0:
                Path(folder, path).write_bytes(done.stdout)
        return current.stale(Path(folder))
