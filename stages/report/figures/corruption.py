"""Accuracy, calibration error and feature similarity against the severity of a corruption."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from stages.report.figures.drawing import Panel, Rows, columns, panel, plot, unit_y, where
from stages.report.figures.lines import Line


def severity(
    rows: Rows, clean: dict[str, float], column: str, title: str, lines: Mapping[str, Line]
) -> Panel:
    """``column`` against severity: the mean over types thick, the single types faint.

    clean: the value without corruption by encoder, drawn at severity 0.
    lines: of the encoders.
    """
    types = sorted({row["type"] for row in rows})
    curves = {
        encoder: [_by_severity(rows, clean, encoder, kind, column) for kind in types]
        for encoder in lines
    }
    means = {
        encoder: (of_types[0][0], np.mean([y for _, y in of_types], axis=0))
        for encoder, of_types in curves.items()
        if len(of_types[0][0])
    }

    def draw(axes: Axes) -> None:
        for encoder, mean in means.items():
            line = lines[encoder]
            for x, y in curves[encoder]:
                plot(axes, x, y, line, linewidth=0.7, alpha=0.3)
            style = {"linewidth": 2.2, "marker": line.marker, "markersize": 4.5, "clip_on": False}
            plot(axes, mean[0], mean[1], line, **style)
        _severity_axis(axes, title, bool(clean))
        if column == "accuracy":
            unit_y(axes)
        else:
            axes.set_ylim(0, None)

    said = "; ".join(
        f"{lines[name].label} from {mean[0]:.3f} to {mean[-1]:.3f}"
        for name, (_, mean) in means.items()
    )
    return panel(f"severity-{column}", f"{title} against severity: {said}", draw, 330, 220)


def by_type(
    rows: Rows, clean: dict[str, float], column: str, lines: Mapping[str, Line]
) -> list[Panel]:
    """``column`` against severity, one small panel per type.

    clean: the value without corruption by encoder, drawn at severity 0.
    lines: of the encoders.
    """
    kinds = dict.fromkeys(row["type"] for row in rows)
    return [_type_panel(rows, clean, kind, column, lines) for kind in kinds]


def _type_panel(
    rows: Rows, clean: dict[str, float], kind: str, column: str, lines: Mapping[str, Line]
) -> Panel:
    curves = {encoder: _by_severity(rows, clean, encoder, kind, column) for encoder in lines}

    def draw(axes: Axes) -> None:
        for encoder, line in lines.items():
            x, y = curves[encoder]
            plot(axes, x, y, line, marker=line.marker, markersize=3, clip_on=False)
        _severity_axis(axes, kind.replace("_", " "), bool(clean))
        unit_y(axes)

    said = "; ".join(
        f"{lines[name].label} {y[-1]:.3f} at the highest"
        for name, (_, y) in curves.items()
        if len(y)
    )
    shown = column.replace("_", " ").capitalize()
    alt = f"{shown} against severity of {kind.replace('_', ' ')}: {said}"
    return panel(f"corrupt-{kind}", alt, draw)


def _severity_axis(axes: Axes, title: str, with_clean: bool) -> None:
    axes.set(title=title, xlabel="severity (0 = clean)" if with_clean else "severity")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))


def _by_severity(
    rows: Rows, clean: dict[str, float], encoder: str, kind: str, column: str
) -> list[np.ndarray]:
    x, y = columns(
        sorted(where(rows, encoder=encoder, type=kind), key=lambda row: row["severity"]),
        "severity",
        column,
    )
    if encoder in clean and len(x):
        x, y = np.append(0, x), np.append(clean[encoder], y)
    return [x, y]
