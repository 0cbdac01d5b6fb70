"""How long each stage took when it last ran in this folder: what the order of the next run goes by, and nothing else."""

from collections.abc import Mapping

from pipelines.graph.private import FOLDER
from prosmin.common.errors import UserError
from prosmin.common.files import read_json, write_json

KEPT = FOLDER / "seconds.json"


def load() -> dict[str, float]:
    try:
        found = read_json(KEPT)
    except (OSError, UserError):
        return {}
    # A file that was torn or edited may hold NaN and infinity, which are no seconds and cannot be written again.
    known = found.items() if isinstance(found, dict) else ()
    return {
        name: value for name, value in known if isinstance(value, int | float) and 0 <= value < 1e9
    }


def save(seconds: Mapping[str, float]) -> None:
    write_json(KEPT, {name: round(value, 1) for name, value in seconds.items()})
