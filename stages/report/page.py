"""The page itself: gathers tables, figures, pictures and sentences and fills the template ``report.html``."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from prosmin.common.files import NUMBER, damaged
from stages.common.command import LEFT_OUT
from stages.params.load import BENCHMARK
from stages.report import figures, pictures, prediction, prose, tables
from stages.report.inputs import Inputs, made_by


def page(inputs: Inputs) -> str:
    """The whole page as HTML."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "number": prose.number,
        "score": prose.score,
        "percent": prose.percent,
        "whole": prose.whole,
        "interval": prose.interval,
    }
    return environment.get_template("report.html").render(_content(inputs))


def _content(inputs: Inputs) -> dict[str, Any]:
    groups, sets = tables.results(inputs), tables.ood_sets(inputs)
    return {
        "params": inputs.params,
        "colours": figures.COLOURS,
        "method": prose.method(inputs),
        "abstract": prose.abstract(inputs),
        "limits": prose.limits(inputs),
        "cards": prose.cards(inputs),
        "groups": groups,
        "verdicts": tables.verdicts(groups + tables.as_groups(sets)),
        "ood": sets,
        "weak": tables.weak(sets),
        "weak_bound": tables.WEAK,
        "encoder_lines": figures.ENCODER_LINES,
        "calibration_lines": figures.CALIBRATION_LINES,
        "detector_lines": _detector_lines(sets),
        "training": _training(inputs),
        "reliability": _reliability(inputs),
        "roc": _roc(inputs, sets),
        "prediction": prediction.section(inputs),
        "corruption": _corruption(inputs),
        "lowshot": _lowshot(inputs),
        "views": _views(inputs),
        "ood_examples": _ood_examples(inputs, sets),
        "selections": tables.selections(inputs),
        "checksums": list(tables.checksums(inputs)),
        "quarantined": {
            name: (inputs.metrics(f"fetch/{name}") or {}).get("quarantined", 0)
            for name in inputs.params.fetch
        },
        "params_text": inputs.params_text(),
    }


def _detector_lines(sets: list[tables.OodSet]) -> list[figures.Line]:
    names = {each.detector for found in sets for each in found.detections}
    return [figures.detector_line(name) for name in figures.detectors_drawn(names)]


def _training(inputs: Inputs) -> dict[str, Any]:
    loss, diagnostics = inputs.plot("pretrain/loss"), inputs.plot("pretrain/diagnostics")
    if not loss and not diagnostics:
        return {"missing": made_by("plots/pretrain/loss.csv", "pretrain")}
    watched = bool(diagnostics) and "knn_accuracy" in diagnostics[0]
    return {
        "missing": None,
        "panels": figures.training(loss, diagnostics),
        "watched": watched,
        "metrics": inputs.metrics("pretrain"),
    }


def _reliability(inputs: Inputs) -> dict[str, Any]:
    dataset = inputs.params.dataset
    rows, panels = inputs.plot("linear/reliability"), []
    if rows:
        for encoder, line in figures.ENCODER_LINES.items():
            panels.append(figures.reliability(rows, encoder, f"{dataset}, {line.label}", encoder))
    for target in inputs.params.transfer.targets:
        if found := inputs.plot(f"transfer/{target}"):
            panels.append(
                figures.reliability(found, "trained", f"transfer to {target}", f"transfer-{target}")
            )
    for name in inputs.params.shift.sets:
        if found := inputs.plot(f"shift/{name}"):
            panels.append(
                figures.reliability(found, "trained", f"probe on {name}", f"shift-{name}")
            )
    for name in inputs.params.finetune.datasets:
        if found := inputs.plot(f"finetune/{name}"):
            panels.append(
                figures.reliability(found, "trained", f"fine-tuned on {name}", f"finetune-{name}")
            )
    missing = None if rows else inputs.absent("plots/linear/reliability.csv", "linear")
    return {"missing": missing, "panels": panels}


def _roc(inputs: Inputs, sets: list[tables.OodSet]) -> dict[str, Any]:
    panels, missing = [], []
    for each in sets:
        rows = inputs.plot(f"ood/{each.name}")
        if rows:
            aurocs = {
                detection.detector: detection.auroc.trained.value for detection in each.detections
            }
            panels.append(figures.roc(rows, each.name, each.distance, aurocs))
        else:
            missing.append(made_by(f"plots/ood/{each.name}.csv", "ood", each.name))
    return {"panels": panels, "missing": missing}


def _of_encoders(metrics: dict[str, Any] | None, name: str) -> dict[str, float]:
    """One metric by encoder, of those encoders that have it."""
    parts = {encoder: (metrics or {}).get(encoder) or {} for encoder in figures.ENCODER_LINES}
    return {encoder: part[name] for encoder, part in parts.items() if name in part}


def _corruption(inputs: Inputs) -> dict[str, Any]:
    rows, metrics = inputs.plot("corrupt/accuracy"), inputs.metrics("corrupt") or {}
    if not rows:
        return {"missing": inputs.absent("plots/corrupt/accuracy.csv", "corrupt")}
    clean, clean_ece = (
        _of_encoders(metrics, "accuracy_clean"),
        _of_encoders(inputs.metrics("linear"), "ece"),
    )
    benchmark = [
        row for row in rows if row["type"] in BENCHMARK
    ] or rows  # the extra types are kept apart
    alike = dict.fromkeys(figures.ENCODER_LINES, 1.0)  # an image to itself
    columns = {
        "accuracy": ("Accuracy, mean over types", clean),
        "ece": ("ECE, mean over types", clean_ece),
        "feature_similarity": ("Feature similarity, mean over types", alike),
    }
    measured = {name: each for name, each in columns.items() if rows[0].get(name, "") != ""}
    by_type = next(iter(measured))
    return {
        "missing": None,
        "means": [
            figures.severity(benchmark, at_zero, name, title)
            for name, (title, at_zero) in measured.items()
        ],
        "types": figures.corruption_types(rows, measured[by_type][1], by_type),
        "left_out": metrics.get(LEFT_OUT, ""),
        "generated": inputs.params.corrupt.source == "generated",
        "note": tables.tested(metrics),
    }


def _lowshot(inputs: Inputs) -> dict[str, Any]:
    metrics, draws = inputs.metrics("lowshot"), inputs.plot("lowshot/accuracy")
    if not metrics or not draws:
        return {"missing": inputs.absent("metrics/lowshot.json", "lowshot")}
    full = _of_encoders(inputs.metrics("linear"), "accuracy")
    first = next(iter(metrics["trained"].values()))
    return {
        "missing": None,
        "panel": figures.lowshot(metrics, draws, full),
        "draws": first["draws"],
        "full": full,
        "n": tables.whole_test_split(inputs),
    }


def _views(inputs: Inputs) -> dict[str, Any]:
    arrays = inputs.arrays("pretrain/views")
    if not arrays:
        return {"missing": made_by("results/pretrain/views.safetensors", "pretrain")}
    arrays.check({"images": ("uint8", "nCHW"), "views": ("uint8", "nVCHW")})
    return {"missing": None, "rows": pictures.views(arrays, inputs.params.report.examples)}


def _ood_examples(inputs: Inputs, sets: list[tables.OodSet]) -> list[dict[str, Any]]:
    """A strip for each OOD set, and before them one of in-distribution images, which is the same for all."""
    known, found = [], []
    for each in sets:
        examples, scores = (
            inputs.arrays(f"ood/{each.name}/examples"),
            inputs.arrays(f"ood/{each.name}/scores"),
        )
        if not examples or not scores:
            missing = made_by(f"results/ood/{each.name}/examples.safetensors", "ood", each.name)
            found.append(
                {"title": each.name, "note": each.distance, "missing": missing, "examples": []}
            )
            continue
        for prefix, kind in (("id_", "id"), ("", "ood")):
            scores.check({key: (NUMBER, "N") for key in scores if key.endswith(f".{kind}")})
            examples.check({f"{prefix}images": ("uint8", "nCHW"), f"{prefix}index": (NUMBER, "n")})
            rows = len(scores[f"trained.knn.{kind}"])
            if not all(0 <= row < rows for row in examples[f"{prefix}index"].tolist()):
                why = f"{prefix}index has a number that is none of {rows} test images"
                raise damaged(f"results/ood/{each.name}/examples.safetensors", why)
        limit = inputs.params.report.examples
        if not known:
            strip = pictures.examples(examples, scores, "id", limit)
            known = [
                {
                    "title": inputs.params.dataset,
                    "note": "in distribution",
                    "missing": None,
                    "examples": strip,
                }
            ]
        strip = pictures.examples(examples, scores, "ood", limit)
        found.append(
            {"title": each.name, "note": each.distance, "missing": None, "examples": strip}
        )
    return known + found
