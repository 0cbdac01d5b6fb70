"""The inputs of the report: files of other stages, or the commands that make a missing file."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from prosmin.common.errors import UserError, shown
from prosmin.common.files import (
    Arrays,
    Section,
    damaged,
    read_arrays,
    read_csv,
    read_json,
    read_metrics,
)
from stages.common import layout
from stages.common.command import LEFT_OUT
from stages.params.load import Params

Rows = list[dict[str, Any]]
# An absolute path, also in a comment, or written with escapes: its folders, and its last name.
WHOLE_PATH = re.compile(r"""(?<![\w.…/:<>)\]])~?/(?:[^\s/'"#,\]}]+/)*([^\s/'"#,\]}]+)""")


class Missing(NamedTuple):
    """Why a part of the page is empty.

    path: of the missing file.
    commands: that make the file; none where ``reason`` says why it cannot be made.
    """

    path: str
    commands: tuple[str, ...]
    reason: str = ""


def made_by(path: Path, stage: str, item: str = "") -> Missing:
    """The two commands that make ``path``: DVC with all earlier stages, and the stage alone."""
    commands = f"dvc repro {stage}{item and '@'}{item}", f"python -m stages.{stage} {item}".strip()
    return Missing(str(path), commands)


@dataclass(frozen=True)
class Inputs:
    """The files below ``root``; a method returns None for a file that does not exist.

    params: they name the datasets of the run. Files of other datasets may lie beside theirs.
    """

    root: Path
    params: Params

    def metrics(self, path: Path) -> Any:
        """The content of a metrics file."""
        return self._read(path, read_metrics)

    def plot(self, path: Path) -> Rows | None:
        """The rows of a CSV file, with numbers as floats."""
        rows = self._read(path, read_csv)
        if not rows:
            return None
        converted: Rows = [
            Section({key: _number(cell) for key, cell in row.items()}, path) for row in rows
        ]
        for column in converted[0]:
            kinds = {type(row[column]) for row in converted if row[column] != ""}
            if len(kinds) > 1:
                raise damaged(path, f"{shown(column)} holds numbers and text")
        return converted

    def table(self, path: Path) -> list[Section] | None:
        """The rows of a CSV file as text."""
        rows: list[Section] | None = self._read(path, read_csv)
        return rows

    def arrays(self, path: Path) -> Arrays | None:
        """The arrays of a safetensors file."""
        arrays: Arrays | None = self._read(path, read_arrays)
        return arrays

    def origin(self) -> Section:
        """How the encoder was trained, from the description beside its weights."""
        description = self._read(layout.DESCRIPTION, read_json)
        return description.section("trained") if isinstance(description, Section) else Section()

    def _read(self, path: Path, reader: Callable[[Path], Any]) -> Any:
        if not (self.root / path).is_file():
            return None
        try:
            return reader(self.root / path)
        except UserError as error:
            raise UserError(str(error).replace(str(self.root / path), str(path))) from None

    def params_text(self) -> str:
        """The text of ``params.yaml``, with "…" in place of folders of this machine."""
        text = (self.root / "params.yaml").read_text(encoding="utf-8")
        for path in sorted(_whole_paths(self.params.model_dump()), key=len, reverse=True):
            text = text.replace(path, f"…/{Path(path).name}")
        return WHOLE_PATH.sub(r"…/\1", text)

    def absent(self, path: Path, stage: str, item: str = "") -> Missing:
        """Why results that need labels are missing: the stage left them out or has not run."""
        metrics = self.metrics(layout.metrics(stage, item)) or {}
        if reason := metrics.get(LEFT_OUT):
            return Missing(str(path), (), f"Left out: {reason}")
        return made_by(path, stage, item)


def _whole_paths(settings: Any) -> Iterator[str]:
    """The absolute paths among the values of settings, at any depth."""
    if isinstance(settings, str):
        if len(settings) > 1 and settings.startswith(("/", "~")):
            yield settings
    elif isinstance(settings, dict | list | tuple):
        for value in settings.values() if isinstance(settings, dict) else settings:
            yield from _whole_paths(value)


@cache
def _number(cell: str) -> float | str:
    try:
        return float(cell)
    except ValueError:
        return cell
