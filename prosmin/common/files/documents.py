"""JSON, metrics and CSV: written whole, read with one sentence on every fault."""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prosmin.common.errors import shown
from prosmin.common.files.atomic import write_text
from prosmin.common.files.damage import AGAIN, damaged, decoding

# --- writing --------------------------------------------------------------------------------------


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON with two spaces of indentation and a final newline.

    Raises ``ValueError`` for NaN and infinity, which JSON does not have.
    """
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def rounded(value: float, digits: int = 6) -> float:
    """Round to significant digits, so that metrics read well and differ only where it matters."""
    return float(f"{value:.{digits}g}")


def write_metrics(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write nested mappings as JSON; floats are ``rounded``, whole numbers stay whole."""

    def tidy(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: tidy(inner) for name, inner in value.items()}
        return rounded(value) if isinstance(value, float) else value

    write_json(path, tidy(content))


def write_csv(path: str | Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write CSV; floats have six significant digits, more than any plot shows."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    for row in rows:
        table.writerow([f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row])
    write_text(path, text.getvalue())


# --- reading --------------------------------------------------------------------------------------


class Section(dict[str, Any]):
    """A section of a JSON file, or a row of a CSV file.

    A missing key raises ``UserError``, because it means that the file has been changed.
    """

    def __init__(self, content: Any = (), path: str | Path = "a file", remedy: str = AGAIN):
        super().__init__(content)
        self._path, self._remedy = path, remedy

    def __missing__(self, key: str) -> Any:
        raise damaged(self._path, f"it has no {shown(key)}", self._remedy)

    def section(self, key: str) -> "Section":
        """Return the section under a key, empty where there is none or null.

        Raises ``UserError`` for any other value.
        """
        value = self.get(key)
        if value is None:
            return Section((), self._path, self._remedy)
        if not isinstance(value, Section):
            raise self._wrong(key, value, "a section")
        return value

    def number(self, key: str) -> float:
        """Return the number under a key. Raises ``UserError`` for any other value."""
        value = self[key]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong(key, value, "a number")
        return value

    def _wrong(self, key: str, value: Any, needed: str) -> Exception:
        why = f"{shown(key)} is {shown(value)}, where {needed} is needed"
        return damaged(self._path, why, self._remedy)


def read_json(path: str | Path, remedy: str = AGAIN, says: str = "cannot be read") -> Any:
    """Read JSON; its mappings are ``Section``.

    remedy, says: as for ``damaged``.

    Raises ``UserError`` for anything but JSON, and for NaN and infinity.
    """
    with decoding(path, remedy, says):
        return json.loads(
            Path(path).read_bytes(),
            object_hook=lambda content: Section(content, path, remedy),
            parse_float=_finite,
            parse_constant=_finite,
        )


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{shown(text)} is no finite number")
    return value


def read_metrics(path: str | Path) -> Section:
    """Read the output of ``write_metrics``: sections of sections, numbers and facts.

    Raises ``UserError`` for any other content.
    """
    content = read_json(path)
    if not isinstance(content, Section):
        raise damaged(path, "it holds no metrics")
    _check_same_kinds(content.section("trained"), content.section("random"))
    return content


def _check_same_kinds(left: Section, right: Section) -> None:
    """Raise ``UserError`` unless both sections hold the same kinds of values under the same names.

    A value is a section, a number, null (an undefined number), or a fact that is equal in both.
    """
    for key in left | right:
        values = left.get(key), right.get(key)
        if any(isinstance(value, dict) for value in values):
            _check_same_kinds(left.section(key), right.section(key))
        elif values[0] != values[1] or not isinstance(values[0], str | list):
            for section in (left, right):
                if section.get(key) is not None:
                    section.number(key)


def read_csv(path: str | Path) -> list[Section]:
    """Read rows by column.

    Raises ``UserError`` for a row with more or fewer cells than columns, and for anything but text.
    """
    with decoding(path), open(path, newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
        if any(None in row or None in row.values() for row in rows):
            raise ValueError("a row has more or fewer cells than there are columns")
        return [Section(row, path) for row in rows]
