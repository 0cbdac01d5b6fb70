"""The section on the prediction itself: a table of coverage and skill, and the PIT histograms."""

from typing import Any, NamedTuple

from matplotlib.axes import Axes

from stages.report.figures import COLOURS, Panel, Rows, panel
from stages.report.inputs import Inputs, Missing, made_by
from stages.report.tables import Value, value

CLEAN = "clean"
LEVELS = ("50", "80", "90")  # per cent


class Condition(NamedTuple):
    """Images that are predicted on, by the trained encoder. coverage: by level; floor: of 90 % intervals by the random
    encoder."""

    label: str
    coverage: dict[str, Value]
    crps: Value
    skill: Value
    correlation: Value
    floor: Value | None


def section(inputs: Inputs) -> dict[str, Any]:
    """rows and panels: of the dataset trained on, clean, then corrupted, then of each OOD set; missing: what is not there."""
    rows: list[Condition] = []
    panels: list[Panel] = []
    missing: list[Missing] = []
    names = [inputs.params.dataset, *(name for name in inputs.params.ood.sets)]
    for name in names:
        metrics, curves = inputs.metrics(f"prediction/{name}"), inputs.plot(f"prediction/{name}")
        if metrics and not metrics["trained"]:  # the objective predicts no distribution
            continue
        if not metrics or not curves:
            missing.append(made_by(f"metrics/prediction/{name}.json", "prediction", name))
            continue
        distance = inputs.params.ood.sets.get(name, "in distribution")
        for condition, found in metrics["trained"].items():
            label = (
                f"{name} ({distance})"
                if condition == CLEAN
                else f"{name}, {condition.replace('_', ' ')}"
            )
            rows.append(_condition(label, found, (metrics.get("random") or {}).get(condition)))
            chosen = [
                row
                for row in curves
                if (row["encoder"], row["condition"]) == ("trained", condition)
            ]
            panels.append(_pit(label, f"{name}-{condition}", chosen))
    return {"rows": rows, "panels": panels, "missing": missing, "levels": LEVELS}


def _condition(label: str, found: dict[str, Any], floor: dict[str, Any] | None) -> Condition:
    return Condition(
        label,
        {level: value(found, f"coverage_{level}") for level in LEVELS},
        *(value(found, name) for name in ("crps", "crps_skill", "sigma_error_correlation")),
        value(floor, "coverage_90"),
    )


def _pit(label: str, name: str, rows: Rows) -> Panel:
    low, high, density = ([row[key] for row in rows] for key in ("low", "high", "density"))

    def draw(axes: Axes) -> None:
        widths = [end - start for start, end in zip(low, high, strict=True)]
        axes.bar(
            low, density, widths, align="edge", color=COLOURS["trained"][0], alpha=0.75, linewidth=0
        )
        axes.axhline(1, color=COLOURS["ink"][0], linewidth=1, linestyle="--")
        axes.set(title=label, xlim=(0, 1), ylim=(0, max(2.0, max(density) * 1.05)))
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", ".25", ".5", ".75", "1"])

    ends = (
        f"{density[0]:.2f} and {density[-1]:.2f} in the outer bins, {min(density):.2f} at the least"
    )
    return panel(
        f"pit-{name}", f"PIT histogram on {label}, 1 where it is uniform: {ends}", draw, 200, 135
    )
