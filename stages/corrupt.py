"""corrupt: accuracy and calibration of the linear probe, and features, on corrupted test images.

Reads   data/<dataset>, results/pretrain, results/linear, and what corrupt.path, frost and reference name
Writes  metrics/corrupt.json: for each encoder accuracy_clean; over the types of the benchmark mce_unnormalised, mce and
            relative_mce (``prosmin.metrics.corruption_error``) and ece_severity_<s>, the mean over types of the uncalibrated ECE; over
            the extra types mce_unnormalised_extra; error: the mean over severities for each type; how many types of
            the benchmark there are; feature_similarity; and of which images all that is: dataset, source, severities, n, of
            generated ones a checksum of the clean images. A ratio that its reference leaves undefined is null.
        plots/corrupt/accuracy.csv: accuracy, ECE and feature similarity for each encoder, type and severity

Without labels the feature similarity alone is measured, and ``left_out`` in the metrics gives the reason. The images of
``source: folders`` are not paired with clean ones, so their features are not compared.

Images are resized to the encoder's input first and corrupted there, as CIFAR-10-C and ImageNet-C are: the constants are
chosen by that size (``prosmin.corruptions``). Each cell is corrupted once and seen by both encoders. Generated cells
compare with each other, not with published files; those are read (``corrupt.source``).
"""

import hashlib
import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from prosmin import corruptions
from prosmin.common import files
from prosmin.data import dataset
from prosmin.evaluation import corrupted_sets
from prosmin.evaluation.embedding import embed
from prosmin.evaluation.linear_probe import Probe
from prosmin.metrics import calibration, classification, corruption_error
from prosmin.metrics.corruption_error import Known, Measured
from prosmin.models import store
from stages.common.command import LEFT_OUT, Unlabelled, leave_out, run
from stages.common.features import ENCODERS, require_labels
from stages.common.probing import load_probe
from stages.params.load import Corrupt, Params

IMAGENET_C = 50_000  # images of each cell
METRICS, PLOT = "metrics/corrupt.json", "plots/corrupt/accuracy.csv"
COLUMNS = ("encoder", "type", "severity", "accuracy", "ece", "feature_similarity")

log = logging.getLogger(__name__)


def main(params: Params) -> None:
    asked = params.corrupt
    types, severities = asked.types, sorted(asked.severities)
    description, _ = store.load_description("results/pretrain")
    split = dataset.load_split(
        f"data/{params.dataset}", "test", description.image_size, description.channels
    )
    lacking = None
    try:
        require_labels(split.labels.numpy(), params.dataset, "test")
    except Unlabelled as error:
        if asked.source != "generated":
            return leave_out(error, METRICS, PLOT, COLUMNS)
        lacking = f"{error}."
    device = "cuda" if torch.cuda.is_available() else "cpu"
    cells = _cells(params, split, device)
    if not lacking:
        corrupted_sets.check_labels(cells, split, params.dataset)
    facts, known = _facts(params, split), None
    if asked.reference != "random":
        known = corruption_error.known(asked.reference, _benchmark(types), facts)
        if asked.reference == "alexnet" and len(split) != IMAGENET_C:
            log.warning(
                "mCE against AlexNet: its errors are of %d images, here there are %d",
                IMAGENET_C,
                len(split),
            )
    observers = {}
    for encoder in ENCODERS:
        network = store.load_encoder("results/pretrain", encoder).to(device)
        probe = None if lacking else load_probe(encoder)
        observers[encoder] = Observer(network, probe, split, cells.paired, asked)
    for row, name in enumerate(types):
        for column, severity in enumerate(severities):
            for images in cells.parts(name, severity):
                for observer in observers.values():
                    observer.see(images)
            for observer in observers.values():
                observer.finish((row, column), cells.labels)
        said = (f"{encoder} {each.mean(row):.3f}" for encoder, each in observers.items())
        log.info(
            "%s: %s %s", name, "feature similarity" if lacking else "accuracy", ", ".join(said)
        )

    found: dict[str, Any] = {LEFT_OUT: lacking} if lacking else {}
    for encoder, observer in observers.items():
        reference = known or observers["random"].measured
        found[encoder] = _summary(observer, reference, asked, params.seed)
        if observer.measured:
            found[encoder]["error"] = dict(zip(types, observer.measured.by_type().tolist()))
            found[encoder] |= facts
        found[encoder] |= {"benchmark_types": len(_benchmark(types)), "n": len(split)}
    rows = [
        (encoder, name, severity, *observer.cell(i, j))
        for encoder, observer in observers.items()
        for i, name in enumerate(types)
        for j, severity in enumerate(severities)
    ]
    files.write_csv(PLOT, COLUMNS, rows)
    files.write_metrics(METRICS, found)


class Observer:
    """An encoder and its results in every cell.

    hits: bool [T, S, N], right predictions of the probe; ece: [T, S]; without a probe neither is filled.
    similarity: float32 [T, S, N], cosine between features of an image with and without corruption;
    filled where the images of the cells are ``paired`` with those of the split.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        probe: Probe | None,
        split: dataset.Split,
        paired: bool,
        asked: Corrupt,
    ):
        self.network, self.probe, self.paired, self.batch_size = (
            network,
            probe,
            paired,
            asked.batch_size,
        )
        self.clean = embed(network, split.images, asked.batch_size)
        cells = (len(asked.types), len(asked.severities))
        self.hits, self.ece = np.empty((*cells, len(split)), bool), np.empty(cells)
        self.similarity = np.empty((*cells, len(split)), np.float32)
        self.measured = None
        if probe:
            right = probe.logits(self.clean).argmax(axis=1) == split.labels.numpy()
            self.measured = Measured(self.hits, right)
        self._parts: list[np.ndarray] = []

    def see(self, images: torch.Tensor) -> None:
        """Embed a part uint8 [B, C, S, S] of the present cell."""
        self._parts.append(embed(self.network, images, self.batch_size))

    def finish(self, cell: tuple[int, int], labels: np.ndarray) -> None:
        """Judge the cell whose parts have been seen. labels: int64 [N]."""
        features = np.concatenate(self._parts)
        self._parts = []
        if self.paired:
            self.similarity[cell] = corruption_error.cosines(features, self.clean)
        if self.probe:
            logits = self.probe.logits(features)
            self.hits[cell] = logits.argmax(axis=1) == labels
            self.ece[cell] = calibration.ece(classification.softmax(logits), labels)

    def mean(self, row: int) -> float:
        """Accuracy, without a probe feature similarity, of one type over all severities."""
        return float((self.hits if self.probe else self.similarity)[row].mean())

    def cell(self, row: int, column: int) -> tuple[float | str, float | str, float | str]:
        """Accuracy, ECE and feature similarity; an empty text where one is not measured."""
        return (
            float(self.hits[row, column].mean()) if self.probe else "",
            float(self.ece[row, column]) if self.probe else "",
            float(self.similarity[row, column].mean()) if self.paired else "",
        )


def _cells(params: Params, split: dataset.Split, device: str) -> corrupted_sets.Cells:
    asked, size = params.corrupt, split.images.shape[-1]
    channels = split.images.shape[1]
    if asked.source == "folders":
        return corrupted_sets.Folders(
            asked.path, asked.types, asked.severities, split.classes, size, channels
        )
    if asked.source == "arrays":
        return corrupted_sets.Arrays(asked.path, asked.types, len(split.classes), size, channels)
    frost = None if asked.frost is None else corruptions.read_frost(asked.frost)
    return corrupted_sets.Generated(split, params.seed, device, frost)


def _facts(params: Params, split: dataset.Split) -> dict[str, Any]:
    """What tells the cells of a run from those of another, so that errors are not held against those on other images."""
    asked = params.corrupt
    facts = {
        "dataset": params.dataset, "source": asked.source, "severities": sorted(asked.severities), "n": len(split)
    }  # fmt: skip
    if asked.source == "generated":  # from the clean images as the encoder sees them
        facts["images"] = hashlib.sha256(split.images.numpy().tobytes()).hexdigest()[:16]
        if "frost" in asked.types:
            facts["frost"] = "photographs" if asked.frost else "procedural"
    return facts


def _places(types: Sequence[str], group: Sequence[str]) -> list[int]:
    return [place for place, name in enumerate(types) if name in group]


def _benchmark(types: Sequence[str]) -> list[str]:
    return [name for name in types if name in corruptions.BENCHMARK]


def _summary(
    own: Observer, reference: Measured | Known | None, asked: Corrupt, seed: int
) -> dict[str, float | None]:
    """The single numbers of one encoder, those that a report leads with with their intervals."""
    benchmark, extra = (
        _places(asked.types, group) for group in (corruptions.BENCHMARK, corruptions.EXTRA)
    )
    counted = benchmark or extra
    values: dict[str, float] = {}
    wanted = {}
    if own.measured:
        hits, clean = own.hits, own.measured.clean
        values["accuracy_clean"] = float(clean.mean())
        if benchmark:
            part, other = Measured(hits[benchmark], clean), reference
            if isinstance(reference, Measured):
                other = Measured(reference.hits[benchmark], reference.clean)
            wanted["mce_unnormalised"] = partial(corruption_error.mce_unnormalised, part)
            wanted["mce"] = partial(corruption_error.mce, part, other)
            values["relative_mce"] = float(corruption_error.relative_mce(part, other))
        if extra:
            wanted["mce_unnormalised_extra"] = partial(
                corruption_error.mce_unnormalised, Measured(hits[extra], clean)
            )
        by_severity = own.ece[counted].mean(axis=0)
        values |= {
            f"ece_severity_{severity}": float(mean)
            for severity, mean in zip(sorted(asked.severities), by_severity)
        }
    if own.paired:
        wanted["feature_similarity"] = partial(
            corruption_error.feature_similarity, own.similarity[counted]
        )
    values |= classification.with_intervals(wanted, own.similarity.shape[-1], asked.bootstrap, seed)
    if benchmark and own.measured and own.measured is reference:
        values |= {
            "mce_low": values["mce"],
            "mce_high": values["mce"],
        }  # 1 by definition, with any images
    return {name: value if np.isfinite(value) else None for name, value in values.items()}


if __name__ == "__main__":
    run("corrupt", main)
