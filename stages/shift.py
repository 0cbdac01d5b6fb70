"""shift: the linear probe on images of the same classes from elsewhere, such as ImageNet-A, -R, -V2 or Sketch.

Reads   results/embed/<dataset>, results/embed/<name>, results/linear, data/<dataset>, data/<name> (whose classes have names)
Writes  metrics/shift/<name>.json: for each encoder what ``prosmin.evaluation.linear_probe.classification_metrics`` reports of its test split, and
            accuracy_clean, that of the test images of the dataset trained on, of the same classes
        plots/shift/<name>.csv: the reliability diagram, before and after temperature

Where one of the two has no labels there is nothing to measure: ``left_out`` in the metrics gives the reason.

Where the set has a part of the classes, as ImageNet-A and -R have 200 of 1000, the probe chooses among those (Hendrycks et al. 2021,
Natural adversarial examples, and The many faces of robustness). Classes are matched by their names.
"""

import logging
from pathlib import Path

import numpy as np

from prosmin.common import files
from prosmin.common.errors import UserError, nearest
from prosmin.data.dataset import read_manifest
from prosmin.evaluation.linear_probe import classification_metrics, reliability_rows
from prosmin.metrics import classification
from stages.common.command import Unlabelled, check_name, leave_out, run
from stages.common.features import ENCODERS, load_features
from stages.common.probing import load_probe
from stages.linear import RELIABILITY
from stages.params.load import Params

log = logging.getLogger(__name__)


def main(params: Params, name: str = "") -> None:
    asked = params.shift
    check_name("shift", "one of shift.sets", name, asked.sets)
    metrics_file, reliability = f"metrics/shift/{name}.json", f"plots/shift/{name}.csv"
    try:
        columns, place = matched(params.dataset, name)
    except Unlabelled as error:
        return leave_out(error, metrics_file, reliability, RELIABILITY)
    chosen = np.unique(columns)
    found, rows = {}, []
    for encoder in ENCODERS:
        probe = load_probe(encoder)
        features, labels = load_features(name, encoder).labelled("test")
        logits = probe.logits(features)[:, chosen]
        truth = np.searchsorted(chosen, columns[labels])
        values = classification_metrics(
            logits, truth, probe.temperature, asked.bootstrap, params.seed
        )
        clean, known = load_features(params.dataset, encoder).labelled("test")
        inside = np.isin(known, chosen)
        at_home = classification.accuracy(
            probe.logits(clean[inside])[:, chosen], np.searchsorted(chosen, known[inside])
        )
        found[encoder] = values | {
            "accuracy_clean": float(at_home),
            "classes": len(chosen),
            "n": len(labels),
        }
        rows += [(encoder, *row) for row in reliability_rows(logits, truth, probe.temperature)]
        log.info(
            "%s, %s encoder: accuracy %.4f [%.4f, %.4f] among %d of %d classes, on clean images %.4f",
            name, encoder, *(values[key] for key in ("accuracy", "accuracy_low", "accuracy_high")),
            len(chosen), len(place), at_home,
        )  # fmt: skip
    files.write_csv(reliability, RELIABILITY, rows)
    files.write_metrics(metrics_file, found)


def matched(dataset: str, name: str) -> tuple[np.ndarray, dict[str, int]]:
    """For each class of ``name`` the number that it has in ``dataset``, int64 [K], and all of those by name.

    Raises ``Unlabelled``.
    """
    ours, theirs = (read_manifest(Path("data") / each)["classes"] for each in (dataset, name))
    for each, classes in ((dataset, ours), (name, theirs)):
        if not classes:
            raise Unlabelled(f"dataset {each!r} has no labels")
    place = {label: number for number, label in enumerate(ours)}
    for label in theirs:
        if label not in place:
            raise UserError(
                f"class {label!r} of {name} is no class of {dataset}{nearest(label, place)}"
            )
    return np.array([place[label] for label in theirs]), place


if __name__ == "__main__":
    run("shift", main)
