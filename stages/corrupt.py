"""corrupt: accuracy and calibration of the linear probe, and features, on corrupted test images.

Reads   data/<dataset>, results/pretrain, results/linear, results/calibrate, and the paths of
        corrupt.path, corrupt.frost and corrupt.reference
Writes  metrics/corrupt.json, for each encoder:
            accuracy_clean: accuracy on clean images
            mce_unnormalised, mce, relative_mce: over the types of the benchmark
                (``prosmin.metrics.corruption_error``); a ratio that its reference leaves undefined
                is null
            ece_severity_<s>: mean over types of the uncalibrated ECE
            conformal_coverage_severity_<s>, conformal_size_severity_<s>: mean over types, of the
                conformal sets of the linear probe
            mce_unnormalised_extra: over the extra types
            calibration: per way of ``prosmin.evaluation.ways`` nll_corrupted and
                ece_corrupted, and both by severity
            errors: per type the mean over severities
            feature_similarity: between corrupted and clean images
            benchmark_types: number of types of the benchmark
            dataset, source, severities, n: which images were measured; images: of generated ones,
                a checksum of the clean images
        plots/corrupt/accuracy.csv: accuracy, ECE and feature similarity per encoder, type and
            severity

Without labels the feature similarity alone is measured, and ``left_out`` in the metrics gives the
reason. The images of ``source: folders`` are not paired with clean ones, so their features are not
compared.

Images are resized to the encoder's input first and then corrupted, as CIFAR-10-C and ImageNet-C
are: that size chooses the constants (``prosmin.corruptions``). Each cell is corrupted once and seen
by both encoders. Generated cells are comparable with each other, not with published numbers, which
belong to the published files (``corrupt.source``). ``corrupt.images`` limits generated cells, and
the clean images beside them, to a sample of the test images.
"""

import hashlib
import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from prosmin.common import files
from prosmin.common.compute.backend import chunks
from prosmin.common.encoders import ENCODERS, UNTRAINED
from prosmin.common.seeds import sample_rows
from prosmin.corruptions.textures import read_frost
from prosmin.data import dataset
from prosmin.evaluation import corrupted_sets, robustness
from prosmin.evaluation.embedding import embed_parts
from prosmin.metrics import corruption_error
from prosmin.models import store
from stages.common import layout
from stages.common.command import LEFT_OUT, Unlabelled, needs_labels, run
from stages.common.features import require_labels
from stages.common.recalibration import load_recalibration
from stages.linear import load_probe
from stages.params.load import Params

IMAGENET_C = 50_000  # images of each cell
COLUMNS = ("encoder", "type", "severity", "accuracy", "ece", "feature_similarity")

log = logging.getLogger(__name__)


@needs_labels(layout.metrics("corrupt"), layout.CORRUPTION_ACCURACY, COLUMNS)
def main(params: Params) -> None:
    asked = params.corrupt
    types, severities = asked.types, sorted(asked.severities)
    description, _ = store.load_description(layout.PRETRAINED)
    split = dataset.load_split(
        f"data/{params.dataset}", "test", description.frame, description.channels
    )
    if asked.images is not None:
        split = _sample(split, asked.images, params.seed)
    lacking = None
    try:
        require_labels(split.labels.numpy(), params.dataset, "test")
    except Unlabelled as error:
        if asked.source != "generated":
            raise
        lacking = f"{error}."
    cells = _cells(params, split)
    if not lacking:
        corrupted_sets.check_labels(cells, split, params.dataset)
    facts = _facts(params, split)
    known = None if lacking else _known_errors(params, facts)

    networks = [store.load_encoder(layout.PRETRAINED, encoder) for encoder in ENCODERS]
    size, observers = (len(types), len(severities)), {}
    for encoder, clean in zip(ENCODERS, _clean(networks, split, asked.batch_size), strict=True):
        probe = None if lacking else load_probe(encoder)
        ways = load_recalibration(encoder) if probe else None
        observers[encoder] = robustness.Observer(clean, probe, split, cells.paired, size, ways)
    names = [(name, severity) for name in types for severity in severities]
    features = robustness.features_by_cell(networks, cells, names, asked.batch_size)
    for place, seen in zip(np.ndindex(size), features, strict=True):
        for observer, of_encoder in zip(observers.values(), seen, strict=True):
            observer.see(place, of_encoder, cells.labels)
        row, column = place
        if column == size[1] - 1:
            means = (f"{encoder} {seer.mean(row):.3f}" for encoder, seer in observers.items())
            measure = "feature similarity" if lacking else "accuracy"
            log.info("%s: %s %s", types[row], measure, ", ".join(means))

    metrics: dict[str, Any] = {LEFT_OUT: lacking} if lacking else {}
    for encoder, observer in observers.items():
        metrics[encoder] = robustness.summarise(
            observer,
            known or observers[UNTRAINED].measured,
            types,
            severities,
            asked.bootstrap,
            params.seed,
        )
        if observer.measured:
            metrics[encoder]["errors"] = dict(zip(types, observer.measured.by_type().tolist()))
            metrics[encoder] |= facts
        if observer.recalibrated:
            metrics[encoder]["calibration"] = observer.recalibrated.summarise(
                robustness.counted(types), severities, asked.bootstrap, params.seed
            )
        count = len(robustness.benchmark_types(types))
        metrics[encoder] |= {"benchmark_types": count, "n": len(split)}
    rows = [
        (encoder, name, severity, *observer.cell(i, j))
        for encoder, observer in observers.items()
        for i, name in enumerate(types)
        for j, severity in enumerate(severities)
    ]
    files.write_csv(layout.CORRUPTION_ACCURACY, COLUMNS, rows)
    files.write_metrics(layout.metrics("corrupt"), metrics)


def _clean(
    networks: Sequence[nn.Module], split: dataset.Split, batch_size: int
) -> list[np.ndarray]:
    """The features [N, F] of the clean images, per network."""
    rows = chunks(len(split), batch_size)
    batches = [partial(split.images.__getitem__, batch) for batch in rows]
    parts = embed_parts(networks, batches, batch_size)
    return [np.concatenate(of_network) for of_network in zip(*parts, strict=True)]


def _sample(split: dataset.Split, limit: int, seed: int) -> dataset.Split:
    """Images of ``split`` drawn at random, whatever their class; all where there are fewer."""
    rows = torch.from_numpy(sample_rows(len(split), limit, seed, "corrupted images"))
    return dataset.Split(split.images[rows], split.labels[rows], split.classes)


def _cells(params: Params, split: dataset.Split) -> corrupted_sets.Cells:
    """The corrupted images of ``corrupt.source``."""
    asked, size = params.corrupt, split.images.shape[-1]
    channels = split.images.shape[1]
    if asked.source == "folders":
        return corrupted_sets.Folders(
            asked.path, asked.types, asked.severities, split.classes, size, channels
        )
    if asked.source == "arrays":
        return corrupted_sets.Arrays(asked.path, asked.types, len(split.classes), size, channels)
    frost = None if asked.frost is None else read_frost(asked.frost)
    return corrupted_sets.Generated(split, params.seed, frost)


def _facts(params: Params, split: dataset.Split) -> dict[str, Any]:
    """Which images the cells hold: errors compare only with errors on the same images."""
    asked = params.corrupt
    facts: dict[str, Any] = {
        "dataset": params.dataset,
        "source": asked.source,
        "severities": sorted(asked.severities),
        "n": len(split),
    }
    if asked.source == "generated":  # from the clean images as the encoder sees them
        facts["images"] = hashlib.sha256(split.images.numpy().tobytes()).hexdigest()[:16]
        if "frost" in asked.types:
            facts["frost"] = "photographs" if asked.frost else "procedural"
    return facts


def _known_errors(params: Params, facts: dict[str, Any]) -> corruption_error.Known | None:
    """The errors of ``corrupt.reference``; None where it is the untrained encoder."""
    asked = params.corrupt
    if asked.reference == "random":
        return None
    known = corruption_error.known(asked.reference, robustness.benchmark_types(asked.types), facts)
    if asked.reference == "alexnet" and facts["n"] != IMAGENET_C:
        log.warning(
            "mCE against AlexNet: its errors are of %d images, here there are %d",
            *(IMAGENET_C, facts["n"]),
        )
    return known


if __name__ == "__main__":
    run("corrupt", main)
