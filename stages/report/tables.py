"""The tables of the report: metrics in, rows with values, intervals and a plain verdict out."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from stages.common.command import LEFT_OUT
from stages.common.directions import higher_is_better
from stages.params.load import BENCHMARK, EXTRA
from stages.report.figures import detector_line, detectors_of
from stages.report.inputs import Inputs, Missing, made_by

WEAK = 0.6  # an AUROC below it is named in the text: 0.5 is chance

PROBE = {
    "accuracy": "accuracy",
    "accuracy_top5": "accuracy, top 5",
    "nll": "NLL",
    "brier": "Brier",
    "aurc": "AURC",
    "ece": "ECE",
    "ece_adaptive": "ECE, adaptive",
    "ece_classwise": "ECE, class-wise",
}
CORRUPTION = {
    "accuracy_clean": "accuracy, uncorrupted",
    "mce_unnormalised": "mean error",
    "mce": "mCE, {reference} = 1",
    "relative_mce": "relative mCE, {reference} = 1",
    "mce_unnormalised_extra": "mean error, extra types",
    "feature_similarity": "feature similarity",
}
SOURCES = {
    "generated": "made here",
    "folders": "from published files",
    "arrays": "from published files",
}
RELATIVE = (
    "mce",
    "relative_mce",
)  # to a reference, as a rule the random encoder, whose own value is 1 by definition


class Value(NamedTuple):
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Row:
    """One metric of both encoders. metric: its name in docs/evaluation.md; bar: where its drawn intervals end."""

    metric: str
    label: str
    trained: Value
    random: Value | None
    higher_is_better: bool
    bar: float

    @property
    def digits(self) -> int:
        """Decimals to show: one more where all of the row is small."""
        return 4 if max(each.value for each in (self.trained, self.random) if each) < 0.1 else 3

    @property
    def verdict(self) -> str:
        """Whether the two 95 % intervals overlap; of those apart, which side the trained encoder is on."""
        if (
            self.random is None
            or self.trained.low is None
            or self.random.low is None
            or self.metric in RELATIVE
        ):
            return ""
        if self.trained.low <= self.random.high and self.random.low <= self.trained.high:
            return "overlap"
        above = self.trained.value > self.random.value
        return "better" if above == self.higher_is_better else "worse"


class Group(NamedTuple):
    title: str
    note: str
    rows: list[Row]
    missing: Missing | None = None


def value(metrics: dict[str, Any] | None, name: str) -> Value | None:
    if not metrics or metrics.get(name) is None:
        return None
    return Value(metrics[name], metrics.get(f"{name}_low"), metrics.get(f"{name}_high"))


def row(content: dict[str, Any], metric: str, label: str, section: str = "") -> Row | None:
    """``metric`` of both encoders, inside ``section`` of each where one is given; None where there is none."""
    parts = [content.get(encoder) or {} for encoder in ("trained", "random")]
    trained, random = (value(part.get(section) if section else part, metric) for part in parts)
    if trained is None:
        return None
    higher = higher_is_better(metric)
    ends = [end for each in (trained, random) if each for end in each if end is not None]
    return Row(metric, label, trained, random, higher, 1.0 if higher else max(ends) or 1.0)


def results(inputs: Inputs) -> list[Group]:
    """The groups of the results table; OOD has a table of its own."""
    dataset, params = inputs.params.dataset, inputs.params
    groups = [
        _probe(
            inputs,
            "linear",
            f"Linear probe on {dataset}",
            inputs.absent("metrics/linear.json", "linear"),
        ),
        _single(inputs, "knn", f"k-NN on {dataset}"),
        _lowshot(inputs),
        _corruption(inputs),
    ]
    for target in params.transfer.targets:
        missing = inputs.absent(f"metrics/transfer/{target}.json", "transfer", target)
        groups.append(
            _probe(inputs, f"transfer/{target}", f"Transfer: linear probe on {target}", missing)
        )
    groups += [_shifted(inputs, name) for name in params.shift.sets]
    groups += [_finetuned(inputs, name) for name in params.finetune.datasets]
    return groups


def _shifted(inputs: Inputs, name: str) -> Group:
    missing = inputs.absent(f"metrics/shift/{name}.json", "shift", name)
    group = _probe(
        inputs, f"shift/{name}", f"Linear probe of {inputs.params.dataset} on {name}", missing
    )
    if not group.rows:
        return group
    content = inputs.metrics(f"shift/{name}")
    clean = row(content, "accuracy_clean", f"accuracy on {inputs.params.dataset}, same classes")
    note = f"{group.note}, {content['trained']['classes']} classes to choose from"
    return group._replace(note=note, rows=[*group.rows, *([clean] if clean else [])])


def _finetuned(inputs: Inputs, name: str) -> Group:
    missing = inputs.absent(f"metrics/finetune/{name}.json", "finetune", name)
    group = _probe(inputs, f"finetune/{name}", f"Fine-tuned on {name}", missing)
    if not group.rows:
        return group
    content = inputs.metrics(f"finetune/{name}")
    few = {key: found for key, found in content["trained"].items() if isinstance(found, dict)}
    rows = [
        each
        for key, found in few.items()
        if (
            each := row(
                content, "accuracy", f"accuracy, {lowshot_label(key, found['labels'])}", key
            )
        )
    ]
    return group._replace(
        note=f"{group.note}, beside the same network from scratch{_budgets(content)}",
        rows=[*group.rows, *rows],
    )


def _budgets(content: dict[str, Any]) -> str:
    """The accuracy of the network from scratch after each number of epochs that was tried, and which was taken."""
    floor = content.get("random", {})
    tried = {
        key.split("_")[1]: each["accuracy"]
        for key, each in floor.items()
        if key.startswith("after_")
    }
    if not tried:
        return ""
    said = ", ".join(f"{accuracy:.3f} after {count} epochs" for count, accuracy in tried.items())
    return f" ({said}; {floor['epochs']} by held-out NLL)"


def _probe(inputs: Inputs, name: str, title: str, missing: Missing) -> Group:
    content = inputs.metrics(name)
    if not content or LEFT_OUT in content:
        return Group(title, "", [], missing)
    calibrated = {f"{metric}_calibrated": f"{label}, calibrated" for metric, label in PROBE.items()}
    return Group(title, tested(content), _rows(content, PROBE | calibrated))


def _rows(content: dict[str, Any], wanted: dict[str, str]) -> list[Row]:
    """wanted: metric -> label; one that the content lacks is left out."""
    return [found for metric, label in wanted.items() if (found := row(content, metric, label))]


def tested(content: dict[str, Any]) -> str:
    n = (content.get("trained") or {}).get("n", content.get("n"))
    return f"n = {n} test images" if n else ""


def whole_test_split(inputs: Inputs) -> str:
    """The size of the test split where the metrics do not say it themselves."""
    manifest = inputs.metrics(f"fetch/{inputs.params.dataset}") or {}
    return f"n = {manifest['test']['count']} test images" if "test" in manifest else ""


def _single(inputs: Inputs, name: str, title: str) -> Group:
    content = inputs.metrics(name)
    if not content or LEFT_OUT in content:
        return Group(title, "", [], inputs.absent(f"metrics/{name}.json", name))
    return Group(title, tested(content), _rows(content, {"accuracy": "accuracy"}))


def _lowshot(inputs: Inputs) -> Group:
    title, content = (
        f"Accuracy on {inputs.params.dataset} from few labels",
        inputs.metrics("lowshot"),
    )
    if not content or LEFT_OUT in content:
        return Group(title, "", [], inputs.absent("metrics/lowshot.json", "lowshot"))
    settings = content["trained"]
    labels = {name: lowshot_label(name, found["labels"]) for name, found in settings.items()}
    rows = [
        found for name, label in labels.items() if (found := row(content, "accuracy", label, name))
    ]
    draws = next(iter(settings.values()))["draws"]
    notes = (
        f"labels in all in brackets, mean over {draws} draws of them, interval over draws and test images",
        whole_test_split(inputs),
    )
    return Group(title, ", ".join(filter(None, notes)), rows)


def lowshot_label(setting: str, labels: int) -> str:
    kind, _, size = setting.rpartition("_")
    return f"{size} a class ({labels})" if kind == "per_class" else f"{size} % ({labels})"


def _corruption(inputs: Inputs) -> Group:
    title, content = f"Corrupted images of {inputs.params.dataset}", inputs.metrics("corrupt")
    if not content or not content.get("trained"):
        return Group(title, "", [], inputs.absent("metrics/corrupt.json", "corrupt"))
    corrupt = inputs.params.corrupt
    extra = sum(name in EXTRA for name in corrupt.types)
    note = f"{len(corrupt.types) - extra} of the benchmark's {len(BENCHMARK)} types"
    note += f" and {extra} extra" if extra else ""
    note += f" × {len(corrupt.severities)} severities, {SOURCES[corrupt.source]}"
    labels = {
        metric: label.format(reference=Path(corrupt.reference).name)
        for metric, label in CORRUPTION.items()
    }
    return Group(title, ", ".join(filter(None, (tested(content), note))), _rows(content, labels))


class Tally(NamedTuple):
    """How the intervals of the numbers with this verdict lie: how many, and for which groups."""

    count: int
    where: str


def verdicts(groups: list[Group]) -> dict[str, Tally]:
    """The tally of each verdict; ``where`` reads ``k-NN on digits (1 of 1), ...``."""
    found = {}
    for verdict in ("better", "overlap", "worse"):
        counts = {
            group.title: [each.verdict == verdict for each in group.rows if each.verdict]
            for group in groups
        }
        where = ", ".join(
            f"{title} ({sum(hits)} of {len(hits)})" for title, hits in counts.items() if any(hits)
        )
        found[verdict] = Tally(sum(map(sum, counts.values())), where)
    return found


# --- OOD ------------------------------------------------------------------------------------------


class Detection(NamedTuple):
    """One detector on one OOD set. trained and random hold the metrics by name."""

    detector: str
    label: str
    auroc: Row
    trained: dict[str, float]
    random: dict[str, float] | None

    @property
    def weak(self) -> bool:
        return self.auroc.trained.value < WEAK


class OodSet(NamedTuple):
    name: str
    distance: str
    n_id: int | None
    n_ood: int | None
    accuracy_id: dict[str, float]
    left_out: str
    detections: list[Detection]
    missing: Missing | None = None
    seen: int = 0  # OOD images that are training images


def ood_sets(inputs: Inputs) -> list[OodSet]:
    """The sets of ``ood.sets``, near ones first."""
    named = sorted(inputs.params.ood.sets.items(), key=lambda each: each[1] != "near")
    return [_ood_set(inputs, name, distance) for name, distance in named]


def _ood_set(inputs: Inputs, name: str, distance: str) -> OodSet:
    content = inputs.metrics(f"ood/{name}")
    if not content:
        return OodSet(
            name, distance, None, None, {}, "", [], made_by(f"metrics/ood/{name}.json", "ood", name)
        )
    trained, random = content["trained"], content.get("random") or {}
    detections = []
    for detector in detectors_of(key for key, found in trained.items() if isinstance(found, dict)):
        auroc = row(content, "auroc", detector_line(detector).label, detector)
        if auroc:
            detections.append(
                Detection(detector, auroc.label, auroc, trained[detector], random.get(detector))
            )
    left_out = (
        ""
        if content.get("labelled", True)
        else f"Detectors that need labels are left out: {inputs.params.dataset} has none."
    )
    counts = (content.get("n_id"), content.get("n_ood"), content.get("accuracy_id", {}))
    return OodSet(
        name, distance, *counts, left_out, detections, seen=content.get("n_seen_in_training", 0)
    )


def as_groups(sets: list[OodSet]) -> list[Group]:
    """The AUROCs of each set, for the tally of verdicts."""
    return [
        Group(f"AUROC on {each.name}", "", [detection.auroc for detection in each.detections])
        for each in sets
    ]


def ranges(sets: list[OodSet]) -> dict[str, tuple[float, float]]:
    """detector -> (lowest, highest) AUROC of the trained encoder over the sets."""
    found: dict[str, list[float]] = {}
    for each in sets:
        for detection in each.detections:
            found.setdefault(detection.detector, []).append(detection.auroc.trained.value)
    return {detector: (min(values), max(values)) for detector, values in found.items()}


def weak(sets: list[OodSet]) -> list[tuple[str, str, float]]:
    """(detector label, set, AUROC) below ``WEAK``, the lowest first."""
    found = [
        (each.label, one.name, each.auroc.trained.value)
        for one in sets
        for each in one.detections
        if each.weak
    ]
    return sorted(found, key=lambda each: (each[2], each[0], each[1]))


# --- provenance -----------------------------------------------------------------------------------


class Checksum(NamedTuple):
    dataset: str
    split: str
    count: int
    sha256: str


def checksums(inputs: Inputs) -> Iterator[Checksum | Missing]:
    """A row for each split of each dataset named in params, as ``fetch`` wrote it."""
    for dataset in inputs.params.fetch:
        manifest = inputs.metrics(f"fetch/{dataset}")
        if not manifest:
            yield made_by(f"metrics/fetch/{dataset}.json", "fetch", dataset)
            continue
        for split in ("train", "val", "test"):
            if split in manifest:
                yield Checksum(dataset, split, manifest[split]["count"], manifest[split]["sha256"])


def selections(inputs: Inputs) -> list[tuple[str, str, str, str]]:
    """(what, trained, random, selected how): the settings that were chosen by data rather than given."""
    found = []
    names = [("linear", "linear probe")] + [
        (f"transfer/{target}", f"transfer to {target}") for target in inputs.params.transfer.targets
    ]
    for name, title in names:
        for key, how in (
            ("l2", "lowest NLL on val; the probe is then refitted on train and val"),
            ("temperature", "lowest NLL on val, by a probe that has not seen val"),
        ):
            found.append((f"{title}: {key}", *_chosen(inputs, name, key), how))
    for name in inputs.params.finetune.datasets:
        how = "lowest NLL on val; then trained again on train and val"
        for key in ("lr", "epochs"):
            found.append(
                (f"fine-tuned on {name}: {key}", *_chosen(inputs, f"finetune/{name}", key), how)
            )
    for key in ("k", "temperature"):
        found.append(
            (
                f"k-NN: {key}",
                *_chosen(inputs, "knn", key),
                "highest accuracy on val; the bank is then train and val",
            )
        )
    return [each for each in found if each[1]]


def _chosen(inputs: Inputs, name: str, key: str) -> tuple[str, str]:
    content = inputs.metrics(name) or {}
    return tuple(
        f"{part[key]:.4g}" if key in (part := content.get(encoder) or {}) else ""
        for encoder in ("trained", "random")
    )
