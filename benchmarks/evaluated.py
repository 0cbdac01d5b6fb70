"""The whole evaluation of a trained model in this process, without files of the pipeline."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from benchmarks.packed import Data
from prosmin.common.seeds import sample_rows
from prosmin.corruptions import BENCHMARK, SEVERITIES
from prosmin.data.dataset import Split
from prosmin.evaluation import (
    corrupted_sets,
    knn,
    linear_probe,
    robustness,
    uncertainty,
)
from prosmin.evaluation.embedding import describe, embed
from prosmin.evaluation.ood_detectors import Sample, Settings
from prosmin.evaluation.ood_scores import Fitted
from prosmin.metrics import calibration, classification, detection
from prosmin.metrics.prediction import rank_correlation
from prosmin.metrics.uncertainty import entropy, r_auroc
from prosmin.objectives.base import Objective

DEFAULTS = yaml.safe_load((Path(__file__).parents[1] / "params.yaml").read_text())


def evaluated(model: Objective, data: Data, seed: int, corrupted: int) -> dict[str, Any]:
    """All numbers of the table, by name."""
    probes, knns, ood = DEFAULTS["linear"], DEFAULTS["knn"], DEFAULTS["ood"]
    parts = {split: getattr(data, split) for split in ("train", "val", "test")}
    seen = {split: describe(model, part.images) for split, part in parts.items()}
    labelled = [(seen[split].features, part.labels.numpy()) for split, part in parts.items()]
    evaluation = linear_probe.evaluate_probe(*labelled, probes["l2"], 200, seed)
    near, _ = knn.evaluate_knn(*labelled, knns["k"], knns["temperature"], 200, seed)
    keys = ("accuracy", "ece", "ece_calibrated", "nll", "nll_calibrated")
    metrics = {f"linear_{key}": evaluation.metrics[key] for key in keys}
    metrics |= {"knn_accuracy": near["accuracy"]}
    probe, test = evaluation.probe, seen["test"]

    bank = np.concatenate([labelled[0][0], labelled[1][0]])
    labels = np.concatenate([labelled[0][1], labelled[1][1]])
    train = Sample(bank, labels=labels, head=probe.linear)
    wanted = Settings(ood["k"], ood["temperature"], ood["shrinkage"], ood["vim_dim"], seed)
    detectors = Fitted.fit(train, wanted)
    inside = detectors.score(Sample(test.features, logits=probe.logits(test.features)))
    aurocs: dict[str, dict[str, float]] = {}
    for name, images in data.others.items():
        features = embed(model.encoder, images)
        outside = detectors.score(Sample(features, logits=probe.logits(features)))
        for detector, scores in outside.items():
            auroc = detection.auroc(inside[detector], scores)
            aurocs.setdefault(detector, {})[name] = auroc
    metrics["ood_auroc"] = aurocs

    right = uncertainty.right_in_bank((bank, labels), labelled[2])
    doubts = {name: values.astype(np.float64) for name, values in test.doubts.items()}
    doubts["feature_norm"] = uncertainty.feature_norm(test.features)
    doubts["knn_distance"] = uncertainty.knn_distance(bank, test.features, 10)
    metrics["r_auroc"] = {name: r_auroc(values, right) for name, values in doubts.items()}
    people = entropy(data.human)
    metrics["human_correlation"] = {
        name: float(rank_correlation(values, people)) for name, values in doubts.items()
    }
    return metrics | corruption(model, probe, data.test, seed, corrupted)


def corruption(
    model: Objective, probe: linear_probe.Probe, test: Split, seed: int, count: int
) -> dict[str, float]:
    """Error and ECE of the probe, means over the 15 types at all severities, of some images."""
    rows = torch.from_numpy(sample_rows(len(test), count, seed, "corrupted images"))
    split = Split(test.images[rows], test.labels[rows], ())
    cells = corrupted_sets.Generated(split, seed)
    names = [(name, severity) for name in BENCHMARK for severity in SEVERITIES]
    errors, eces = [], []
    for (features,) in robustness.features_by_cell([model.encoder], cells, names, 512):
        logits = probe.logits(features)
        errors.append(1 - float(classification.accuracy(logits, cells.labels)))
        eces.append(float(calibration.ece(classification.softmax(logits), cells.labels)))
    return {"corruption_error": float(np.mean(errors)), "corruption_ece": float(np.mean(eces))}
