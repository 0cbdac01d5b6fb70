"""The page of a study and the same as Markdown, from templates; nothing depends on the clock."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.flows.grid import written
from pipelines.study import record
from pipelines.study.choice import Due, Trial
from pipelines.study.file import Study
from pipelines.study.judging.comparison import Comparison, Judged, cost, judge
from pipelines.study.judging.statistics import LEVEL
from pipelines.study.plan import Plan
from pipelines.study.results import Known, Result
from prosmin.common import files
from prosmin.common.encoders import UNTRAINED
from prosmin.metrics.catalogue import ARROWS
from stages.common import layout

MARKS = {"shown": "✓", "not shown": "○", "contradicted": "✗", None: "–"}
CLASSES = {"shown": "shown", "not shown": "open", "contradicted": "against", None: "none"}


def write(plan: Plan, due: Due, known: Known) -> Path:
    """Write index.html, results.md and runs.json to results/study/<name>.

    Returns: the path of the page.
    """
    runs = {
        method: {
            seed: result
            for seed, run in zip(plan.study.seeds, final, strict=True)
            if (result := known.result(run))
        }
        for method, final in due.final.items()
    }
    content = _content(plan, due, runs, known)
    with files.whole_folder(layout.STUDIES / plan.name) as folder:
        files.write_json(folder / record.NAME, record.content(plan, due, known))
        files.write_text(folder / "index.html", _render("study.html", content))
        files.write_text(folder / "results.md", _render("results.md", content))
    return layout.STUDIES / plan.name / "index.html"


def _render(template: str, content: dict[str, Any]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

    from stages.report.figures.drawing import COLOURS
    from stages.report.page import TEMPLATES

    environment = Environment(
        loader=FileSystemLoader([Path(__file__).parent / "templates", TEMPLATES]),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"number": number, "signed": signed, "p": p_value, "value": written}
    return environment.get_template(template).render(content | {"colours": COLOURS})


def _content(
    plan: Plan,
    due: Due,
    runs: Mapping[str, Mapping[int, Result]],
    known: Known,
) -> dict[str, Any]:
    """The variables of both templates."""
    study = plan.study
    judged, left_out = judge(study, runs)
    others = [name for name in study.methods if name != study.test]
    return {
        "study": study,
        "name": plan.name,
        "title": {name: study.title(name) for name in study.methods},
        "tested": study.title(study.test),
        "others": others,
        "claims": judged,
        "left_out": left_out,
        "summary": summary(judged),
        "forests": {claim.name: forests(claim) for claim in judged},
        "costs": {name: cost(list(of_method.values())) for name, of_method in runs.items()},
        "ranks": ranks(study, judged),
        "tuning": tuning(study, due),
        "missing": [
            run.name for final in due.final.values() for run in final if not known.has(run)
        ],
        "untuned": [name for name in study.methods if name not in due.final],
        "elsewhere": elsewhere(due, known),
        "overrides": sorted(plan.overrides),
        "untrained": plan.shown(study.test)[UNTRAINED],
        "arrows": ARROWS,
        "marks": MARKS,
        "classes": CLASSES,
        "level": LEVEL,
    }


def summary(judged: list[Judged]) -> dict[str, list[str]]:
    """The titles of the claims by verdict."""
    return {
        verdict: [claim.claim.title for claim in judged if claim.verdict == verdict]
        for verdict in ("shown", "contradicted", "not shown")
    }


def elsewhere(due: Due, known: Known) -> dict[str, int]:
    """How many runs were recorded on another commit or machine, by commit."""
    results = map(known.result, due.all_runs)
    return dict(Counter(result.commit for result in results if result and result.commit))


def ranks(study: Study, judged: list[Judged]) -> dict[str, dict[str, float | None]]:
    """The mean rank by method and claim; under ``all`` over the claims that a method has."""
    table = {}
    for method in study.methods:
        by_claim = {claim.name: claim.rank(method) for claim in judged}
        known = [rank for rank in by_claim.values() if rank is not None]
        table[method] = by_claim | {"all": sum(known) / len(known) if known else None}
    return table


def tuning(study: Study, due: Due) -> list[dict[str, Any]]:
    """What was tuned, per method: its grid, all points with their values, the choice, its edges."""
    rows = []
    for name, tuned in due.tunings.items():
        method, best = study.methods[name], tuned.best
        edges = tuned.edges() if len(tuned.trials) > 1 else []
        rows.append(
            {
                "method": name,
                "set": method.set,
                "grid": method.grid,
                "trials": sorted(tuned.trials, key=_best_first(tuned.higher)),
                "best": best,
                "edges": edges,
                "added": sum(trial.round > 0 for trial in tuned.trials),
            }
        )
    return rows


def _best_first(higher: bool) -> Any:
    def key(trial: Trial) -> tuple[bool, float]:
        value = trial.value
        return (value is None, 0.0 if value is None else -value if higher else value)

    return key


# --- forest plots ---------------------------------------------------------------------------------


def forests(claim: Judged) -> list[dict[str, Any]]:
    """One forest plot per quantity of a claim: the gain over each method on a common scale."""
    plots = []
    for quantity in claim.quantities:
        parts = [part for part in claim.comparisons if part.quantity == quantity]
        if not parts:
            continue
        low = min(0.0, *(part.gain.low for part in parts))
        high = max(0.0, *(part.gain.high for part in parts))
        margin = 0.06 * (high - low) or 1e-3
        low, high = low - margin, high + margin
        plots.append(
            {
                "quantity": quantity,
                "zero": _place(0.0, low, high),
                "low": low,
                "high": high,
                "rows": [_row(part, low, high) for part in parts],
            }
        )
    return plots


def _row(part: Comparison, low: float, high: float) -> dict[str, Any]:
    gain = part.gain
    return {
        "part": part,
        "from": _place(gain.low, low, high),
        "to": _place(gain.high, low, high),
        "at": _place(gain.mean, low, high),
    }


def _place(value: float, low: float, high: float) -> str:
    """Where a value lies between the ends of a scale, 0 to 100."""
    return f"{100 * (value - low) / (high - low):.2f}"


# --- numbers --------------------------------------------------------------------------------------


def number(value: float | None, digits: int = 3) -> str:
    """A number with a fixed count of decimals, a dash where it is missing."""
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def signed(value: float, digits: int = 3) -> str:
    """A difference with its sign; 0 has none."""
    text = f"{value:+.{digits}f}".replace("-", "−")
    return text if round(value, digits) else text[1:]


def p_value(value: float) -> str:
    """A p value: small ones as a bound."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
