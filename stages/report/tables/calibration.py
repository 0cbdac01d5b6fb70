"""The ways of calibration of the linear probe: on test, under corruption and on shifted sets."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from prosmin.common.encoders import ENCODERS
from prosmin.evaluation.ways import WAYS
from prosmin.metrics.catalogue import Entry, entry_of
from stages.common import layout
from stages.common.command import LEFT_OUT
from stages.report.inputs import Inputs, Missing
from stages.report.tables.rows import Row, row


class Column(NamedTuple):
    """One metric of every way. title: the images. entry: of the metric."""

    title: str
    entry: Entry


class Ways(NamedTuple):
    """The table.

    rows: per way its name, its definition, where it was chosen, and a cell per column.
    missing: why there is none.
    """

    columns: list[Column]
    rows: list[tuple[str, str, str, list[Row | None]]]
    missing: Missing | None


def section(inputs: Inputs) -> Ways:
    """The table of NLL and ECE; columns whose stage has not run are left out."""
    path = layout.metrics("calibrate")
    content = inputs.metrics(path)
    if not content or LEFT_OUT in content:
        return Ways([], [], inputs.absent(path, "calibrate"))
    dataset = inputs.params.dataset
    places = [(f"{dataset}, test", content, "methods", ("nll", "ece"))]
    corrupted = inputs.metrics(layout.metrics("corrupt")) or {}
    places.append(("corrupted", corrupted, "calibration", ("nll_corrupted", "ece_corrupted")))
    for name in inputs.params.shift.sets:
        shifted = inputs.metrics(layout.metrics("shift", name)) or {}
        places.append((name, shifted, "calibration", ("nll", "ece")))
    columns, cells = [], []
    for title, metrics, key, names in places:
        of_ways = {encoder: (metrics.get(encoder) or {}).get(key) for encoder in ENCODERS}
        if any(of_ways.values()):
            columns += [Column(title, entry_of(name)) for name in names]
            cells += [[_cell(of_ways, name, method) for method in WAYS] for name in names]
    chosen = (content.get("chosen") or {}).get(ENCODERS[0]) or {}
    return Ways(
        columns,
        [
            (method, what, _chosen(chosen, method), list(of_method))
            for (method, what), of_method in zip(WAYS.items(), zip(*cells), strict=True)
        ],
        None,
    )


def _cell(of_ways: Mapping[str, Any], metric: str, method: str) -> Row | None:
    return row({encoder: ways or {} for encoder, ways in of_ways.items()}, metric, section=method)


def _chosen(chosen: Mapping[str, str], method: str) -> str:
    """The images on which the way has the lowest NLL, as text."""
    names = {"val": "val", "shifted_val": "shifted val"}
    return " and ".join(text for key, text in names.items() if chosen.get(key) == method)
