"""The table of OOD detection: every detector on every OOD set."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from prosmin.common.encoders import TRAINED, UNTRAINED
from prosmin.metrics import intervals
from prosmin.metrics.catalogue import entry_of
from stages.common import layout
from stages.common.headlines import several
from stages.report.figures.lines import detector_line, detectors_of
from stages.report.inputs import Inputs, Missing, made_by
from stages.report.tables.rows import Group, Row, Value, row

WEAK = 0.6  # an AUROC below it is named in the text; 0.5 is chance


class Detection(NamedTuple):
    """One detector on one OOD set. trained, random: metrics of the two encoders by name."""

    detector: str
    label: str
    auroc: Row
    trained: dict[str, float]
    random: dict[str, float] | None

    @property
    def weak(self) -> bool:
        """Whether the AUROC of the trained encoder is too low to pass over in silence."""
        return self.auroc.trained.value < WEAK


class OodSet(NamedTuple):
    """All detectors on one OOD set.

    distance: ``near`` or ``far``.
    left_out: why some detectors are missing, empty where none is.
    missing: why the whole set is missing.
    seen: number of OOD images that are training images.
    """

    name: str
    distance: str
    n_id: int | None
    n_ood: int | None
    accuracy_id: dict[str, float]
    left_out: str
    detections: list[Detection]
    missing: Missing | None = None
    seen: int = 0


def ood_sets(inputs: Inputs) -> list[OodSet]:
    """The sets of ``ood.sets``, near ones first."""
    named = sorted(inputs.params.ood.sets.items(), key=lambda item: item[1] != "near")
    return [_ood_set(inputs, name, distance) for name, distance in named]


def _ood_set(inputs: Inputs, name: str, distance: str) -> OodSet:
    path = layout.metrics("ood", name)
    content = inputs.metrics(path)
    if not content:
        return OodSet(name, distance, None, None, {}, "", [], made_by(path, "ood", name))
    trained, random = content[TRAINED], content.get(UNTRAINED) or {}
    detections = []
    for detector in detectors_of(key for key, value in trained.items() if isinstance(value, dict)):
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


def means(sets: list[OodSet]) -> list[OodSet]:
    """The mean of each detector over the sets of a distance, where there are several.

    A detector that a set lacks has no mean. Intervals are those of ``intervals.mean_of``.
    """
    by_name = {ood_set.name: ood_set for ood_set in sets}
    distances = {ood_set.name: ood_set.distance for ood_set in sets}
    averaged = []
    for distance, names in several(distances).items():
        rows = [
            {detection.detector: detection for detection in by_name[name].detections}
            for name in names
        ]
        common = [
            detector for detector in rows[0] if all(detector in others for others in rows[1:])
        ]
        detections = [_mean([of_set[detector] for of_set in rows]) for detector in common]
        if detections:
            title = f"mean of {len(names)} sets"
            averaged.append(OodSet(title, distance, None, None, {}, "", detections))
    return averaged


def _mean(detections: list[Detection]) -> Detection:
    """The mean of one detector over OOD sets."""
    first = detections[0]
    values = [(detection.auroc.trained, detection.auroc.random) for detection in detections]
    trained, random = map(_mean_value, zip(*values, strict=True))
    return first._replace(
        auroc=replace(first.auroc, trained=trained, random=random),
        trained=_mean_metrics([detection.trained for detection in detections]),
        random=_mean_metrics([detection.random for detection in detections]),
    )


def _mean_value(values: Sequence[Value | None]) -> Value | None:
    return None if None in values else Value(*intervals.mean_of(values))


def _mean_metrics(metrics: Sequence[dict[str, float] | None]) -> dict[str, float] | None:
    """FPR95, the only other metric of the table."""
    if None in metrics:
        return None
    return {"fpr95": sum(values["fpr95"] for values in metrics) / len(metrics)}


def as_groups(sets: list[OodSet]) -> list[Group]:
    """The AUROCs of each set, for the tally of verdicts."""
    return [
        Group(
            f"{entry_of('auroc').label} on {ood_set.name}",
            "",
            [detection.auroc for detection in ood_set.detections],
        )
        for ood_set in sets
    ]


def ranges(sets: list[OodSet]) -> dict[str, tuple[float, float]]:
    """(lowest, highest) AUROC of the trained encoder over the sets, by detector."""
    aurocs: dict[str, list[float]] = {}
    for ood_set in sets:
        for detection in ood_set.detections:
            aurocs.setdefault(detection.detector, []).append(detection.auroc.trained.value)
    return {detector: (min(values), max(values)) for detector, values in aurocs.items()}


def weak(sets: list[OodSet]) -> list[tuple[str, str, float]]:
    """(detector label, set, AUROC) below ``WEAK``, the lowest first."""
    low_aurocs = [
        (detection.label, ood_set.name, detection.auroc.trained.value)
        for ood_set in sets
        for detection in ood_set.detections
        if detection.weak
    ]
    return sorted(low_aurocs, key=lambda item: (item[2], item[0], item[1]))
