"""The stages of ``dvc.yaml``, resolved with ``params.yaml``, and their entries in ``dvc.lock``.

DVC can tell the same, but takes longer to load than most stages take to run. This module reads the
part of its language that the graph uses: ``foreach`` over a section or a list,
``${a.dotted.key}``, ``${key}`` and ``${item}``.
"""

import contextlib
import hashlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

PARAMS, GRAPH, LOCK = Path("params.yaml"), Path("dvc.yaml"), Path("dvc.lock")

FETCH = "fetch"  # the section of the datasets
LOOP = f"${{{FETCH}}}"

_TEMPLATE = re.compile(r"\$\{([^}]*)\}")
# A tenth of the time, where libyaml is there.
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Stage:
    """A stage of ``dvc.yaml``.

    params: dotted keys of ``params.yaml``, or "" for all of it. deps, outs: paths.
    """

    name: str
    command: str
    params: tuple[str, ...]
    deps: tuple[str, ...]
    outs: tuple[str, ...]


def address(stage: str, arguments: tuple[str, ...] | list[str]) -> str:
    """How DVC names a stage that is started with these arguments."""
    return "@".join([stage, *arguments])


def definitions(path: Path = GRAPH) -> dict[str, Any]:
    """The definitions by name, a ``foreach`` as one; empty where ``path`` does not exist."""
    stages = sections(path).get("stages")
    if not isinstance(stages, dict):
        return {}
    return {name: body for name, body in stages.items() if isinstance(body, dict)}


def asked_for(params: Mapping[str, Any], path: Path = GRAPH) -> list[str]:
    """Dotted keys of ``params.yaml`` without which DVC refuses a stage, in the order of the file.

    These are the keys that stages depend on, and the keys whose values stand in definitions. Keys
    that depend on a loop are left out.
    """
    keys: list[str] = []
    for definition in definitions(path).values():
        templates = [key.strip() for text in _texts(definition) for key in _TEMPLATE.findall(text)]
        keys += [key for key in templates if key.partition(".")[0] not in ("key", "item")]
        body = definition.get("do", definition)
        wanted = body.get("params") if isinstance(body, dict) else None
        for key in wanted or ():
            if isinstance(key, str):
                with contextlib.suppress(KeyError):
                    keys.append(_resolver(params, {"key": None, "item": None})(key))
    return list(dict.fromkeys(keys))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        value = [part for pair in value.items() for part in pair]
    if isinstance(value, list):
        for part in value:
            yield from _texts(part)
    elif isinstance(value, str):
        yield value


def graph(params: Mapping[str, Any], path: Path = GRAPH) -> dict[str, Stage]:
    """The stages by name; empty where ``path`` does not exist.

    Stages that cannot be resolved are left out: DVC itself says what is wrong with them.

    params: the content of ``params.yaml``.
    """
    stages = {}
    for name, definition in definitions(path).items():
        for full, body, resolve in _instances(name, definition, params):
            try:
                stages[full] = _stage(full, body, resolve)
            except (KeyError, TypeError, AttributeError):
                continue
    return stages


def unused(
    params: Mapping[str, Any], path: Path = GRAPH, asked: Collection[str] = ()
) -> dict[str, list[str]]:
    """The datasets of ``fetch`` that nothing uses, each with its stages.

    A dataset has a stage in each loop over ``fetch``. It is used where another stage depends on a
    path that one of these writes. Stages that read whole folders, such as all of ``metrics/``, use
    no dataset.

    params, path: as for ``graph``. asked: stages that are wanted all the same.
    """
    stages = graph(params, path)
    loops = [name for name, body in definitions(path).items() if body.get("foreach") == LOOP]
    free = {}
    readers: dict[str, set[str]] = {}  # of a path or of something inside
    for stage in stages.values():
        for dep in stage.deps:
            for path_or_folder in above(dep):
                readers.setdefault(path_or_folder, set()).add(stage.name)
    for name in value(params, FETCH) or ():
        own = [f"{loop}@{name}" for loop in loops if f"{loop}@{name}" in stages]
        written = {out for stage in own for out in stages[stage].outs}
        used = any(readers.get(out, set()).difference(own) for out in written)
        if own and not used and not set(own).intersection(asked):
            free[str(name)] = own
    return free


def below(path: str, folder: str) -> bool:
    """Whether ``path`` is ``folder`` or lies inside."""
    return f"{path}/".startswith(f"{folder}/")


def above(path: str) -> Iterator[str]:
    """The path and the folders that it lies in, by which a dictionary finds them."""
    while path:
        yield path
        path = path.rpartition("/")[0]


def locked(path: Path = LOCK) -> dict[str, Any]:
    """The entries of ``dvc.lock`` by stage; empty where it does not exist or is being written."""
    entries = sections(path).get("stages")
    return entries if isinstance(entries, dict) else {}


def fingerprint(entry: Any) -> str:
    """A checksum of the entry of a stage in ``dvc.lock``; "" for None, no entry."""
    return (
        ""
        if entry is None
        else hashlib.md5(repr(entry).encode(), usedforsecurity=False).hexdigest()
    )


def value(params: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key; None where there is none; all of ``params`` for ""."""
    here: Any = params
    for step in key.split(".") if key else ():
        here = here.get(step) if isinstance(here, Mapping) else None
    return here


def sections(path: Path) -> dict[str, Any]:
    """The content of a YAML file; empty where there is no such file or it holds no sections."""
    content = parse(path.read_bytes()) if path.is_file() else None
    return content if isinstance(content, dict) else {}


@lru_cache(4)
def parse(text: bytes) -> Any:
    """The content of YAML, None where it is none; faster and less strict than ``yaml_file``.

    A command reads the same files several times, and the lock of hundreds of stages takes a second:
    the content is shared, so nobody changes it.
    """
    try:
        return yaml.load(text, Loader)
    except Exception:  # YAML's constructors raise many kinds for a tag that does not fit its value
        return None


def _instances(
    name: str, definition: Any, params: Mapping[str, Any]
) -> Iterator[tuple[str, Any, Callable[[str], str]]]:
    """Name, body and resolver of a stage, or of every stage of a ``foreach``."""
    if not isinstance(definition, dict) or "foreach" not in definition:
        yield name, definition, _resolver(params, {})
        return
    items = definition["foreach"]
    if isinstance(items, str) and (only := _TEMPLATE.fullmatch(items)):
        items = value(params, only[1])
    if isinstance(items, dict):
        variables = [{"key": key, "item": item} for key, item in items.items()]
    else:
        variables = [{"item": item} for item in items or ()]
    for local in variables:
        place = local["key"] if "key" in local else local["item"]
        yield f"{name}@{place}", definition.get("do"), _resolver(params, local)


def _resolver(params: Mapping[str, Any], local: Mapping[str, Any]) -> Callable[[str], str]:
    everything = {**params, **local}

    def fill(match: re.Match[str]) -> str:
        got = value(everything, match[1].strip())
        if got is None:
            raise KeyError(match[1])
        return str(got)

    return lambda text: _TEMPLATE.sub(fill, text)


def _stage(name: str, body: Mapping[str, Any], resolve: Callable[[str], str]) -> Stage:
    def paths(key: str) -> Iterator[str]:
        for path in body.get(key) or ():
            yield resolve(next(iter(path)) if isinstance(path, dict) else path)

    def keys() -> Iterator[str]:
        for param in body.get("params") or ():
            if isinstance(param, str):
                yield resolve(param)
            elif str(PARAMS) in param:
                yield from map(resolve, param[str(PARAMS)] or [""])

    return Stage(
        name,
        resolve(body["cmd"]),
        tuple(keys()),
        tuple(paths("deps")),
        tuple(path for kind in ("outs", "metrics", "plots") for path in paths(kind)),
    )
