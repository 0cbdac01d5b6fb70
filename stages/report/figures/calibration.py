"""Reliability diagrams."""

from matplotlib.axes import Axes

from prosmin.metrics.intervals import wilson
from stages.report.figures.drawing import (
    COLOURS,
    Panel,
    Rows,
    colour,
    columns,
    panel,
    unit_x,
    unit_y,
    where,
)
from stages.report.figures.lines import CALIBRATION_LINES


def reliability(rows: Rows, encoder: str, title: str, name: str) -> Panel:
    """Accuracy against confidence in 15 equal-width bins, before and after temperature scaling.

    name: unique on the page.
    """
    rows = where(rows, encoder=encoder)
    title = f"{title}, n = {sum(row['count'] for row in rows if row['calibrated'] == 'raw'):.0f}"

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=COLOURS["muted"][0], linewidth=0.9)
        for calibrated, line in CALIBRATION_LINES.items():
            confidence, accuracy, count = columns(
                where(rows, calibrated=calibrated), "confidence", "accuracy", "count"
            )
            if not len(count):
                continue
            low, high = wilson(accuracy, count)
            axes.vlines(confidence, low, high, color=colour(line), alpha=0.4, linewidth=1.3)
            area = 12 + 70 * count / count.max()
            axes.scatter(
                confidence,
                accuracy,
                area,
                color=colour(line),
                marker=line.marker,
                alpha=0.85,
                linewidth=0,
                clip_on=False,
            )
        axes.set(title=title, xlabel="confidence", ylabel="accuracy", xlim=(-0.03, 1.03))
        unit_x(axes)
        unit_y(axes)

    alt = (
        f"Reliability diagram, {title}: accuracy against confidence of each bin, "
        "raw and after temperature scaling"
    )
    return panel(f"reliability-{name}", alt, draw, 260, 245)
