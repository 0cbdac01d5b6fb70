"""The figures of the report: rows of a plot's CSV in, panels of inline SVG out.

A figure is a few small panels rather than one large drawing, so that a page lays them out side by side on a
screen and below one another on a phone, each at its drawn size. Text stays text, in the font of the page; colours
become CSS variables, so that the page's dark mode reaches into the drawings.
"""

import io
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from prosmin.evaluation.ood_scores import DETECTORS
from prosmin.metrics.intervals import wilson

Rows = Sequence[dict[str, Any]]

# name: (light, dark). Okabe and Ito's palette, which colour-blind readers can tell apart; each line has its own
# dash as well. The light values are drawn and then replaced by var(--name), so they must differ.
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

STYLE = {
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


class Line(NamedTuple):
    """How one thing is drawn wherever it appears."""

    label: str
    colour: str
    dash: str | tuple[int, tuple[float, ...]] = "-"
    marker: str = "o"

    @property
    def css_dash(self) -> str:
        """The dash as SVG's stroke-dasharray."""
        dashes = {"-": "none", "--": "5 3", ":": "1.5 2.5", "-.": "6 2.5 1.5 2.5"}
        return (
            dashes[self.dash]
            if isinstance(self.dash, str)
            else " ".join(f"{part:g}" for part in self.dash[1])
        )


ENCODER_LINES = {
    "trained": Line("pretrained", "trained"),
    "random": Line("random initialisation", "random", "--", "s"),
}
CALIBRATION_LINES = {
    "raw": Line("raw", "red", "--", "s"),
    "calibrated": Line("after temperature scaling", "trained"),
}


def detector_line(name: str) -> Line:
    """The line of a detector. A detector that the registry lacks has its name as label, in ink."""
    entry = DETECTORS.get(name)
    return Line(entry.label, entry.colour, entry.dash) if entry else Line(name, "ink", "-")


class Panel(NamedTuple):
    svg: str
    alt: str


def panel(
    name: str, alt: str, draw: Callable[[Axes], None], width: int = 170, height: int = 135
) -> Panel:
    """Draw one set of axes, ``width`` x ``height`` CSS pixels.

    name: unique on the page; it seeds the ids of the SVG. alt: what the drawing shows, for those who do not see it.
    """
    text = io.StringIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a matplotlibrc of the user must not change the bytes
        matplotlib.rcParams.update({**STYLE, "svg.hashsalt": name})
        figure = Figure(figsize=(width / 72, height / 72))
        draw(figure.subplots())
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    return Panel(_inline(text.getvalue(), alt), alt)


def _inline(svg: str, alt: str) -> str:
    """matplotlib's SVG as a part of an HTML page: no prologue and namespaces, no idle ids, the page's colours."""
    box = re.search(r'viewBox="([^"]+)"', svg)[1]
    body = svg[
        svg.index("</defs>") + len("</defs>") :
    ]  # after the style sheet, which would apply to the whole page
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    body = re.sub(r" font-family: [^;\"]*;?", "", body)
    body = re.sub(r"\s*\n\s*", " ", body)
    for name, (light, _) in COLOURS.items():
        body = body.replace(light, f"var(--{name})")
    safe = alt.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return f'<svg viewBox="{box}" role="img" aria-label="{safe}">{body.strip()}'


def _colour(line: Line) -> str:
    return COLOURS[line.colour][0]


def _plot(axes: Axes, x: Any, y: Any, line: Line, **how: Any) -> None:
    axes.plot(
        x, y, **({"color": _colour(line), "linestyle": line.dash, "solid_capstyle": "round"} | how)
    )


def _columns(rows: Rows, *names: str) -> list[np.ndarray]:
    return [np.array([row[name] for row in rows], float) for name in names]


def _where(rows: Rows, **wanted: Any) -> list[dict[str, Any]]:
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def _pad(axes: Axes, low: float = -0.03, high: float = 1.03) -> None:
    """Show [0, 1] whole, with room for lines along its edges."""
    axes.set_ylim(low, high)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", ".25", ".5", ".75", "1"])


# --- training -------------------------------------------------------------------------------------

CURVES = {  # column: (title, what the value means)
    "rankme": ("RankMe", "effective rank of the features"),
    "feature_std": ("feature std", "0 = collapsed, 1 = spread evenly"),
    "sigma_mean": ("predicted sigma", "geometric mean"),
    "knn_accuracy": ("online k-NN accuracy", "on held-out labels"),
}


def training(loss: Rows | None, diagnostics: Rows | None) -> list[Panel]:
    """Loss, RankMe, feature std, sigma and online k-NN against the epoch."""
    panels = [_curve("training loss", "mean of the epoch", "loss", loss)] if loss else []
    for column, (title, unit) in CURVES.items():
        if diagnostics and column in diagnostics[0]:
            panels.append(_curve(title, unit, column, diagnostics))
    return panels


def _curve(title: str, unit: str, column: str, rows: Rows) -> Panel:
    x, y = _columns(rows, "epoch", column)

    def draw(axes: Axes) -> None:
        _plot(axes, x, y, ENCODER_LINES["trained"], clip_on=False)
        axes.plot(x[-1:], y[-1:], "o", color=COLOURS["trained"][0], clip_on=False)
        axes.set(title=title, xlabel="epoch", xlim=(0, None))
        if column == "knn_accuracy":
            _pad(axes)
        elif y.min() >= 0:
            axes.set_ylim(0, y.max() * 1.25 or 1)
        low, high = axes.get_ylim()
        above = 6 if y[-1] < low + 0.8 * (high - low) else -13  # clear of the title
        axes.annotate(
            f"{y[-1]:.3g}",
            (x[-1], y[-1]),
            (0, above),
            textcoords="offset points",
            ha="right",
            weight="bold",
        )

    alt = f"{title} ({unit}) against epoch: {y[0]:.3g} at epoch {x[0]:g}, {y[-1]:.3g} at epoch {x[-1]:g}"
    return panel(f"training-{column}", alt, draw)


# --- calibration ----------------------------------------------------------------------------------


def reliability(rows: Rows, encoder: str, title: str, name: str) -> Panel:
    """Accuracy against confidence in 15 equal-width bins, before and after temperature scaling."""
    rows = _where(rows, encoder=encoder)
    title = f"{title}, n = {sum(row['count'] for row in rows if row['calibrated'] == 'raw'):.0f}"

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=COLOURS["muted"][0], linewidth=0.9)
        for calibrated, line in CALIBRATION_LINES.items():
            confidence, accuracy, count = _columns(
                _where(rows, calibrated=calibrated), "confidence", "accuracy", "count"
            )
            if not len(count):
                continue
            low, high = wilson(accuracy, count)
            axes.vlines(confidence, low, high, color=_colour(line), alpha=0.4, linewidth=1.3)
            area = 12 + 70 * count / count.max()
            axes.scatter(
                confidence,
                accuracy,
                area,
                color=_colour(line),
                marker=line.marker,
                alpha=0.85,
                linewidth=0,
                clip_on=False,
            )
        axes.set(title=title, xlabel="confidence", ylabel="accuracy", xlim=(-0.03, 1.03))
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", ".25", ".5", ".75", "1"])
        _pad(axes)

    alt = f"Reliability diagram, {title}: accuracy against confidence of each bin, raw and after temperature scaling"
    return panel(f"reliability-{name}", alt, draw, 260, 245)


# --- OOD ------------------------------------------------------------------------------------------


def roc(rows: Rows, name: str, distance: str, aurocs: dict[str, float]) -> Panel:
    """ROC curves of the trained encoder's detectors on one OOD set."""
    rows = _where(rows, encoder="trained")

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=COLOURS["muted"][0], linewidth=0.9)
        for detector in detectors_drawn(rows):
            fpr, tpr = _columns(_where(rows, detector=detector), "fpr", "tpr")
            _plot(axes, fpr, tpr, detector_line(detector), drawstyle="default", clip_on=False)
        axes.set(
            title=f"{name} ({distance})",
            xlabel="ID taken for OOD",
            ylabel="OOD found",
            xlim=(-0.03, 1.03),
        )
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", ".25", ".5", ".75", "1"])
        _pad(axes)

    areas = ", ".join(
        f"{detector_line(detector).label} {aurocs[detector]:.3f}"
        for detector in detectors_drawn(aurocs)
    )
    return panel(
        f"roc-{name}",
        f"ROC curves on {name} ({distance}), area under the curve: {areas}",
        draw,
        260,
        245,
    )


def detectors_of(names: Iterable[Any]) -> list[str]:
    """The detectors in rows, or among keys: known ones in their usual order, then others by name."""
    found = {each["detector"] if isinstance(each, dict) else each for each in names}
    known = [name for name in DETECTORS if name in found]
    return known + sorted(found - set(known))


def detectors_drawn(names: Iterable[Any]) -> list[str]:
    """Of ``detectors_of``, those that are drawn: a figure of all of them would show none."""
    return [name for name in detectors_of(names) if name not in DETECTORS or DETECTORS[name].drawn]


# --- corruption -----------------------------------------------------------------------------------


def severity(rows: Rows, clean: dict[str, float], column: str, title: str) -> Panel:
    """``column`` against severity: the mean over types in bold, each type faint. clean: its value at severity 0."""
    types = sorted({row["type"] for row in rows})
    curves = {
        encoder: [_by_severity(rows, clean, encoder, kind, column) for kind in types]
        for encoder in ENCODER_LINES
    }
    means = {
        encoder: (found[0][0], np.mean([y for _, y in found], axis=0))
        for encoder, found in curves.items()
        if len(found[0][0])
    }

    def draw(axes: Axes) -> None:
        for encoder, mean in means.items():
            line = ENCODER_LINES[encoder]
            for curve in curves[encoder]:
                _plot(axes, *curve, line, linewidth=0.7, alpha=0.3)
            _plot(
                axes, *mean, line, linewidth=2.2, marker=line.marker, markersize=4.5, clip_on=False
            )
        _severity_axis(axes, title, bool(clean))
        if column == "accuracy":
            _pad(axes)
        else:
            axes.set_ylim(0, None)

    said = "; ".join(
        f"{ENCODER_LINES[name].label} from {mean[0]:.3f} to {mean[-1]:.3f}"
        for name, (_, mean) in means.items()
    )
    return panel(f"severity-{column}", f"{title} against severity: {said}", draw, 330, 220)


def corruption_types(rows: Rows, clean: dict[str, float], column: str) -> list[Panel]:
    """``column`` against severity, a small panel for each type. clean: its value at severity 0."""
    kinds = dict.fromkeys(row["type"] for row in rows)
    return [_type_panel(rows, clean, kind, column) for kind in kinds]


def _type_panel(rows: Rows, clean: dict[str, float], kind: str, column: str) -> Panel:
    curves = {
        encoder: _by_severity(rows, clean, encoder, kind, column) for encoder in ENCODER_LINES
    }

    def draw(axes: Axes) -> None:
        for encoder, line in ENCODER_LINES.items():
            _plot(axes, *curves[encoder], line, marker=line.marker, markersize=3, clip_on=False)
        _severity_axis(axes, kind.replace("_", " "), bool(clean))
        _pad(axes)

    said = "; ".join(
        f"{ENCODER_LINES[name].label} {y[-1]:.3f} at the highest"
        for name, (_, y) in curves.items()
        if len(y)
    )
    alt = f"{column.replace('_', ' ').capitalize()} against severity of {kind.replace('_', ' ')}: {said}"
    return panel(f"corrupt-{kind}", alt, draw)


def _severity_axis(axes: Axes, title: str, with_clean: bool) -> None:
    axes.set(title=title, xlabel="severity (0 = clean)" if with_clean else "severity")
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True, nbins=6))


def _by_severity(
    rows: Rows, clean: dict[str, float], encoder: str, kind: str, column: str
) -> list[np.ndarray]:
    x, y = _columns(
        sorted(_where(rows, encoder=encoder, type=kind), key=lambda row: row["severity"]),
        "severity",
        column,
    )
    if encoder in clean and len(x):
        x, y = np.append(0, x), np.append(clean[encoder], y)
    return [x, y]


# --- low-shot -------------------------------------------------------------------------------------


def lowshot(metrics: dict[str, Any], draws: Rows, full: dict[str, float]) -> Panel:
    """Mean accuracy and its interval against the number of labels; each draw a dot. full: accuracy with all labels."""

    def draw(axes: Axes) -> None:
        for encoder, line in ENCODER_LINES.items():
            # Two settings may come to the same number of labels, and are then the same draws.
            points = {each["labels"]: each for each in metrics.get(encoder, {}).values()}
            labels = sorted(points)
            mean, low, high = (
                np.array([points[each][key] for each in labels])
                for key in ("accuracy", "accuracy_low", "accuracy_high")
            )
            axes.scatter(
                *_columns(_where(draws, encoder=encoder), "labels", "accuracy"),
                9,
                color=_colour(line),
                alpha=0.3,
                linewidth=0,
            )
            if encoder in full:
                axes.axhline(full[encoder], color=_colour(line), linewidth=0.9, linestyle=":")
            axes.errorbar(
                labels,
                mean,
                (mean - low, high - mean),
                color=_colour(line),
                linestyle="none",
                capsize=3,
                elinewidth=1.2,
            )
            _plot(axes, labels, mean, line, marker=line.marker, markersize=5, clip_on=False)
        ticks = sorted({each["labels"] for found in metrics.values() for each in found.values()})
        axes.set(
            title="accuracy from few labels", xlabel="labels in all (logarithmic)", xscale="log"
        )
        axes.minorticks_off()
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        _pad(axes)

    said = ", ".join(
        f"{each['accuracy']:.3f} from {each['labels']}"
        for each in sorted(metrics["trained"].values(), key=lambda each: each["labels"])
    )
    return panel(
        "lowshot",
        f"Accuracy against the number of labels; pretrained: {said} labels",
        draw,
        350,
        240,
    )
