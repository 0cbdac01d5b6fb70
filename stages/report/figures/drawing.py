"""The drawing kit: colours, style, and one set of axes as inline SVG.

A figure has several small panels. The page puts them side by side on a screen and below one another
on a phone, at the size they were drawn in. Text stays text in the font of the page. Colours become
CSS variables, so that the dark mode of the page applies to them.
"""

import io
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stages.report.figures.lines import Line

Rows = Sequence[dict[str, Any]]

# name: (light, dark). Okabe and Ito's palette, which colour-blind readers can tell apart; every
# line has its own dash as well. Drawings use the light values, which are then replaced by
# var(--name), so no two may be equal.
COLOURS = {
    "ink": ("#1b2430", "#e8ebf0"),
    "muted": ("#5c6675", "#a3adbb"),
    "grid": ("#dfe3e9", "#333b47"),
    "trained": ("#0072b2", "#56b4e9"),
    "random": ("#8d6a1f", "#d9b25f"),
    "orange": ("#d98200", "#f0a73a"),
    "green": ("#00805f", "#2cc79c"),
    "purple": ("#b5518c", "#e391c0"),
    "red": ("#c44e00", "#ff8a4c"),
}

STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.size": 9,
    "text.color": COLOURS["ink"][0],
    "axes.edgecolor": COLOURS["muted"][0],
    "axes.labelcolor": COLOURS["muted"][0],
    "axes.labelsize": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 7,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": COLOURS["grid"][0],
    "grid.linewidth": 0.7,
    "xtick.color": COLOURS["muted"][0],
    "ytick.color": COLOURS["muted"][0],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.6,
    "lines.markersize": 3.5,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.03,
    "figure.constrained_layout.w_pad": 0.03,
}


UNIT_TICKS = ([0, 0.25, 0.5, 0.75, 1], ["0", ".25", ".5", ".75", "1"])


class Panel(NamedTuple):
    """One drawing. alt: its description for readers who do not see it."""

    svg: str
    alt: str


def panel(
    name: str, alt: str, draw: Callable[[Axes], None], width: int = 170, height: int = 135
) -> Panel:
    """Draw one set of axes, ``width`` x ``height`` CSS pixels.

    name: unique on the page; it seeds the ids of the SVG.
    alt: description for readers who do not see the drawing.
    """
    text = io.StringIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a matplotlibrc of the user must not change the bytes
        style: Any = STYLE | {"svg.hashsalt": name}
        matplotlib.rcParams.update(style)
        figure = Figure(figsize=(width / 72, height / 72))
        draw(figure.subplots())
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    return Panel(_inline(text.getvalue(), alt), alt)


def _inline(svg: str, alt: str) -> str:
    """matplotlib's SVG for an HTML page: without prologue, namespaces and unused ids.

    Colours become those of the page. matplotlib's style sheet is left out, because it would apply
    to the whole page.
    """
    box = svg.partition('viewBox="')[2].partition('"')[0]
    body = svg.partition("</defs>")[2]
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    body = re.sub(r" font-family: [^;\"]*;?", "", body)
    body = re.sub(r"\s*\n\s*", " ", body)
    for name, (light, _) in COLOURS.items():
        body = body.replace(light, f"var(--{name})")
    safe = alt.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return f'<svg viewBox="{box}" role="img" aria-label="{safe}">{body.strip()}'


def colour(line: Line) -> str:
    """The colour in which a line is drawn."""
    return COLOURS[line.colour][0]


def plot(axes: Axes, x: Any, y: Any, line: Line, **style: Any) -> None:
    """Draw a curve. style: arguments of matplotlib, which override those of ``line``."""
    own = {"color": colour(line), "linestyle": line.dash, "solid_capstyle": "round"}
    axes.plot(x, y, **(own | style))


def columns(rows: Rows, *names: str) -> list[np.ndarray]:
    """The named columns, float64 [N] each."""
    return [np.array([row[name] for row in rows], float) for name in names]


def where(rows: Rows, **wanted: Any) -> list[dict[str, Any]]:
    """The rows that hold the wanted values."""
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def unit_y(axes: Axes) -> None:
    """Make the y axis show [0, 1] whole, with room for lines along its edges."""
    axes.set_ylim(-0.03, 1.03)
    axes.set_yticks(*UNIT_TICKS)


def unit_x(axes: Axes) -> None:
    """Ticks of an x axis that shows [0, 1]."""
    axes.set_xticks(*UNIT_TICKS)
