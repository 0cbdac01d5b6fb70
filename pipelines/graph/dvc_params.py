"""DVC reads ``params.yaml`` once per process, where DVC itself parses it for every stage.

Half of the time in which DVC finds that nothing is to be done would be this: each of 300 stages
parses the file, and each of its keys is looked up by a walk through all of it. With another DVC
than the one it was written for, nothing is replaced.
"""

import copy
import importlib.metadata
import os
from collections.abc import Mapping
from typing import Any

from pipelines.graph import dvc

State = tuple[int, int, int]

_MISSING = object()
_known: dict[str, tuple[State, Any]] = {}


def installed_version() -> str:
    """The version of DVC; its parts are replaced where this is ``dvc.VERSION``."""
    return importlib.metadata.version("dvc")


def read_once() -> None:
    """Replace the one function of DVC that reads files of params."""
    from dvc.dependency import param

    if installed_version() == dvc.VERSION and not hasattr(param, "read_anew"):
        param.read_anew = param.read_param_file
        param.read_param_file = _read


def _read(
    fs: Any, path: str, key_paths: list[str] | None = None, flatten: bool = False, **options: Any
) -> Any:
    """The values of dotted keys, as DVC's own function reads them."""
    from dvc.dependency import param

    plain = type(fs).__name__ == "LocalFileSystem" and flatten and key_paths and not options
    if plain and path.endswith((".yaml", ".yml")):
        content = _parsed(fs, path)
        values = {key: _value(content, key) for key in key_paths or ()}
        if not any(value is _MISSING for value in values.values()):
            return copy.deepcopy(values)  # YAML would write what is shared under an anchor
    return param.read_anew(fs, path, key_paths, flatten, **options)


def _parsed(fs: Any, path: str) -> Any:
    from dvc.utils.serialize import load_path

    facts = os.stat(path)
    state = facts.st_mtime_ns, facts.st_size, facts.st_ino
    if path not in _known or _known[path][0] != state:
        _known[path] = state, load_path(path, fs)
    return _known[path][1]


def _value(content: Any, key: str) -> Any:
    """The value of a key whose steps are names of sections; DVC looks up all others."""
    for step in key.split("."):
        if not isinstance(content, Mapping) or step not in content:
            return _MISSING
        content = content[step]
    return content
