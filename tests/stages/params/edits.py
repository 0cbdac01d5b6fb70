"""Copies of params.yaml with other values, and what is said of them."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[3]
GIVEN = (ROOT / "params.yaml").read_text()
CONTENT = yaml.safe_load(GIVEN)
ABSENT = object()
HUB = {
    "source": "hub",
    "repo": "someone/birds",
    "revision": "0123456789abcdef0123456789abcdef01234567",
}


def edited(edits: dict[str, Any]) -> str:
    """The repository's params.yaml with values replaced, added or, if ABSENT, removed."""
    content = copy.deepcopy(CONTENT)
    for key, value in edits.items():
        *sections, name = key.split(".")
        section = content
        for step in sections:
            section = section[step]
        if value is ABSENT:
            del section[name]
        else:
            section[name] = value
    return yaml.safe_dump(content, sort_keys=False)


# Edits, what the one line says after "params.yaml: ", and more that it says.
Fault = tuple[Any, ...]


def check_one_line(fault: Fault, complaints: Callable[[str], list[str]]) -> None:
    """Check that a fault is told in one line, with its key, its value and what is allowed."""
    edits, start, *rest = fault
    (line,) = complaints(edited(edits))
    assert line.startswith(f"params.yaml: {start}")
    assert all(part in line for part in rest)
    assert len(line) < 400
