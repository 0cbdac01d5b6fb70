"""shift: the linear probe on images of the same classes from elsewhere, such as ImageNet-A or -R.

Reads   results/embed/<dataset>, results/embed/<name>, results/linear, results/calibrate,
        data/<dataset>, data/<name>
Writes  metrics/shift/<name>.json: per encoder the metrics of
            ``prosmin.evaluation.linear_probe.classification_metrics`` on the test split of the set;
            calibration: nll and ece of each way of ``prosmin.evaluation.ways``;
            accuracy_clean: accuracy on the test images of the dataset trained on, of the same
            classes
        plots/shift/<name>.csv: the reliability diagram, before and after temperature scaling

Where one of the two has no labels there is nothing to measure, and ``left_out`` in the metrics
gives the reason.

Classes are matched by their names. Where the set has a part of the classes, as ImageNet-A and -R
have 200 of 1000, the probe chooses among those (Hendrycks et al. 2021, Natural adversarial
examples, and The many faces of robustness).
"""

import logging
from pathlib import Path

import numpy as np

from prosmin.common import files
from prosmin.common.encoders import ENCODERS
from prosmin.common.errors import UserError, nearest
from prosmin.data.dataset import read_manifest
from prosmin.evaluation.linear_probe import classification_metrics, reliability_rows
from prosmin.evaluation.recalibration import calibration_metrics
from prosmin.metrics import classification
from stages.common import layout
from stages.common.command import Unlabelled, check_name, needs_labels, run
from stages.common.features import load_features
from stages.common.recalibration import load_recalibration
from stages.linear import RELIABILITY_COLUMNS, load_probe
from stages.params.load import Params

log = logging.getLogger(__name__)


@needs_labels(layout.metrics("shift", "{}"), layout.plot("shift", "{}"), RELIABILITY_COLUMNS)
def main(params: Params, name: str = "") -> None:
    asked = params.shift
    check_name("shift", "one of shift.sets", name, asked.sets)
    columns, count = match_classes(params.dataset, name)
    chosen = np.unique(columns)
    metrics, rows = {}, []
    for encoder in ENCODERS:
        probe = load_probe(encoder)
        features, labels = load_features(name, encoder).labelled("test")
        logits = probe.logits(features)[:, chosen]
        truth = np.searchsorted(chosen, columns[labels])
        ways = load_recalibration(encoder)
        scored = classification_metrics(
            logits, truth, probe.temperature, probe.threshold, asked.bootstrap, params.seed
        )
        rows += [(encoder, *row) for row in reliability_rows(logits, truth, probe.temperature)]

        clean, clean_labels = load_features(params.dataset, encoder).labelled("test")
        inside = np.isin(clean_labels, chosen)
        clean_logits = probe.logits(clean[inside])[:, chosen]
        clean_truth = np.searchsorted(chosen, clean_labels[inside])
        accuracy_clean = float(classification.accuracy(clean_logits, clean_truth))
        metrics[encoder] = scored | {
            "accuracy_clean": accuracy_clean,
            "classes": len(chosen),
            "n": len(labels),
        }
        if ways is not None:
            metrics[encoder]["calibration"] = {
                method: calibration_metrics(of[:, chosen], truth, asked.bootstrap, params.seed)
                for method, of in ways.each(probe, features)
            }
        log.info(
            "%s, %s encoder: accuracy %.4f [%.4f, %.4f] among %d of %d classes, "
            "on clean images %.4f",
            *(name, encoder),
            *(scored[key] for key in ("accuracy", "accuracy_low", "accuracy_high")),
            *(len(chosen), count, accuracy_clean),
        )
    files.write_csv(layout.plot("shift", name), RELIABILITY_COLUMNS, rows)
    files.write_metrics(layout.metrics("shift", name), metrics)


def match_classes(dataset: str, name: str) -> tuple[np.ndarray, int]:
    """Match the classes of ``name`` to those of ``dataset`` by their names.

    Returns the number in ``dataset`` of each class of ``name``, int64 [K], and how many classes
    ``dataset`` has. Raises ``Unlabelled`` where one has no labels.
    """
    ours, theirs = (read_manifest(Path("data") / of)["classes"] for of in (dataset, name))
    for of, classes in ((dataset, ours), (name, theirs)):
        if not classes:
            raise Unlabelled(f"dataset {of!r} has no labels")
    place = {label: number for number, label in enumerate(ours)}
    for label in theirs:
        if label not in place:
            raise UserError(
                f"class {label!r} of {name} is no class of {dataset}{nearest(label, place)}"
            )
    return np.array([place[label] for label in theirs]), len(place)


if __name__ == "__main__":
    run("shift", main)
