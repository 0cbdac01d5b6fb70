"""The page of a run in Prefect: its stages, results, changes since the last commit and plots."""

import base64
import io
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.engine.execute import Result
from pipelines.flows.grid import title
from pipelines.graph import dag
from pipelines.graph.resources import written
from pipelines.plan import Plan
from prosmin.common.encoders import TRAINED, UNTRAINED
from prosmin.common.files import read_csv
from prosmin.common.seeds import sample_rows
from stages.common import current
from stages.common.headlines import DIGITS, Row, rows, summary
from stages.common.layout import REPORT, SUMMARY
from stages.params.load import Params, load

CURVES = 8  # curves in a plot; more cannot be told apart


def announce(plan: Plan) -> None:
    """Attach what a run will do, before it begins, to the flow run that calls this."""
    from prefect.artifacts import create_table_artifact

    create_table_artifact(
        [
            {
                "stage": step.stage,
                "why": "; ".join(step.reasons),
                "last took": step.took,
                "last held": step.held,
            }
            for step in plan.steps
        ]
        or [{"stage": "none"}],
        key="plan",
        description="\n\n".join(plan.head()),
    )


def publish(results: Mapping[str, Result]) -> None:
    """Attach tables, plots and the report to the flow run that calls this.

    Results of other settings are left out.
    """
    from prefect.artifacts import (
        create_link_artifact,
        create_markdown_artifact,
        create_table_artifact,
    )

    create_table_artifact(
        [
            {
                "stage": result.stage,
                "outcome": result.outcome,
                "seconds": round(result.seconds, 1),
                "memory": written(result.memory) if result.memory else "",
                "why": result.reason,
            }
            for result in results.values()
        ],
        key="stages",
        description="The outcome of each stage, in the order of `dvc repro`, with the memory that "
        "it held at most.",
    )
    params, stale = load(), current.stale()
    headlines = rows(params, without=stale)
    if headlines:
        create_table_artifact(
            [_cells(row, params.pretrain.shown) for row in headlines],
            key="results",
            description=f"On {params.dataset}. docs/evaluation.md defines each number.",
        )
    # Comparing and drawing take longer than all the rest of a run with nothing to do.
    if any(result.outcome in ("ran", "cached") for result in results.values()):
        with dag.opened() as repo:
            changed, images = metrics_against_commit(repo, params, stale), plots(repo, stale)
        create_table_artifact(
            changed or [{"metric": "none has changed"}], key="metrics-against-last-commit"
        )
        if images:
            create_markdown_artifact(
                "\n\n".join(images), key="plots", description="The plots that dvc.yaml declares."
            )
    if REPORT.is_file() and current.belongs(str(REPORT), stale):
        base = os.environ.get("PROSMIN_REPORT_URL")
        link = f"{base}/{REPORT.name}" if base else REPORT.resolve().as_uri()
        create_link_artifact(
            link, "the report", key="report", description=f"{REPORT}, as it stands now."
        )


def _cells(row: Row, names: Mapping[str, str]) -> dict[str, str]:
    value, interval, untrained = row.cells()
    shown = {names[TRAINED]: value, "95 % interval": interval, names[UNTRAINED]: untrained}
    return {"": row.label, **shown}


def metrics_against_commit(
    repo: Any, params: Params, stale: Collection[str] = ()
) -> list[dict[str, Any]]:
    """One row per number that differs from the last commit, as ``dvc metrics diff`` has them.

    A run of some stages writes no summary. Its headline numbers are compared all the same.

    stale: paths to leave out.
    """
    numbers = [out.def_path for out in repo.index.outs if out.def_path.endswith(".json")]
    differences = repo.metrics.diff(a_rev="HEAD", targets=numbers).get("diff", {})
    differences = {path: of for path, of in differences.items() if path not in stale}
    if str(SUMMARY) in stale:
        files = repo.metrics.show(str(SUMMARY), revs=["HEAD"]).get("HEAD", {}).get("data", {})
        before = files.get(str(SUMMARY), {}).get("data", {})
        differences[str(SUMMARY)] = {
            name: {"old": before[name], "new": number, "diff": round(number - before[name], DIGITS)}
            for name, number in summary(params, without=stale).items()
            if before.get(name, number) != number
        }
    return [
        {"metric": title(f"{path}:{name}")}
        | {key: change.get(key) for key in ("old", "new", "diff")}
        for path, changes in sorted(differences.items())
        for name, change in sorted(changes.items())
    ]


def plots(repo: Any, stale: Collection[str] = ()) -> list[str]:
    """Every plot of the graph with one x, one y and a CSV file, as an image inside Markdown.

    stale: paths to leave out.
    """
    images = []
    for out in repo.index.plots:
        settings = out.plot if isinstance(out.plot, dict) else {}
        path = Path(out.fs_path)
        if (
            path.suffix == ".csv"
            and out.def_path not in stale
            and path.is_file()
            and isinstance(settings.get("x"), str)
            and isinstance(settings.get("y"), str)
        ):
            title, table = settings.get("title") or path.stem, read_csv(path)
            if not table or settings["y"] not in table[0]:
                continue  # a curve that needs labels, of a dataset without any
            images.append(plot(title, table, settings["x"], settings["y"]))
    return images


def plot(title: str, table: Sequence[Mapping[str, str]], x: str, y: str) -> str:
    """A plot as an image inside Markdown."""
    image = base64.b64encode(draw(table, x, y)).decode()
    return f"**{title}**\n\n![{title}](data:image/svg+xml;base64,{image})"


def draw(table: Sequence[Mapping[str, str]], x: str, y: str) -> bytes:
    """SVG with one curve per combination of values in the columns that hold text."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.add_subplot(xlabel=x, ylabel=y)
    names = [
        name
        for name in (table[0] if table else [])
        if not all(map(_number, (row[name] for row in table)))
    ]
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in table:
        if _number(row[x]) and _number(row[y]):
            curves.setdefault(" ".join(row[name] for name in names), []).append(
                (float(row[x]), float(row[y]))
            )
    labels = list(curves)
    for place in sample_rows(len(labels), CURVES, 0, "curves"):
        points = sorted(curves[labels[place]])
        axes.plot(*zip(*points, strict=True), marker=".", label=labels[place])
    if len(labels) > CURVES:
        axes.set_title(f"{CURVES} of {len(labels)} curves, drawn at random", fontsize="small")
    if len(curves) > 1:
        axes.legend(fontsize="x-small")
    content = io.BytesIO()
    figure.savefig(content, format="svg", metadata={"Date": None})
    return content.getvalue()


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
