"""What ``dvc.yaml`` says of each stage, resolved with ``params.yaml``, and what ``dvc.lock`` has
noted of it.

DVC can tell the same, but takes longer to load than most stages take to run. Read here is the part
of its language that this graph uses: ``foreach`` over a section or a list, ``${a.dotted.key}``,
``${key}`` and ``${item}``.
"""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

PARAMS, GRAPH, LOCK = Path("params.yaml"), Path("dvc.yaml"), Path("dvc.lock")

_TEMPLATE = re.compile(r"\$\{([^}]*)\}")
# A tenth of the time, where libyaml is there.
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Stage:
    """A stage as ``dvc.yaml`` has it. params: dotted keys of ``params.yaml``, or "" for all of it;
    deps, outs: paths."""

    name: str
    command: str
    params: tuple[str, ...]
    deps: tuple[str, ...]
    outs: tuple[str, ...]


def address(stage: str, arguments: tuple[str, ...] | list[str]) -> str:
    """How DVC names a stage that is started with these arguments."""
    return "@".join([stage, *arguments])


def definitions(path: Path = GRAPH) -> dict[str, Any]:
    """The stages as they are written, a ``foreach`` as one; none where ``path`` is not there or
    holds none."""
    found = sections(path).get("stages")
    return (
        {name: each for name, each in found.items() if isinstance(each, dict)}
        if isinstance(found, dict)
        else {}
    )


def asked_for(params: Mapping[str, Any], path: Path = GRAPH) -> list[str]:
    """Dotted keys of ``params.yaml`` without which DVC refuses a stage, in the order of the file
    and each once: those that it depends on and those whose value stands in its definition. Those
    that depend on a loop are left out."""
    found: list[str] = []
    for definition in definitions(path).values():
        templates = [
            each.strip() for text in _texts(definition) for each in _TEMPLATE.findall(text)
        ]
        found += [each for each in templates if each.partition(".")[0] not in ("key", "item")]
        body = definition.get("do", definition)
        wanted = body.get("params") if isinstance(body, dict) else None
        for each in wanted or ():
            if isinstance(each, str):
                with contextlib.suppress(KeyError):
                    found.append(_resolver(params, {"key": None, "item": None})(each))
    return list(dict.fromkeys(found))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        value = [each for pair in value.items() for each in pair]
    if isinstance(value, list):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, str):
        yield value


def graph(params: Mapping[str, Any], path: Path = GRAPH) -> dict[str, Stage]:
    """The stages by name; none where ``path`` is not there. params: the content of ``params.yaml``.

    What cannot be resolved is left out: DVC itself says what is wrong with it.
    """
    found = {}
    for name, definition in definitions(path).items():
        for full, body, resolve in _instances(name, definition, params):
            try:
                found[full] = _stage(full, body, resolve)
            except (KeyError, TypeError, AttributeError):
                continue
    return found


def locked(path: Path = LOCK) -> dict[str, Any]:
    """The entries of ``dvc.lock`` by stage; none where there is no such file, or another DVC is
    writing it."""
    found = sections(path).get("stages")
    return found if isinstance(found, dict) else {}


def value(params: Mapping[str, Any], key: str) -> Any:
    """What stands under a dotted key, None where nothing does; all of it for ""."""
    here: Any = params
    for step in key.split(".") if key else ():
        here = here.get(step) if isinstance(here, Mapping) else None
    return here


def sections(path: Path) -> dict[str, Any]:
    """The content of a YAML file; empty where there is no such file or it holds no sections."""
    content = parse(path.read_bytes()) if path.is_file() else None
    return content if isinstance(content, dict) else {}


def parse(text: bytes) -> Any:
    """What YAML holds, None where it is no YAML. Quick, and not as strict as ``stages.params.yaml_file``."""
    try:
        return yaml.load(text, Loader)
    except Exception:  # YAML's constructors raise many kinds for a tag that does not fit its value
        return None


def _instances(
    name: str, definition: Any, params: Mapping[str, Any]
) -> Iterator[tuple[str, Any, Callable[[str], str]]]:
    """The stage, or each of a ``foreach``: its name, its body and what fills in its templates."""
    if not isinstance(definition, dict) or "foreach" not in definition:
        yield name, definition, _resolver(params, {})
        return
    items = definition["foreach"]
    if isinstance(items, str) and (only := _TEMPLATE.fullmatch(items)):
        items = value(params, only[1])
    if isinstance(items, dict):
        each = [{"key": key, "item": item} for key, item in items.items()]
    else:
        each = [{"item": item} for item in items or ()]
    for local in each:
        place = local["key"] if "key" in local else local["item"]
        yield f"{name}@{place}", definition.get("do"), _resolver(params, local)


def _resolver(params: Mapping[str, Any], local: Mapping[str, Any]) -> Callable[[str], str]:
    everything = {**params, **local}

    def fill(found: re.Match[str]) -> str:
        got = value(everything, found[1].strip())
        if got is None:
            raise KeyError(found[1])
        return str(got)

    return lambda text: _TEMPLATE.sub(fill, text)


def _stage(name: str, body: Mapping[str, Any], resolve: Callable[[str], str]) -> Stage:
    def paths(key: str) -> Iterator[str]:
        for each in body.get(key) or ():
            yield resolve(next(iter(each)) if isinstance(each, dict) else each)

    def keys() -> Iterator[str]:
        for each in body.get("params") or ():
            if isinstance(each, str):
                yield resolve(each)
            elif str(PARAMS) in each:
                yield from map(resolve, each[str(PARAMS)] or [""])

    return Stage(
        name,
        resolve(body["cmd"]),
        tuple(keys()),
        tuple(paths("deps")),
        tuple(path for kind in ("outs", "metrics", "plots") for path in paths(kind)),
    )
