"""Which results are of the present settings, code and data, as ``dvc.lock`` tells.

``dvc status`` tells the same of a folder that holds all data and results. Metrics and plots are in
git, so they also lie in a fresh clone and in older commits, without data and results. There too the
lock tells whether they are of the params beside them.
"""

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from prosmin.common.errors import listed, shown
from stages.common import declared, proof
from stages.common.declared import below

Stages = dict[str, declared.Stage]
Recall = Callable[[declared.Stage, Mapping[str, str]], dict[str, str] | None]


def split(root: Path = Path()) -> tuple[Stages, Stages]:
    """Split the stages of ``dvc.yaml`` by whether their results are of these settings.

    Args:
        root: The project, or a folder with ``params.yaml``, ``dvc.yaml``, ``dvc.lock`` and metrics
            of a commit. Code that does not exist there is not compared.

    Returns:
        The stages whose results are of these settings, code and data, and the other stages.
    """
    look = Look(root)
    current = {name: stage for name, stage in look.graph.items() if look.current(name)}
    return current, {name: stage for name, stage in look.graph.items() if name not in current}


def stale(root: Path = Path()) -> set[str]:
    """The paths that the other stages of ``split`` write."""
    return {out for stage in split(root)[1].values() for out in stage.outs}


def belongs(path: str, stale: Collection[str]) -> bool:
    """Whether a file is neither in ``stale`` nor below a path in it."""
    return not any(below(path, out) for out in stale)


def reasons(root: Path = Path()) -> "dict[str, list[Reason]]":
    """Per stage, why its results are not of these settings, code and data; empty where they are."""
    look = Look(root)
    return {name: look.reasons(name) for name in look.graph}


class Reason(NamedTuple):
    """Why the results of a stage are of other settings, code or data.

    path: of the dependency that differs, else empty. noted: its checksum in ``dvc.lock``.
    after: the stages that run before and write the dependency.
    """

    text: str
    path: str = ""
    noted: str = ""
    after: tuple[str, ...] = ()


class Look:
    """One look at ``root``, without the stages of datasets that nothing uses.

    recall: what DVC's cache has of an earlier run of a stage with given checksums of its
    dependencies: the checksums of its outputs, or None. With it, results must exist here or in the
    cache, as for a run of the graph.
    asked: stages to look at even where nothing uses their dataset.
    """

    def __init__(self, root: Path, recall: Recall | None = None, asked: Collection[str] = ()):
        self.root, self.recall = root, recall
        self.params = declared.sections(root / declared.PARAMS)
        graph = declared.graph(self.params, root / declared.GRAPH)
        self.unused = declared.unused(self.params, root / declared.GRAPH, asked)
        spare = {name for stages in self.unused.values() for name in stages}
        self.graph = {name: stage for name, stage in graph.items() if name not in spare}
        self.lock = declared.locked(root / declared.LOCK)
        self.writer = {out: name for name, stage in self.graph.items() for out in stage.outs}
        self.inside: dict[str, dict[str, str]] = {}  # by folder: the outputs inside, with writers
        for out, name in self.writer.items():
            for folder in declared.above(out):
                self.inside.setdefault(folder, {})[out] = name
        self.digests: dict[str, str] = {}
        self.known: dict[str, list[Reason]] = {}
        self.sums: dict[str, dict[str, str] | None] = {}

    def current(self, name: str) -> bool:
        return not self.reasons(name)

    def after(self, name: str) -> dict[str, str] | None:
        """The checksums of a stage's outputs after the next run; None where it has to run."""
        if name not in self.sums:
            self.sums[name] = None  # should a stage need itself
            if self.current(name):
                self.sums[name] = _sums(self.lock[name], "outs")
            elif self.recall:
                stage = self.graph[name]
                deps = {dep: self._after(dep) for dep in stage.deps}
                known = {dep: md5 for dep, md5 in deps.items() if md5 is not None}
                if len(known) == len(deps):
                    self.sums[name] = self.recall(stage, known)
        return self.sums[name]

    def _after(self, dep: str) -> str | None:
        """The checksum of a dependency after the next run; None where that has to tell."""
        above = self._out_above(dep)
        if above is not None:
            sums = self.after(self.writer[above]) or {}
            if dep == above or above not in sums:
                return sums.get(dep)
            return (proof.listing(above, sums[above]) or {}).get(dep)
        inside = self.inside.get(dep, {})
        path = str(self.root / dep)
        if not inside and not os.path.isdir(path):
            return self._digest(path) if os.path.isfile(path) else None
        digests = {
            file: self._digest(file)
            for file in (proof.below(path) if os.path.isdir(path) else ())
            if not any(below(os.path.relpath(file, self.root), out) for out in inside)
        }
        for out, name in inside.items():
            listed = proof.listing(out, (self.after(name) or {}).get(out, proof.FOLDER))
            if listed is None:
                return None
            digests |= {str(self.root / file): md5 for file, md5 in listed.items()}
        return proof.folder_digest(path, digests)

    def needs(self, name: str) -> list[str]:
        """The stages whose outputs a stage reads, in the order of ``dvc.yaml``."""
        deps = self.graph[name].deps
        found = {writer for dep in deps for writer in self.inside.get(dep, {}).values()}
        found |= {self.writer[out] for dep in deps if (out := self._out_above(dep))}
        return [other for other in self.graph if other in found]

    def reasons(self, name: str) -> list[Reason]:
        if name not in self.known:
            # Should a stage need itself, which DVC refuses.
            self.known[name] = [Reason(f"{name} needs itself")]
            self.known[name] = list(self._reasons(self.graph[name], self.lock.get(name)))
        return self.known[name]

    def _reasons(self, stage: declared.Stage, entry: Any) -> Iterator[Reason]:
        if not isinstance(entry, dict):
            yield Reason(f"{declared.LOCK} has no run of it")
            return
        if (before := entry.get("cmd")) != stage.command:
            yield Reason(f"its command was {before!r} and is {stage.command!r}")
        noted = (entry.get("params") or {}).get(str(declared.PARAMS)) or {}
        now = (
            self.params
            if "" in stage.params
            else {key: declared.value(self.params, key) for key in stage.params}
        )
        for key, old, new in differences(noted, now):
            yield Reason(f"{declared.PARAMS}: {key} was {shown(old)} and is {shown(new)}")
        for kind, declared_paths in (("deps", stage.deps), ("outs", stage.outs)):
            noted_sums = _sums(entry, kind)
            for path in sorted(noted_sums.keys() ^ set(declared_paths)):
                verb = "no longer lists" if path in noted_sums else "now lists"
                yield Reason(f"{declared.GRAPH} {verb} {path} in its {kind}")
        for path, md5 in _sums(entry, "deps").items():
            if path in stage.deps:
                yield from self._changed(path, md5)
        for path, md5 in _sums(entry, "outs").items():
            if path not in stage.outs:
                continue
            if self.recall and not (self.root / path).exists() and not proof.kept(md5):
                yield Reason(f"{path} is missing")
            elif not self._unless_there(path, md5):
                yield Reason(f"{path} is not the file that the stage wrote", path, md5)

    def _changed(self, dep: str, md5: str) -> Iterator[Reason]:
        """Why a dependency has changed, by the stages that write it where there are any."""
        above = self._out_above(dep)
        if above is not None:
            name = self.writer[above]
            if self.after(name) is None:
                yield Reason(f"{dep}: {name} runs", after=(name,))
            elif not self.current(name) and self._after(dep) != md5:
                yield Reason(f"{dep}: {name} has another in DVC's cache", after=(name,))
            elif dep == above and self._after(dep) != md5:
                yield Reason(f"{dep}: {name} has written another", dep, md5)
            return
        inside = list(self.inside.get(dep, {}).values())
        if running := [name for name in inside if self.after(name) is None]:
            runs = "run" if len(running) > 1 else "runs"
            yield Reason(f"{dep}: {listed(running)} {runs}", after=tuple(running))
        elif back := [name for name in inside if not self.current(name)]:
            if self._after(dep) != md5:
                text = f"{dep}: DVC's cache has other results of {listed(back)}"
                yield Reason(text, after=tuple(back))
        elif not self._unless_there(dep, md5):
            yield Reason(f"{dep} changed", dep, md5)

    def _unless_there(self, path: str, md5: str) -> bool:
        """Whether a file or a folder has this checksum, or does not exist.

        Results of an older commit do not exist, and its code need not.
        """
        here = self.root / path
        if here.is_dir():
            if path in self.writer:  # large, and what writes it has been looked at
                return True
            digests = {file: self._digest(file) for file in proof.below(str(here))}
            return proof.folder_digest(str(here), digests) == md5
        return not here.is_file() or self._digest(str(here)) == md5

    def _out_above(self, path: str) -> str | None:
        """The output of a stage that the path is, or lies in."""
        return next((out for out in declared.above(path) if out in self.writer), None)

    def _digest(self, path: str) -> str:
        """The checksum of a file, computed once: most code is code of many stages."""
        if path not in self.digests:
            self.digests[path] = proof.digest(path, "md5")
        return self.digests[path]


def differences(before: Any, now: Any) -> Iterator[tuple[str, Any, Any]]:
    """The innermost dotted keys of params that differ, with both values."""
    yield from _differences(_plain(before), _plain(now), "")


def _differences(before: Any, now: Any, key: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(now, dict):
        for step in dict.fromkeys([*before, *now]):
            yield from _differences(before.get(step), now.get(step), f"{key}.{step}".lstrip("."))
    elif before != now:
        yield key, before, now


def _sums(entry: Mapping[str, Any], kind: str) -> dict[str, str]:
    return {file["path"]: file.get("md5", "") for file in entry.get(kind) or ()}


def _plain(value: Any) -> Any:
    """A value with its numbers as floats: PyYAML takes 1e-06, as DVC writes it, for text."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
