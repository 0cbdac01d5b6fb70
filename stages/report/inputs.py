"""What the report reads: files that other stages left, and for one that is missing the command that makes it."""

from collections.abc import Iterator
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
from stages.common.command import LEFT_OUT
from stages.params.load import Params

Rows = list[dict[str, Any]]


class Missing(NamedTuple):
    """Why a part of the page is empty.

    path: of the file that is not there. commands: they make it; none where ``reason`` says all.
    """

    path: str
    commands: tuple[str, ...]
    reason: str = ""


def made_by(path: str, stage: str, item: str = "", reason: str = "") -> Missing:
    """The commands that make ``path``: the stage by DVC, which runs what it needs first, and alone."""
    return Missing(
        path,
        (f"dvc repro {stage}{item and '@'}{item}", f"python -m stages.{stage} {item}".strip()),
        reason,
    )


@dataclass(frozen=True)
class Inputs:
    """The files under ``root``, None for one that does not exist. ``params`` say which of them belong to this run:
    files of datasets that are no longer named may lie beside them."""

    root: Path
    params: Params

    def metrics(self, name: str) -> Any:
        """``metrics/<name>.json``, such as ``ood/patches``."""
        return self._read(f"metrics/{name}.json", read_metrics)

    def plot(self, name: str) -> Rows | None:
        """``plots/<name>.csv``, its numbers as floats."""
        path = f"plots/{name}.csv"
        rows = self._read(path, read_csv)
        if not rows:
            return rows
        found = [Section({key: _number(cell) for key, cell in row.items()}, path) for row in rows]
        for column in found[0]:
            kinds = {type(row[column]) for row in found if row[column] != ""}
            if len(kinds) > 1:
                raise damaged(path, f"{shown(column)} holds numbers and text")
        return found

    def arrays(self, name: str) -> Arrays | None:
        """``results/<name>.safetensors``."""
        return self._read(f"results/{name}.safetensors", read_arrays)

    def origin(self) -> Section:
        """Of ``results/pretrain/model.json``: how the encoder came about."""
        found = self._read("results/pretrain/model.json", read_json)
        return found.section("trained") if isinstance(found, Section) else Section()

    def _read(self, path: str, reader: Any) -> Any:
        if not (self.root / path).is_file():
            return None
        try:
            return reader(self.root / path)
        except UserError as error:
            raise UserError(str(error).replace(str(self.root / path), path)) from None

    def params_text(self) -> str:
        """``params.yaml`` as it stands, with "…" for folders of this machine, which are nothing to who reads the page."""
        text = (self.root / "params.yaml").read_text(encoding="utf-8")
        for path in sorted(_whole_paths(self.params.model_dump()), key=len, reverse=True):
            text = text.replace(path, f"…/{Path(path).name}")
        return text

    def absent(self, path: str, stage: str, item: str = "") -> Missing:
        """Why the results of a stage that needs labels are not there: it left them out, or has not run."""
        metrics = self.metrics(f"{stage}/{item}" if item else stage) or {}
        if reason := metrics.get(LEFT_OUT):
            return Missing(path, (), f"Left out: {reason}")
        return made_by(path, stage, item)


def _whole_paths(settings: Any) -> Iterator[str]:
    """The values, however deep, that say where something lies on this machine."""
    if isinstance(settings, str):
        if len(settings) > 1 and settings.startswith(("/", "~")):
            yield settings
    elif isinstance(settings, dict | list | tuple):
        for each in settings.values() if isinstance(settings, dict) else settings:
            yield from _whole_paths(each)


@cache
def _number(cell: str) -> float | str:
    try:
        return float(cell)
    except ValueError:
        return cell
