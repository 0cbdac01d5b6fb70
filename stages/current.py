"""Which results belong to the settings, the code and the data as they stand, told by ``dvc.lock``.

``dvc status`` tells the same of a folder that holds all data and results. Metrics and plots are in
git and so lie in a clone that holds neither, and in older commits; whether they belong to the
params beside them is told by the lock all the same.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from stages import declared, proof

Stages = dict[str, declared.Stage]


def split(root: Path = Path()) -> tuple[Stages, Stages]:
    """The stages of the ``dvc.yaml`` in ``root`` whose results are of these settings, code and
    data, and the others, of which there are no results or other ones.

    root: the project, or a folder with ``params.yaml``, ``dvc.yaml``, ``dvc.lock`` and metrics of
    some commit; code that is not there is not looked at.
    """
    look = _Look(root)
    current = {name: stage for name, stage in look.graph.items() if look.current(name)}
    return current, {name: stage for name, stage in look.graph.items() if name not in current}


def stale(root: Path = Path()) -> set[str]:
    """The paths that the other stages of ``split`` write."""
    return {out for stage in split(root)[1].values() for out in stage.outs}


def belongs(path: str, stale: Collection[str]) -> bool:
    """Whether a file is neither one of the paths ``stale`` nor below one of them."""
    return path not in stale and not any(path.startswith(f"{out}/") for out in stale)


class _Look:
    """One look at ``root``."""

    def __init__(self, root: Path):
        self.root = root
        self.params = declared.sections(root / declared.PARAMS)
        self.graph = declared.graph(self.params, root / declared.GRAPH)
        self.lock = declared.locked(root / declared.LOCK)
        self.writer = {out: name for name, stage in self.graph.items() for out in stage.outs}
        self.known: dict[str, bool] = {}

    def current(self, name: str) -> bool:
        if name not in self.known:
            self.known[name] = False  # should a stage need itself, which DVC refuses
            self.known[name] = self._current(self.graph[name], self.lock.get(name))
        return self.known[name]

    def _current(self, stage: declared.Stage, entry: Any) -> bool:
        if not isinstance(entry, dict) or entry.get("cmd") != stage.command:
            return False
        noted = (entry.get("params") or {}).get(str(declared.PARAMS)) or {}
        now = (
            self.params
            if "" in stage.params
            else {key: declared.value(self.params, key) for key in stage.params}
        )
        if _plain(noted) != _plain(now):
            return False
        deps, outs = _sums(entry, "deps"), _sums(entry, "outs")
        if deps.keys() != set(stage.deps) or outs.keys() != set(stage.outs):
            return False
        return all(map(self._same, deps, deps.values())) and all(
            self._unless_there(*out) for out in outs.items()
        )

    def _same(self, dep: str, md5: str) -> bool:
        """Whether a dependency is what it was, by the stages that write it where there are such."""
        above = next((out for out in self.writer if dep == out or dep.startswith(f"{out}/")), None)
        if above is not None:
            name = self.writer[above]
            return self.current(name) and (
                dep != above or _sums(self.lock[name], "outs").get(dep) == md5
            )
        inside = [name for out, name in self.writer.items() if out.startswith(f"{dep}/")]
        return all(map(self.current, inside)) and self._unless_there(dep, md5)

    def _unless_there(self, path: str, md5: str) -> bool:
        """Whether a file or a folder has this checksum, or is not there: results need not be, and
        code not of an older commit."""
        here = self.root / path
        if here.is_dir():
            if path in self.writer:  # large, and what writes it has been looked at
                return True
            found = {each: proof.digest(each, "md5") for each in proof.below(str(here))}
            return proof.folder_digest(str(here), found) == md5
        return not here.is_file() or proof.digest(str(here), "md5") == md5


def _sums(entry: Mapping[str, Any], kind: str) -> dict[str, str]:
    return {each["path"]: each.get("md5", "") for each in entry.get(kind) or ()}


def _plain(value: Any) -> Any:
    """A value as it is, whichever way a number is written: DVC writes 1e-06, which another reader
    of YAML takes for text."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
