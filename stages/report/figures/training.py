"""The training curves."""

from matplotlib.axes import Axes

from prosmin.common.encoders import TRAINED
from prosmin.metrics.catalogue import entry_of
from stages.report.figures.drawing import COLOURS, Panel, Rows, columns, panel, plot, unit_y
from stages.report.figures.lines import ENCODER_LINES

PROBE = "probe_accuracy"
DIAGNOSTICS = ("rankme", "feature_std", "sigma_mean", "knn_accuracy")


def curves(loss: Rows | None, diagnostics: Rows | None, probe: Rows | None) -> list[Panel]:
    """Loss, RankMe, feature std, sigma, online k-NN and online probe against the epoch."""
    panels = [_curve("loss", loss)] if loss else []
    for column in DIAGNOSTICS:
        if diagnostics and column in diagnostics[0]:
            panels.append(_curve(column, diagnostics))
    return [*panels, _curve(PROBE, probe)] if probe else panels


def _curve(column: str, rows: Rows) -> Panel:
    x, y = columns(rows, "epoch", column)
    title, unit = entry_of(column).label, entry_of(column).unit

    def draw(axes: Axes) -> None:
        plot(axes, x, y, ENCODER_LINES[TRAINED], clip_on=False)
        axes.plot(x[-1:], y[-1:], "o", color=COLOURS["trained"][0], clip_on=False)
        axes.set(title=title, xlabel="epoch", xlim=(0, None))
        if column in ("knn_accuracy", PROBE):
            unit_y(axes)
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

    alt = (
        f"{title} ({unit}) against epoch: {y[0]:.3g} at epoch {x[0]:g}, "
        f"{y[-1]:.3g} at epoch {x[-1]:g}"
    )
    return panel(f"training-{column}", alt, draw)
