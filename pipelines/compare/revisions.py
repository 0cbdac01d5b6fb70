"""Results of a commit or an experiment that are of other settings than its own."""

import subprocess
import tempfile
from pathlib import Path
from typing import Any

from stages.common import current, declared


def stale(source: Any, folder: Path) -> set[str]:
    """Paths of results in a revision that are of other settings, as a run of some stages leaves.

    source: DVC's file system of the revision. folder: a folder with its metrics, into which its
    params and its lock are copied.
    """
    for path in (declared.PARAMS, declared.GRAPH, declared.LOCK):
        if source.exists(str(path)):
            source.get_file(str(path), str(folder / path))
    return current.stale(folder)


def stale_in_experiment(repo: Any, name: str) -> set[str]:
    """``stale`` for a DVC experiment, read from git alone. repo: of DVC."""
    from dvc.repo.experiments.utils import exp_refs_by_names

    references = exp_refs_by_names(repo.scm, {name})[name]
    if not references:
        return set()
    with tempfile.TemporaryDirectory() as folder:
        for path in (declared.PARAMS, declared.GRAPH, declared.LOCK):
            done = subprocess.run(
                ["git", "show", f"{references[0]}:{path}"], cwd=repo.root_dir, capture_output=True
            )
            if done.returncode == 0:
                Path(folder, path).write_bytes(done.stdout)
        return current.stale(Path(folder))
