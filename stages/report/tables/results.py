"""The table of results: accuracy, calibration and robustness of both encoders."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from prosmin.common.encoders import TRAINED, UNTRAINED
from prosmin.corruptions import BENCHMARK, EXTRA
from prosmin.metrics.catalogue import CALIBRATED, entry_of, of_group
from stages.common import layout
from stages.common.command import LEFT_OUT
from stages.report.inputs import Inputs
from stages.report.tables.rows import Group, Row, row

# How ``corrupt.source`` obtains the corrupted images.
SOURCES = {
    "generated": "made here",
    "folders": "from published files",
    "arrays": "from published files",
}


def results(inputs: Inputs) -> list[Group]:
    """The groups of the results table; OOD detection has a table of its own."""
    dataset, params = inputs.params.dataset, inputs.params
    groups = [
        _probe(inputs, "linear", "", f"Linear probe on {dataset}"),
        _single(inputs, "knn", f"k-NN on {dataset}"),
        _lowshot(inputs),
        _corruption(inputs),
    ]
    groups += [
        _probe(inputs, "transfer", target, f"Transfer: linear probe on {target}")
        for target in params.transfer.targets
    ]
    groups += [_shifted(inputs, name) for name in params.shift.sets]
    groups += [_finetuned(inputs, name) for name in params.finetune.datasets]
    return groups


def _shifted(inputs: Inputs, name: str) -> Group:
    dataset = inputs.params.dataset
    group = _probe(inputs, "shift", name, f"Linear probe of {dataset} on {name}")
    if not group.rows:
        return group
    content = inputs.metrics(layout.metrics("shift", name))
    label = f"{entry_of('accuracy').label} on {dataset}, same classes"
    clean = row(content, "accuracy_clean", label)
    note = f"{group.note}, {content[TRAINED]['classes']} classes to choose from"
    return group._replace(note=note, rows=[*group.rows, *([clean] if clean else [])])


def _finetuned(inputs: Inputs, name: str) -> Group:
    group = _probe(inputs, "finetune", name, f"Fine-tuned on {name}")
    if not group.rows:
        return group
    content = inputs.metrics(layout.metrics("finetune", name))
    accuracy = entry_of("accuracy")
    start = "its initial weights" if inputs.params.pretrain.initial else "scratch"
    few = [
        row(content, accuracy.name, f"{accuracy.label}, {few_label(key, setting['labels'])}", key)
        for key, setting in content[TRAINED].items()
        if isinstance(setting, dict)
    ]
    return group._replace(
        note=f"{group.note}, beside the same network from {start}{_budgets(content)}",
        rows=[*group.rows, *filter(None, few)],
    )


def _budgets(content: dict[str, Any]) -> str:
    """The accuracy from scratch after every number of epochs tried, and the number chosen."""
    floor = content.get(UNTRAINED, {})
    tried = {
        key.split("_")[1]: result["accuracy"]
        for key, result in floor.items()
        if key.startswith("after_")
    }
    if not tried:
        return ""
    said = ", ".join(f"{accuracy:.3f} after {count} epochs" for count, accuracy in tried.items())
    return f" ({said}; {floor['epochs']} by held-out NLL)"


def _probe(inputs: Inputs, stage: str, item: str, title: str) -> Group:
    """All classification metrics that a stage has written, before and after calibration."""
    content = inputs.metrics(layout.metrics(stage, item))
    if not content or LEFT_OUT in content:
        return Group(title, "", [], inputs.absent(layout.metrics(stage, item), stage, item))
    calibrated = [f"{metric}_calibrated" for metric in CALIBRATED]
    metrics = [*of_group("classification"), *calibrated, *of_group("conformal")]
    return Group(title, tested(content), _rows(content, metrics))


def _rows(content: dict[str, Any], metrics: Sequence[str]) -> list[Row]:
    """The rows of the given metrics that the content has."""
    return [metric_row for metric in metrics if (metric_row := row(content, metric))]


def tested(content: dict[str, Any]) -> str:
    """The number of test images as text, empty where the metrics do not say it."""
    n = (content.get(TRAINED) or {}).get("n", content.get("n"))
    return f"n = {n} test images" if n else ""


def whole_test_split(inputs: Inputs) -> str:
    """The size of the test split, for metrics that do not say it."""
    manifest = inputs.metrics(layout.metrics("fetch", inputs.params.dataset)) or {}
    return f"n = {manifest['test']['count']} test images" if "test" in manifest else ""


def _single(inputs: Inputs, stage: str, title: str) -> Group:
    """The accuracy alone."""
    content = inputs.metrics(layout.metrics(stage))
    if not content or LEFT_OUT in content:
        return Group(title, "", [], inputs.absent(layout.metrics(stage), stage))
    return Group(title, tested(content), _rows(content, ["accuracy"]))


def _lowshot(inputs: Inputs) -> Group:
    path = layout.metrics("lowshot")
    title, content = f"Accuracy on {inputs.params.dataset} from few labels", inputs.metrics(path)
    if not content or LEFT_OUT in content:
        return Group(title, "", [], inputs.absent(path, "lowshot"))
    settings = content[TRAINED]
    rows = [
        row(content, "accuracy", few_label(name, setting["labels"]), name)
        for name, setting in settings.items()
    ]
    draws = next(iter(settings.values()))["draws"]
    notes = (
        f"number of labels in brackets, mean over {draws} draws, interval over draws and images",
        whole_test_split(inputs),
    )
    return Group(title, ", ".join(filter(None, notes)), list(filter(None, rows)))


def few_label(setting: str, labels: int) -> str:
    """A setting of few labels in words. labels: their number in all."""
    kind, _, size = setting.rpartition("_")
    return f"{size} per class ({labels})" if kind == "per_class" else f"{size} % ({labels})"


def _corruption(inputs: Inputs) -> Group:
    path = layout.metrics("corrupt")
    title, content = f"Corrupted images of {inputs.params.dataset}", inputs.metrics(path)
    if not content or not content.get(TRAINED):
        return Group(title, "", [], inputs.absent(path, "corrupt"))
    corrupt = inputs.params.corrupt
    extra = sum(name in EXTRA for name in corrupt.types)
    note = f"{len(corrupt.types) - extra} of the benchmark's {len(BENCHMARK)} types"
    note += f" and {extra} extra" if extra else ""
    note += f" × {len(corrupt.severities)} severities, {SOURCES[corrupt.source]}"
    rows = _rows(content, of_group("corruption"))
    shown = inputs.params.pretrain.shown
    named = shown.get(corrupt.reference, Path(corrupt.reference).name)
    rows = [
        replace(metric, label=f"{metric.label}, {named} = 1") if metric.entry.relative else metric
        for metric in rows
    ]
    return Group(title, ", ".join(filter(None, (tested(content), note))), rows)
