"""Accuracy, calibration and features of an encoder on corrupted images, cell by cell.

A cell is one corruption type at one severity. Letters in shapes: T types, S severities, N images.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import chain

import numpy as np
from torch import nn

from prosmin import corruptions
from prosmin.common.compute.backend import chunks, rows_at_once
from prosmin.data.dataset import Split
from prosmin.evaluation.corrupted_sets import Cells
from prosmin.evaluation.embedding import embed_parts
from prosmin.evaluation.linear_probe import Probe
from prosmin.evaluation.recalibration import Recalibration
from prosmin.evaluation.ways import WAYS
from prosmin.metrics import calibration, classification, conformal, corruption_error
from prosmin.metrics.classification import mean_share
from prosmin.metrics.corruption_error import Known, Measured
from prosmin.metrics.intervals import Metric


class Recalibrated:
    """The probabilities of every way of calibration in every cell.

    confidence, loss: float32 [M, T, S, N], the highest probability and the negative log-likelihood
        of the label. hit: bool [M, T, S, N], whether the most probable class is the label.
    """

    def __init__(self, recalibration: Recalibration, cells: tuple[int, int], count: int):
        self.recalibration, size = recalibration, (len(WAYS), *cells, count)
        self.confidence, self.loss = np.empty(size, np.float32), np.empty(size, np.float32)
        self.hit = np.empty(size, bool)

    def finish(
        self, cell: tuple[int, int], probe: Probe, features: np.ndarray, labels: np.ndarray
    ) -> None:
        """Take the images of a cell, in parts. features: [N, F]. labels: int64 [N]."""
        row, column = cell
        for rows in chunks(len(labels), rows_at_once(*probe.weight.shape)):
            for place, (_, logits) in enumerate(self.recalibration.each(probe, features[rows])):
                logs = classification.log_softmax(logits)
                own = np.take_along_axis(logs, labels[rows, None], axis=1)[:, 0]
                self.loss[place, row, column, rows] = -own
                self.confidence[place, row, column, rows] = np.exp(logs.max(axis=1))
                self.hit[place, row, column, rows] = logs.argmax(axis=1) == labels[rows]

    def summarise(
        self, counted: Sequence[int], severities: Sequence[int], bootstrap: int, seed: int
    ) -> dict[str, dict[str, float]]:
        """Per way, NLL and ECE over the counted types, with intervals, and by severity."""
        summary = {}
        for place, name in enumerate(WAYS):
            confidence, loss, hit = (
                part[place][list(counted)] for part in (self.confidence, self.loss, self.hit)
            )
            count = loss.shape[-1]
            flat = (part.reshape(-1, count) for part in (confidence, hit))
            wanted: dict[str, Metric] = {
                "nll_corrupted": partial(classification.mean_loss, loss.mean(axis=(0, 1))),
                "ece_corrupted": partial(calibration.ece_of_conditions, *flat),
            }
            values = classification.with_intervals(wanted, count, bootstrap, seed)
            for column, severity in enumerate(severities):
                values[f"nll_severity_{severity}"] = float(loss[:, column].mean())
                of_cells = confidence[:, column], hit[:, column]
                values[f"ece_severity_{severity}"] = float(calibration.ece_of_conditions(*of_cells))
            summary[name] = values
        return summary


def features_by_cell(
    encoders: Sequence[nn.Module],
    cells: Cells,
    names: Sequence[tuple[str, int]],
    batch_size: int,
) -> Iterator[list[np.ndarray]]:
    """Yield the features of every cell, one array [N, F] per encoder.

    names: type and severity of the cells.
    """
    parts = [cells.parts(*name) for name in names]
    with closing(embed_parts(encoders, chain.from_iterable(parts), batch_size)) as features:
        for cell in parts:
            seen = [next(features) for _ in cell]
            yield [np.concatenate(of_encoder) for of_encoder in zip(*seen, strict=True)]


class Observer:
    """An encoder and its results in every cell.

    hits: bool [T, S, N], right predictions of the probe; not filled without a probe.
    ece: [T, S], not filled without a probe.
    covered, sizes: bool and int32 [T, S, N], whether the conformal set of an image holds its label,
        and the number of classes in the set; not filled without a probe.
    similarity: float32 [T, S, N], cosine between the features of an image with and without
        corruption; filled where the images of the cells are ``paired`` with those of the split.
    measured: ``hits`` beside the right predictions on clean images; None without a probe.
    recalibrated: the ways of calibration of the probe; None without them.
    """

    def __init__(
        self,
        clean: np.ndarray,
        probe: Probe | None,
        split: Split,
        paired: bool,
        cells: tuple[int, int],
        recalibration: Recalibration | None = None,
    ):
        """split: the clean images. clean: their features [N, F].

        cells: numbers of types and of severities.
        """
        self.clean, self.probe, self.paired = clean, probe, paired
        self.hits, self.ece = np.empty((*cells, len(split)), bool), np.empty(cells)
        self.similarity = np.empty((*cells, len(split)), np.float32)
        self.covered = np.empty((*cells, len(split)), bool)
        self.sizes = np.empty((*cells, len(split)), np.int32)
        self.measured: Measured | None = None
        if probe:
            right = probe.logits(self.clean).argmax(axis=1) == split.labels.numpy()
            self.measured = Measured(self.hits, right)
        self.recalibrated: Recalibrated | None = None
        if probe and recalibration:
            self.recalibrated = Recalibrated(recalibration, cells, len(split))

    def see(self, cell: tuple[int, int], features: np.ndarray, labels: np.ndarray) -> None:
        """Measure a cell. features: [N, F] of its images. labels: int64 [N]."""
        if self.paired:
            self.similarity[cell] = corruption_error.cosines(features, self.clean)
        if self.probe:
            logits = self.probe.logits(features)
            self.hits[cell] = logits.argmax(axis=1) == labels
            self.ece[cell] = calibration.ece(classification.softmax(logits), labels)
            probabilities = classification.softmax(logits / self.probe.temperature)
            sets = conformal.prediction_sets(probabilities, self.probe.threshold)
            self.covered[cell], self.sizes[cell] = conformal.covered(sets, labels), sets.sum(axis=1)
            if self.recalibrated:
                self.recalibrated.finish(cell, self.probe, features, labels)

    def mean(self, row: int) -> float:
        """Accuracy of one type over all severities; without a probe feature similarity."""
        return float((self.hits if self.probe else self.similarity)[row].mean())

    def cell(self, row: int, column: int) -> tuple[float | str, float | str, float | str]:
        """Accuracy, ECE and feature similarity; an empty text where one is not measured."""
        return (
            float(self.hits[row, column].mean()) if self.probe else "",
            float(self.ece[row, column]) if self.probe else "",
            float(self.similarity[row, column].mean()) if self.paired else "",
        )


def benchmark_types(types: Sequence[str]) -> list[str]:
    """The types that belong to the benchmark, in their order."""
    return [name for name in types if name in corruptions.BENCHMARK]


def counted(types: Sequence[str]) -> list[int]:
    """Places of the types that means are over: those of the benchmark, or else the extra types."""
    benchmark = benchmark_types(types)
    return [place for place, name in enumerate(types) if name in (benchmark or corruptions.EXTRA)]


def summarise(
    own: Observer,
    reference: Measured | Known | None,
    types: Sequence[str],
    severities: Sequence[int],
    bootstrap: int,
    seed: int,
) -> dict[str, float | None]:
    """The single numbers of one encoder; headline numbers have their intervals.

    reference: the model whose errors are 1 in mCE; None without a probe.
    types, severities: of the cells, in their order.
    A number that the reference leaves undefined is None.
    """
    benchmark, extra = (
        [place for place, name in enumerate(types) if name in group]
        for group in (corruptions.BENCHMARK, corruptions.EXTRA)
    )
    places = counted(types)
    values: dict[str, float] = {}
    wanted: dict[str, Metric] = {}
    if own.measured:
        hits, clean = own.hits, own.measured.clean
        values["accuracy_clean"] = float(clean.mean())
        if benchmark and reference:
            part, other = Measured(hits[benchmark], clean), reference
            if isinstance(reference, Measured):
                other = Measured(reference.hits[benchmark], reference.clean)
            wanted["mce_unnormalised"] = partial(corruption_error.mce_unnormalised, part)
            wanted["mce"] = partial(corruption_error.mce, part, other)
            values["relative_mce"] = float(corruption_error.relative_mce(part, other))
        if extra:
            of_extra = Measured(hits[extra], clean)
            wanted["mce_unnormalised_extra"] = partial(corruption_error.mce_unnormalised, of_extra)
        by_severity = own.ece[places].mean(axis=0)
        for severity, mean in zip(severities, by_severity):
            values[f"ece_severity_{severity}"] = float(mean)
        for column, severity in enumerate(severities):
            of_images = (part[places, column].mean(axis=0) for part in (own.covered, own.sizes))
            covered, sizes = of_images
            wanted[f"conformal_coverage_severity_{severity}"] = partial(mean_share, covered)
            wanted[f"conformal_size_severity_{severity}"] = partial(conformal.size, sizes)
    if own.paired:
        similarity = own.similarity[places]
        wanted["feature_similarity"] = partial(corruption_error.feature_similarity, similarity)
    values |= classification.with_intervals(wanted, own.similarity.shape[-1], bootstrap, seed)
    if benchmark and own.measured and own.measured is reference:
        # The mCE of the reference is 1 by definition, with any images.
        values |= {"mce_low": values["mce"], "mce_high": values["mce"]}
    return {name: value if np.isfinite(value) else None for name, value in values.items()}
