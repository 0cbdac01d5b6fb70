"""How long stages took when they last ran in this folder, for the order of the next run."""

from collections.abc import Mapping

from pipelines.graph.private import FOLDER
from prosmin.common.errors import UserError
from prosmin.common.files import read_json, write_json

KEPT = FOLDER / "seconds.json"


def load() -> dict[str, float]:
    """Seconds by stage; empty where there is no file or a torn one."""
    try:
        content = read_json(KEPT)
    except (OSError, UserError):
        return {}
    # A torn or edited file may hold NaN and infinity, which JSON cannot hold when it is written.
    pairs = content.items() if isinstance(content, dict) else ()
    return {
        name: value for name, value in pairs if isinstance(value, int | float) and 0 <= value < 1e9
    }


def save(seconds: Mapping[str, float]) -> None:
    write_json(KEPT, {name: round(value, 1) for name, value in seconds.items()})
