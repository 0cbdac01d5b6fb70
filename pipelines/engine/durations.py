"""How long stages took when they last ran in this folder, whoever ran them.

The next run orders its stages by it, and ``make plan`` tells it.
"""

import contextlib
from collections.abc import Mapping

from pipelines.graph import reads
from pipelines.graph.private import FOLDER
from prosmin.common.errors import UserError
from prosmin.common.files import read_json, write_json

KEPT = FOLDER / "seconds.json"


def load() -> dict[str, float]:
    """Seconds by stage: of the file, where there is a whole one, and of the last run's stages."""
    content: object = {}
    with contextlib.suppress(OSError, UserError):
        content = read_json(KEPT)
    # A torn or edited file may hold NaN and infinity, which JSON cannot hold when it is written.
    pairs = [*(content.items() if isinstance(content, dict) else ()), *reads.seconds().items()]
    return {
        name: value for name, value in pairs if isinstance(value, int | float) and 0 <= value < 1e9
    }


def keep() -> None:
    """Keep the seconds of the last run's stages, whose notes the next run removes."""
    if reads.seconds():
        save(load())


def save(seconds: Mapping[str, float]) -> None:
    write_json(KEPT, {name: round(value, 1) for name, value in seconds.items()})
