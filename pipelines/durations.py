"""How long each stage took when it last ran in this folder: what the order of the next run goes by, and nothing else."""

from collections.abc import Mapping
from pathlib import Path

from prosmin.files import read_json, write_json

KEPT = Path(".prosmin/seconds.json")


def load() -> dict[str, float]:
    try:
        found = read_json(KEPT)
    except (OSError, ValueError):
        return {}
    return (
        {name: value for name, value in found.items() if isinstance(value, int | float)}
        if isinstance(found, dict)
        else {}
    )


def save(seconds: Mapping[str, float]) -> None:
    write_json(KEPT, {name: round(value, 1) for name, value in seconds.items()})
