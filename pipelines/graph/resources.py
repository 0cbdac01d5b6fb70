"""The share of the machine that ``dvc.yaml`` declares beside a stage, where DVC never hashes it.

    meta: {resources: {gpus: 1, threads: 1, memory: 4GiB, weight: 1}}

gpus: a number, all or free; default 0. threads: a number, all or free; default 1. A stage that
wants all waits until it has all. A stage that wants what is free takes an equal part of what is
free when it starts, one at least; so its results must not depend on how many it gets. memory: at
most held at a time, by the stage and its processes; default: as much as in its last run here.
weight: how long the stage takes against the others, for the order of a first run; default 1.
"""

import re
from typing import Any

from prosmin.common.errors import UserError, nearest, shown

LEAST = {"gpus": 0, "threads": 1, "weight": 1}
KEYS = ("gpus", "threads", "memory", "weight")
UNITS = {"MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_AMOUNT = re.compile(r"(\d{1,9}(?:\.\d{1,9})?) ?([A-Za-z]*)", re.ASCII)


def declared(stage: Any) -> dict[str, Any]:
    """The declared resources of a stage of DVC, by key; memory in bytes.

    Raises:
        UserError: for an unknown key and for a value that is not allowed.
    """
    resources = (stage.meta or {}).get("resources", {})
    where = f"{stage.path_in_repo}: {getattr(stage, 'name', '')}: meta.resources"
    if not isinstance(resources, dict):
        raise UserError(f"{where} is {resources!r}; it must be like {{gpus: 1, threads: 1}}")
    for key in resources:
        if key not in KEYS:
            raise UserError(
                f"{where}.{key} is not a known key{nearest(key, KEYS)}; allowed: {', '.join(KEYS)}"
            )
    return {key: _checked(f"{where}.{key}", key, value) for key, value in resources.items()}


def _checked(where: str, key: str, value: Any) -> Any:
    if key == "memory":
        return memory(where, value)
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= LEAST[key]
    if not whole and (value not in ("all", "free") or key == "weight"):
        other = "" if key == "weight" else "all, free, or "
        raise UserError(
            f"{where} is {value!r}; it must be {other}a whole number of at least {LEAST[key]}"
        )
    return value


def memory(where: str, value: Any) -> int:
    """The bytes of an amount of memory such as ``4GiB``.

    where: names the value in a message.

    Raises:
        UserError: for any other value.
    """
    parts = _AMOUNT.fullmatch(value) if isinstance(value, str) else None
    number, unit = parts.groups() if parts else ("0", "")
    if unit not in UNITS or not (amount := round(float(number) * UNITS[unit])):
        meant = "" if unit in UNITS else nearest(unit, UNITS)
        raise UserError(
            f"{where} is {shown(value)}; it must be a number above 0 with one of the units "
            f"{', '.join(UNITS)}{meant}, such as 4GiB"
        )
    return amount


def written(amount: float) -> str:
    """Bytes of memory in the largest unit of which there is one at least: ``1.2 GiB``."""
    for unit, size in reversed(UNITS.items()):
        if amount >= size:
            return f"{amount / size:.{0 if unit == 'MiB' else 1}f} {unit}"
    return "below 1 MiB"
