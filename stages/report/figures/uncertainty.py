"""Rejection curves: Recall@1 among the images of which the encoder is least unsure."""

from matplotlib.axes import Axes

from prosmin.common.encoders import TRAINED
from stages.report.figures.drawing import Panel, Rows, columns, panel, plot, unit_x, where
from stages.report.figures.lines import score_line


def rejection(rows: Rows, name: str) -> Panel:
    """Recall@1 of the trained encoder against the share of images kept, a line per score.

    name: of the dataset.
    """
    rows = where(rows, encoder=TRAINED)
    scores = list(dict.fromkeys(str(row["score"]) for row in rows))
    curves = {score: columns(where(rows, score=score), "kept", "recall_at_1") for score in scores}

    def draw(axes: Axes) -> None:
        for score, (kept, recall) in curves.items():
            plot(axes, kept, recall, score_line(score), clip_on=False)
        axes.set(title=name, xlabel="share of images kept", ylabel="Recall@1", xlim=(0, 1))
        unit_x(axes)

    whole = next(iter(curves.values()))[1][-1]
    halves = ", ".join(
        f"{score_line(score).label} {recall[abs(kept - 0.5).argmin()]:.3f}"
        for score, (kept, recall) in curves.items()
    )
    return panel(
        f"rejection-{name}",
        f"Recall@1 on {name}: {whole:.3f} of all images; of the half with the least doubt by "
        f"{halves}",
        draw,
        300,
        230,
    )
