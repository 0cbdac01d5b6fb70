"""The headline numbers of ``metrics/`` as a table for the terminal; the report has them all."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from prosmin.files import read_json
from stages.params import Params

DETECTORS = ("mahalanobis", "knn", "sigma")


class Row(NamedTuple):
    """One metric, named as in docs/evaluation.md. trained, random: (value, low, high), or None where unmeasured."""

    label: str
    trained: tuple[float, float | None, float | None]
    random: tuple[float, float | None, float | None] | None


def rows(params: Params, folder: str | Path = "metrics") -> list[Row]:
    """The rows whose metrics exist, for the datasets that ``params`` names (older files may lie beside them)."""
    found = []
    for label, file, *keys in _wanted(params):
        path = Path(folder) / file
        content = read_json(path) if path.is_file() else {}
        trained, random = (_measured(content.get(encoder), *keys) for encoder in ("trained", "random"))
        if trained is not None:
            found.append(Row(label, trained, random))
    return found


def _wanted(params: Params) -> Iterator[tuple[str, ...]]:
    """(label, file, key inside the encoder's metrics ...)."""
    yield "linear probe: accuracy", "linear.json", "accuracy"
    yield "linear probe: ece (lower is better)", "linear.json", "ece"
    yield "linear probe: ece after temperature scaling", "linear.json", "ece_calibrated"
    yield "k-NN: accuracy", "knn.json", "accuracy"
    if params.lowshot.per_class:
        most = max(params.lowshot.per_class)
        yield f"{most} labels a class: accuracy", "lowshot.json", f"per_class_{most}", "accuracy"
    for name, distance in params.ood.sets.items():
        for detector in DETECTORS:
            yield f"OOD, {name} ({distance}), {detector}: auroc", f"ood/{name}.json", detector, "auroc"
    yield "corruption: mean error (lower is better)", "corrupt.json", "mce_unnormalised"
    for name in params.transfer.targets:
        yield f"transfer to {name}: accuracy", f"transfer/{name}.json", "accuracy"


def _measured(metrics: Any, *keys: str) -> tuple[float, float | None, float | None] | None:
    *sections, name = keys
    for section in sections:
        metrics = (metrics or {}).get(section)
    if not metrics or name not in metrics:
        return None
    return metrics[name], metrics.get(f"{name}_low"), metrics.get(f"{name}_high")


def table(found: list[Row]) -> str:
    """Aligned text: label, the encoder with its 95 % interval, the same network untrained."""
    cells = [("", "ProSMIN", "95 % interval", "random init")]
    for label, (value, low, high), random in found:
        interval = "" if low is None or high is None else f"{low:.3f} - {high:.3f}"
        cells.append((label, f"{value:.3f}", interval, "" if random is None else f"{random[0]:.3f}"))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) if place == 0 else cell.rjust(width) for place, (cell, width) in enumerate(zip(row, widths, strict=True)))
        for row in cells
    )
