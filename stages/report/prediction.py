"""The section on the predicted distribution: coverage and skill in a table, PIT histograms."""

from typing import Any, NamedTuple

from matplotlib.axes import Axes

from prosmin.common.encoders import TRAINED, UNTRAINED
from stages.common import layout
from stages.report.figures.drawing import COLOURS, Panel, Rows, panel, unit_x
from stages.report.inputs import Inputs, Missing, made_by
from stages.report.tables.rows import Value, value

CLEAN = "clean"
LEVELS = ("50", "80", "90")  # per cent


class Condition(NamedTuple):
    """The prediction of the trained encoder on one kind of images, such as corrupted ones.

    coverage: by level in per cent.
    untrained: coverage of 90 % intervals by the untrained encoder.
    """

    label: str
    coverage: dict[str, Value | None]
    crps: Value | None
    skill: Value | None
    correlation: Value | None
    untrained: Value | None


def section(inputs: Inputs) -> dict[str, Any]:
    """``rows`` and ``panels`` of the dataset of pretraining, clean and corrupted, and of OOD sets.

    ``missing``: files that do not exist. ``levels``: of the intervals, in per cent.
    """
    rows: list[Condition] = []
    panels: list[Panel] = []
    missing: list[Missing] = []
    for name in (inputs.params.dataset, *inputs.params.ood.sets):
        path = layout.metrics("prediction", name)
        metrics, curves = inputs.metrics(path), inputs.plot(layout.plot("prediction", name))
        if metrics and not metrics[TRAINED]:  # the objective predicts no distribution
            continue
        if not metrics or not curves:
            missing.append(made_by(path, "prediction", name))
            continue
        distance = inputs.params.ood.sets.get(name, "in distribution")
        for condition, measured in metrics[TRAINED].items():
            label = (
                f"{name} ({distance})"
                if condition == CLEAN
                else f"{name}, {condition.replace('_', ' ')}"
            )
            rows.append(_condition(label, measured, (metrics.get(UNTRAINED) or {}).get(condition)))
            chosen = [
                row for row in curves if (row["encoder"], row["condition"]) == (TRAINED, condition)
            ]
            panels.append(_pit(label, f"{name}-{condition}", chosen))
    return {"rows": rows, "panels": panels, "missing": missing, "levels": LEVELS}


def _condition(label: str, measured: dict[str, Any], untrained: dict[str, Any] | None) -> Condition:
    coverage = {level: value(measured, f"coverage_{level}") for level in LEVELS}
    crps, skill, correlation = (
        value(measured, name) for name in ("crps", "crps_skill", "sigma_error_correlation")
    )
    floor = value(untrained, "coverage_90")
    return Condition(label, coverage, crps, skill, correlation, floor)


def _pit(label: str, name: str, rows: Rows) -> Panel:
    low, high, density = ([row[key] for row in rows] for key in ("low", "high", "density"))

    def draw(axes: Axes) -> None:
        widths = [end - start for start, end in zip(low, high, strict=True)]
        axes.bar(
            low, density, widths, align="edge", color=COLOURS["trained"][0], alpha=0.75, linewidth=0
        )
        axes.axhline(1, color=COLOURS["ink"][0], linewidth=1, linestyle="--")
        axes.set(title=label, xlim=(0, 1), ylim=(0, max(2.0, max(density) * 1.05)))
        unit_x(axes)

    ends = (
        f"{density[0]:.2f} and {density[-1]:.2f} in the outer bins, {min(density):.2f} at the least"
    )
    return panel(
        f"pit-{name}", f"PIT histogram on {label}, 1 where it is uniform: {ends}", draw, 200, 135
    )
