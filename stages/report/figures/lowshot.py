"""Accuracy against the number of labels."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from prosmin.common.encoders import TRAINED
from stages.report.figures.drawing import Panel, Rows, colour, columns, panel, plot, unit_y, where
from stages.report.figures.lines import ENCODER_LINES


def accuracy(metrics: dict[str, Any], draws: Rows, full: dict[str, float]) -> Panel:
    """Mean accuracy and its interval against the number of labels, and the single draws as dots.

    metrics: of the lowshot stage. draws: accuracy of each draw.
    full: accuracy with all labels, by encoder.
    """

    def draw(axes: Axes) -> None:
        for encoder, line in ENCODER_LINES.items():
            # Two settings may come to the same number of labels, and are then the same draws.
            points = {setting["labels"]: setting for setting in metrics.get(encoder, {}).values()}
            labels = sorted(points)
            mean, low, high = (
                np.array([points[count][key] for count in labels])
                for key in ("accuracy", "accuracy_low", "accuracy_high")
            )
            x, y = columns(where(draws, encoder=encoder), "labels", "accuracy")
            axes.scatter(
                x,
                y,
                9,
                color=colour(line),
                alpha=0.3,
                linewidth=0,
            )
            if encoder in full:
                axes.axhline(full[encoder], color=colour(line), linewidth=0.9, linestyle=":")
            axes.errorbar(
                labels,
                mean,
                (mean - low, high - mean),
                color=colour(line),
                linestyle="none",
                capsize=3,
                elinewidth=1.2,
            )
            plot(axes, labels, mean, line, marker=line.marker, markersize=5, clip_on=False)
        ticks = sorted(
            {setting["labels"] for settings in metrics.values() for setting in settings.values()}
        )
        axes.set(
            title="accuracy from few labels", xlabel="labels in all (logarithmic)", xscale="log"
        )
        axes.minorticks_off()
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        unit_y(axes)

    said = ", ".join(
        f"{setting['accuracy']:.3f} from {setting['labels']}"
        for setting in sorted(metrics[TRAINED].values(), key=lambda setting: setting["labels"])
    )
    return panel(
        "lowshot",
        f"Accuracy against the number of labels; {ENCODER_LINES[TRAINED].label}: {said} labels",
        draw,
        350,
        240,
    )
