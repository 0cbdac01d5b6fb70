"""ood: how well detectors tell images of another dataset from those of the dataset trained on.

Reads   results/embed/<dataset>, results/embed/<set>, results/linear, data/<dataset>, data/<set>,
        and for detectors that need the networks results/prediction/<dataset> and
        results/prediction/<set>
Writes  metrics/ood/<set>.json: per encoder and detector the metrics of
            ``prosmin.metrics.detection.evaluate``; accuracy_id: accuracy of the linear probe on the
            in-distribution (ID) test images; labelled: false where the dataset has no labels, which
            leaves out the detectors that need them; n_seen_in_training: number of OOD images whose
            pixels, as the network sees them, are those of a training image
        plots/ood/<set>.csv: ROC curves
        results/ood/<set>/scores.safetensors: ``<encoder>.<detector>.id`` and ``.ood``, float64 [N],
            a score per test image
        results/ood/<set>/examples.safetensors: ``images``, OOD test images at evenly spaced ranks
            of the trained encoder's k-NN score, lowest first, uint8 [n, C, H, W], and ``index``,
            their rows, int64 [n]; ``id_images`` and ``id_index``: the same of ID test images

``prosmin.evaluation.ood_scores.DETECTORS`` lists the detectors.
"""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from prosmin.common import files
from prosmin.common.encoders import ENCODERS, TRAINED
from prosmin.common.errors import UserError
from prosmin.evaluation import ood_scores
from prosmin.evaluation.linear_probe import Probe
from prosmin.evaluation.ood_detectors import Sample, Settings
from prosmin.metrics import classification, detection
from stages.common import layout, pictures
from stages.common.command import check_name, run
from stages.common.features import FITTED, Features, load_features
from stages.linear import load_probe
from stages.params.load import Params

EXAMPLES = 32  # images kept; the report chooses among them

Pairs = dict[str, tuple[np.ndarray, np.ndarray]]  # ID and OOD scores by detector

log = logging.getLogger(__name__)


def main(params: Params, name: str = "") -> None:
    sets, dataset = params.ood.sets, params.dataset
    check_name("ood", "one of ood.sets", name, sets)
    seen = _seen_in_training(*(load_features(of, ENCODERS[0]) for of in (dataset, name)))
    metrics: dict[str, dict[str, dict[str, float]]] = {}
    accuracy_id: dict[str, float] = {}
    curves: list[tuple[str, str, float, float]] = []
    scores: dict[str, np.ndarray] = {}
    for encoder in ENCODERS:
        inside, outside = (load_features(of, encoder) for of in (dataset, name))
        probe = load_probe(encoder)
        pairs = _scores(params, inside, outside, probe) | _scores_of_networks(
            dataset, name, encoder
        )
        metrics[encoder] = {}
        for detector, pair in pairs.items():
            try:
                metrics[encoder][detector] = detection.evaluate(
                    *pair, resamples=params.ood.bootstrap, seed=params.seed
                )
            except UserError as error:
                where = f"OOD set {name!r}, {encoder} encoder, detector {detector}"
                raise UserError(f"{where}: {error}") from None
            curve = (column.tolist() for column in detection.roc_curve(*pair))
            curves += [(encoder, detector, *point) for point in zip(*curve, strict=True)]
            for kind, values in zip(("id", "ood"), pair, strict=True):
                scores[f"{encoder}.{detector}.{kind}"] = values
        if probe is not None:
            features, labels = inside.labelled("test")
            accuracy_id[encoder] = classification.accuracy(probe.logits(features), labels)
        aurocs = (f"{detector} {row['auroc']:.3f}" for detector, row in metrics[encoder].items())
        log.info("%s, %s encoder: AUROC %s", name, encoder, ", ".join(aurocs))

    knn_id, knn_ood = (scores[f"{TRAINED}.knn.{kind}"] for kind in ("id", "ood"))
    with files.whole_folder(layout.results("ood", name)) as folder:
        files.write_arrays(folder / layout.ood_scores(name).name, scores)
        examples = _examples(name, knn_ood, "") | _examples(dataset, knn_id, "id_")
        files.write_arrays(folder / layout.ood_examples(name).name, examples)
    files.write_csv(layout.plot("ood", name), ("encoder", "detector", "fpr", "tpr"), curves)
    facts: dict[str, Any] = {
        "distance": sets[name],
        "labelled": bool(accuracy_id),
        "n_id": len(knn_id),
        "n_ood": len(knn_ood),
        "n_seen_in_training": seen,
    }
    if accuracy_id:
        facts["accuracy_id"] = accuracy_id
    files.write_metrics(layout.metrics("ood", name), metrics | facts)


def _seen_in_training(inside: Features, outside: Features) -> int:
    """Count the OOD test images that have the pixels of a training image, and warn of them.

    No detector can tell a familiar image to be new.
    """
    training = np.concatenate([inside.digests(split) for split in FITTED if split in inside.splits])
    seen = int(np.isin(outside.digests("test"), training).sum())
    if seen:
        log.warning(
            "%d of %d images of OOD set %s are, to the pixel, training images of %s: "
            "its numbers are not to be trusted",
            seen, len(outside.digests("test")), outside.dataset, inside.dataset,
        )  # fmt: skip
    return seen


def _scores(params: Params, inside: Features, outside: Features, probe: Probe | None) -> Pairs:
    """Score the test images by every detector that labels and networks allow."""
    asked = params.ood
    train = _training(inside, probe)
    parts = inside.split("test"), outside.split("test")
    features, _, log_sigma = map(_joined, zip(*parts, strict=True))
    query = Sample(
        features, log_sigma=log_sigma, logits=None if probe is None else probe.logits(features)
    )
    settings = Settings(asked.k, asked.temperature, asked.shrinkage, asked.vim_dim, params.seed)
    count = len(parts[0][0])
    return {
        detector: (values[:count], values[count:])
        for detector, values in ood_scores.score_all(train, query, settings).items()
    }


def _training(inside: Features, probe: Probe | None) -> Sample:
    """All images that detectors may be fitted to; no labels where any image lacks its label."""
    parts = [inside.split(split) for split in FITTED if split in inside.splits]
    if not parts:
        raise UserError(
            f"dataset {inside.dataset!r} has no train split for the detectors to be fitted to"
        )
    features, labels, log_sigma = map(_joined, zip(*parts, strict=True))
    return Sample(
        features,
        log_sigma=log_sigma,
        labels=labels if (labels >= 0).all() else None,
        head=None if probe is None else probe.linear,
    )


def _joined(parts: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """The arrays end to end; None where any is missing."""
    return None if any(part is None for part in parts) else np.concatenate(parts)


def _scores_of_networks(dataset: str, name: str, encoder: str) -> Pairs:
    """The scores of the test images that ``stages.prediction`` took from the networks."""
    parts = inside, outside = _predicted(dataset), _predicted(name)
    keys = {
        detector: f"{encoder}.{detector}"
        for detector, entry in ood_scores.DETECTORS.items()
        if entry.from_networks and any(f"{encoder}.{detector}" in part for part in parts)
    }
    for part in parts:
        part.check({key: (files.NUMBER, "N") for key in keys.values()})
    return {detector: (inside[key], outside[key]) for detector, key in keys.items()}


def _predicted(name: str) -> files.Arrays:
    path = layout.prediction_scores(name)
    try:
        return files.read_arrays(path)
    except FileNotFoundError:
        raise UserError(
            f"{path} does not exist; run `dvc repro` or `python -m stages.prediction {name}`"
        ) from None


# --- examples -------------------------------------------------------------------------------------


def _examples(dataset: str, scores: np.ndarray, prefix: str) -> dict[str, np.ndarray]:
    """Test images of the dataset at evenly spaced ranks of their scores, and their rows."""
    rows = detection.spread(scores, EXAMPLES)
    images = pictures.read(pictures.open_stored(dataset, "test"), rows)
    return {f"{prefix}images": pictures.one_size(images), f"{prefix}index": rows}


if __name__ == "__main__":
    run("ood", main)
