"""ROC curves of the OOD detectors."""

from matplotlib.axes import Axes

from prosmin.common.encoders import TRAINED
from stages.report.figures.drawing import (
    COLOURS,
    Panel,
    Rows,
    columns,
    panel,
    plot,
    unit_x,
    unit_y,
    where,
)
from stages.report.figures.lines import detector_line, detectors_drawn


def roc(rows: Rows, name: str, distance: str, aurocs: dict[str, float]) -> Panel:
    """ROC curves of the detectors on one OOD set, by the trained encoder.

    name, distance: of the OOD set. aurocs: area under each curve by detector.
    """
    rows = where(rows, encoder=TRAINED)

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=COLOURS["muted"][0], linewidth=0.9)
        for detector in detectors_drawn(row["detector"] for row in rows):
            fpr, tpr = columns(where(rows, detector=detector), "fpr", "tpr")
            plot(axes, fpr, tpr, detector_line(detector), drawstyle="default", clip_on=False)
        axes.set(
            title=f"{name} ({distance})",
            xlabel="ID taken for OOD",
            ylabel="OOD found",
            xlim=(-0.03, 1.03),
        )
        unit_x(axes)
        unit_y(axes)

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
