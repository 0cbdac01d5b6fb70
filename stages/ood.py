"""ood: how well detectors tell images of another dataset from those of the dataset trained on.

Reads   results/embed/<dataset>, results/embed/<set>, results/linear, results/detectors,
        data/<dataset>, data/<set>, and for detectors that need the networks
        results/prediction/<dataset> and results/prediction/<set>
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

``prosmin.evaluation.ood_scores.DETECTORS`` lists the detectors. ``stages.detectors`` has fitted
them, and has scored the ID images, once for all sets.
"""

import logging
from typing import Any

import numpy as np

from prosmin.common import files
from prosmin.common.encoders import ENCODERS, TRAINED
from prosmin.common.errors import UserError
from prosmin.evaluation import ood_scores
from prosmin.metrics import detection
from stages.common import layout, pictures
from stages.common.command import check_name, run
from stages.common.features import FITTED, Features, load_features
from stages.detectors import load_detectors, to_score
from stages.linear import load_probe
from stages.params.load import Params

EXAMPLES = 32  # images kept; the report chooses among them

Pairs = dict[str, detection.Pair]  # ID and OOD scores by detector

log = logging.getLogger(__name__)


def main(params: Params, name: str = "") -> None:
    sets, dataset = params.ood.sets, params.dataset
    check_name("ood", "one of ood.sets", name, sets)
    seen = 0
    metrics: dict[str, dict[str, dict[str, float]]] = {}
    accuracy_id: dict[str, float] = {}
    curves: list[tuple[str, str, float, float]] = []
    scores: dict[str, np.ndarray] = {}
    for encoder in ENCODERS:
        inside, outside = (load_features(of, encoder) for of in (dataset, name))
        if encoder == ENCODERS[0]:
            seen = _seen_in_training(inside, outside)
        pairs, accuracy = _scores(params, encoder, inside, outside)
        del inside  # before the features of the next encoder are read
        counts = dict(zip((dataset, name), map(len, pairs["knn"]), strict=True))
        pairs |= _scores_of_networks(encoder, counts)
        if accuracy is not None:
            accuracy_id[encoder] = accuracy
        for detector, pair in pairs.items():
            try:
                detection.check(*pair)
            except UserError as error:
                where = f"OOD set {name!r}, {encoder} encoder, detector {detector}"
                raise UserError(f"{where}: {error}") from None
            curve = (column.tolist() for column in detection.roc_curve(*pair))
            curves += [(encoder, detector, *point) for point in zip(*curve, strict=True)]
            for kind, values in zip(("id", "ood"), pair, strict=True):
                scores[f"{encoder}.{detector}.{kind}"] = values
        metrics[encoder] = detection.evaluate_all(
            pairs, resamples=params.ood.bootstrap, seed=params.seed
        )
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


def _scores(
    params: Params, encoder: str, inside: Features, outside: Features
) -> tuple[Pairs, float | None]:
    """Score the test images by every detector that labels and networks allow.

    Returns the scores, and the accuracy of the linear probe on the ID images; None without a probe.
    """
    probe = load_probe(encoder)
    detectors, known = load_detectors(params, encoder, inside, probe)
    scores = detectors.score(to_score(outside, probe))
    known.check({f"id.{detector}": (files.NUMBER, "N") for detector in scores})
    pairs = {detector: (known[f"id.{detector}"], values) for detector, values in scores.items()}
    return pairs, None if probe is None else float(known["accuracy"][0])


def _scores_of_networks(encoder: str, counts: dict[str, int]) -> Pairs:
    """The scores of the test images that ``stages.prediction`` took from the networks.

    counts: of test images, of the dataset and of the OOD set.
    """
    parts = inside, outside = [_predicted(of) for of in counts]
    keys = {
        detector: f"{encoder}.{detector}"
        for detector, entry in ood_scores.DETECTORS.items()
        if entry.from_networks and any(f"{encoder}.{detector}" in part for part in parts)
    }
    for part, (of, count) in zip(parts, counts.items(), strict=True):
        part.check({key: (files.NUMBER, "N") for key in keys.values()})
        if others := {len(part[key]) for key in keys.values()} - {count}:
            raise UserError(
                f"{layout.prediction_scores(of)} has scores of {min(others)} images, and {of!r} "
                f"has {count} test images; make it anew with `python -m stages.prediction {of}`"
            )
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
