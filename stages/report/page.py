"""The page: collects tables, figures, pictures and sentences and fills a template with them."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from prosmin.common.encoders import ENCODERS, TRAINED, UNTRAINED
from prosmin.common.files import NUMBER, Arrays, damaged
from prosmin.corruptions import BENCHMARK
from prosmin.metrics.catalogue import METRICS, VARIANTS, entry_of
from stages.common import layout
from stages.common.command import LEFT_OUT
from stages.report import pictures, prediction, prose
from stages.report.figures import calibration, corruption, lowshot, ood, training
from stages.report.figures.drawing import COLOURS
from stages.report.figures.lines import (
    CALIBRATION_LINES,
    Line,
    detector_line,
    detectors_drawn,
    encoder_lines,
)
from stages.report.inputs import Inputs, made_by
from stages.report.tables import audit, detection, provenance, results, rows, uncertainty
from stages.report.tables import calibration as ways
from stages.report.tables.detection import OodSet

TEMPLATES = Path(__file__).parent / "templates"


def page(inputs: Inputs) -> str:
    """The whole page as HTML."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
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
    """The variables of the template."""
    groups, sets = results.results(inputs), detection.ood_sets(inputs)
    return {
        "params": inputs.params,
        "colours": COLOURS,
        "untrained": inputs.params.pretrain.shown[UNTRAINED],
        "before": prose.before(inputs),
        # Pictures that cannot be read end the stage: they come before the drawings.
        "views": _views(inputs),
        "ood_examples": _ood_examples(inputs, sets),
        "method": prose.method(inputs),
        "abstract": prose.abstract(inputs),
        "limits": prose.limits(inputs),
        "cards": prose.cards(inputs),
        "groups": groups,
        "verdicts": rows.verdicts(groups + detection.as_groups(sets)),
        "ood": sets + detection.means(sets),
        "weak": detection.weak(sets),
        "weak_bound": detection.WEAK,
        "encoder_lines": encoder_lines(inputs.params.pretrain.shown),
        "calibration_lines": CALIBRATION_LINES,
        "detector_lines": _detector_lines(sets),
        "training": _training(inputs),
        "reliability": _reliability(inputs),
        "ways": ways.section(inputs),
        "roc": _roc(inputs, sets),
        "prediction": prediction.section(inputs),
        "uncertainty": uncertainty.section(inputs),
        "audit": audit.section(inputs),
        "corruption": _corruption(inputs),
        "lowshot": _lowshot(inputs),
        "selections": provenance.selections(inputs),
        "checksums": list(provenance.checksums(inputs)),
        "quarantined": {
            name: (inputs.metrics(layout.metrics("fetch", name)) or {}).get("quarantined", 0)
            for name in inputs.params.fetch
        },
        "params_text": inputs.params_text(),
        "metrics": METRICS,
        "variants": VARIANTS,
    }


def _detector_lines(sets: list[OodSet]) -> list[Line]:
    names = {detection.detector for ood_set in sets for detection in ood_set.detections}
    return [detector_line(name) for name in detectors_drawn(names)]


def _training(inputs: Inputs) -> dict[str, Any]:
    loss, diagnostics = inputs.plot(layout.LOSS), inputs.plot(layout.DIAGNOSTICS)
    if not loss and not diagnostics:
        return {"missing": made_by(layout.LOSS, "pretrain")}
    return {
        "missing": None,
        "panels": training.curves(loss, diagnostics, inputs.plot(layout.ONLINE_PROBE)),
        "watched": "knn_accuracy" in diagnostics[0] if diagnostics else False,
        "metrics": inputs.metrics(layout.metrics("pretrain")),
    }


def _reliability(inputs: Inputs) -> dict[str, Any]:
    params, panels = inputs.params, []
    diagrams = [
        (
            layout.RELIABILITY,
            encoder,
            f"{params.dataset}, {params.pretrain.shown[encoder]}",
            encoder,
        )
        for encoder in ENCODERS
    ]
    for stage, names, title in (
        ("transfer", params.transfer.targets, "transfer to"),
        ("shift", params.shift.sets, "probe on"),
        ("finetune", params.finetune.datasets, "fine-tuned on"),
    ):
        diagrams += [
            (layout.plot(stage, name), TRAINED, f"{title} {name}", f"{stage}-{name}")
            for name in names
        ]
    for path, encoder, title, name in diagrams:
        if bins := inputs.plot(path):
            panels.append(calibration.reliability(bins, encoder, title, name))
    missing = None
    if not inputs.plot(layout.RELIABILITY):
        missing = inputs.absent(layout.RELIABILITY, "linear")
    return {"missing": missing, "panels": panels}


def _roc(inputs: Inputs, sets: list[OodSet]) -> dict[str, Any]:
    panels, missing = [], []
    for ood_set in sets:
        path = layout.plot("ood", ood_set.name)
        if curves := inputs.plot(path):
            aurocs = {
                detection.detector: detection.auroc.trained.value
                for detection in ood_set.detections
            }
            panels.append(ood.roc(curves, ood_set.name, ood_set.distance, aurocs))
        else:
            missing.append(made_by(path, "ood", ood_set.name))
    return {"panels": panels, "missing": missing}


def _of_encoders(metrics: dict[str, Any] | None, name: str) -> dict[str, float]:
    """One metric by encoder; an encoder without it is left out."""
    parts = {encoder: (metrics or {}).get(encoder) or {} for encoder in ENCODERS}
    return {encoder: part[name] for encoder, part in parts.items() if name in part}


def _corruption(inputs: Inputs) -> dict[str, Any]:
    cells = inputs.plot(layout.CORRUPTION_ACCURACY)
    metrics = inputs.metrics(layout.metrics("corrupt")) or {}
    if not cells:
        return {"missing": inputs.absent(layout.CORRUPTION_ACCURACY, "corrupt")}
    # Means are over the types of the benchmark; the extra types are kept apart.
    benchmark = [cell for cell in cells if cell["type"] in BENCHMARK] or cells
    without = {
        "accuracy": _of_encoders(metrics, "accuracy_clean"),
        "ece": _of_encoders(inputs.metrics(layout.metrics("linear")), "ece"),
        "feature_similarity": dict.fromkeys(ENCODERS, 1.0),  # of an image to itself
    }
    measured = {name: clean for name, clean in without.items() if cells[0].get(name, "") != ""}
    by_type = next(iter(measured))
    lines = encoder_lines(inputs.params.pretrain.shown)
    return {
        "missing": None,
        "means": [
            corruption.severity(
                benchmark, clean, name, f"{entry_of(name).title}, mean over types", lines
            )
            for name, clean in measured.items()
        ],
        "types": corruption.by_type(cells, measured[by_type], by_type, lines),
        "left_out": metrics.get(LEFT_OUT, ""),
        "generated": inputs.params.corrupt.source == "generated",
        "note": results.tested(metrics),
    }


def _lowshot(inputs: Inputs) -> dict[str, Any]:
    path = layout.metrics("lowshot")
    metrics, draws = inputs.metrics(path), inputs.plot(layout.LOWSHOT_DRAWS)
    if not metrics or not draws:
        return {"missing": inputs.absent(path, "lowshot")}
    full = _of_encoders(inputs.metrics(layout.metrics("linear")), "accuracy")
    return {
        "missing": None,
        "panel": lowshot.accuracy(metrics, draws, full),
        "draws": next(iter(metrics[TRAINED].values()))["draws"],
        "full": full,
        "n": results.whole_test_split(inputs),
    }


def _views(inputs: Inputs) -> dict[str, Any]:
    arrays = inputs.arrays(layout.VIEWS)
    if not arrays:
        return {"missing": made_by(layout.VIEWS, "pretrain")}
    arrays.check({"images": ("uint8", "nCHW"), "views": ("uint8", "nVCHW")})
    return {"missing": None, "rows": pictures.views(arrays, inputs.params.report.examples)}


def _ood_examples(inputs: Inputs, sets: list[OodSet]) -> list[dict[str, Any]]:
    """One strip of images per OOD set, after a strip of in-distribution images.

    The in-distribution images are the same for all sets.
    """
    known: list[dict[str, Any]] = []
    strips: list[dict[str, Any]] = []
    limit = inputs.params.report.examples
    for ood_set in sets:
        strip: dict[str, Any] = {"title": ood_set.name, "note": ood_set.distance, "missing": None}
        path = layout.ood_examples(ood_set.name)
        examples, scores = inputs.arrays(path), inputs.arrays(layout.ood_scores(ood_set.name))
        if not examples or not scores:
            missing = made_by(path, "ood", ood_set.name)
            strips.append(strip | {"missing": missing, "examples": []})
            continue
        _check_examples(path, examples, scores)
        if not known:
            shown = pictures.examples(examples, scores, "id", limit)
            title = {"title": inputs.params.dataset, "note": "in distribution"}
            known = [strip | title | {"examples": shown}]
        strips.append(strip | {"examples": pictures.examples(examples, scores, "ood", limit)})
    return known + strips


def _check_examples(path: Path, examples: Arrays, scores: Arrays) -> None:
    """Raise ``UserError`` unless the images of a set belong to its scores."""
    for prefix, kind in (("id_", "id"), ("", "ood")):
        scores.check({key: (NUMBER, "N") for key in scores if key.endswith(f".{kind}")})
        examples.check({f"{prefix}images": ("uint8", "nCHW"), f"{prefix}index": (NUMBER, "n")})
        count = len(scores[f"{TRAINED}.knn.{kind}"])
        if not all(0 <= place < count for place in examples[f"{prefix}index"].tolist()):
            why = f"{prefix}index has a number that is none of {count} test images"
            raise damaged(path, why)
