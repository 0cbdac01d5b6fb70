"""What stages took when they last ran in this folder, whoever ran them: seconds, and memory.

The next run orders its stages by the seconds and starts no more stages than fit into the memory.
``make plan`` tells both.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipelines.graph import reads
from pipelines.graph.private import FOLDER
from prosmin.common.errors import UserError
from prosmin.common.files import read_json, write_json


@dataclass(frozen=True)
class Measure:
    """A number per stage.

    name: in the notes that stages leave, and of the file that keeps the numbers.
    limit: from which on a number is none.
    """

    name: str
    limit: float

    @property
    def kept(self) -> Path:
        return FOLDER / f"{self.name}.json"

    def load(self) -> dict[str, float]:
        """Numbers by stage: of the file, where there is a whole one, and of the last run."""
        content: object = {}
        with contextlib.suppress(OSError, UserError):
            content = read_json(self.kept)
        # A torn or edited file may hold NaN and infinity, which JSON cannot hold when it is
        # written.
        return {
            name: value
            for name, value in [
                *(content.items() if isinstance(content, dict) else ()),
                *reads.noted(self.name).items(),
            ]
            if isinstance(value, int | float) and 0 <= value < self.limit
        }

    def save(self, numbers: Mapping[str, float]) -> None:
        write_json(self.kept, {name: round(value, 1) for name, value in numbers.items()})


SECONDS = Measure("seconds", 1e9)
MEMORY = Measure("memory", 2**60)  # bytes
ALL = (SECONDS, MEMORY)


def keep() -> None:
    """Keep the numbers of the last run's stages, whose notes the next run removes."""
    for measure in ALL:
        if reads.noted(measure.name):
            measure.save(measure.load())
