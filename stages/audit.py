"""audit: outliers, near-duplicates and likely wrong labels of a dataset, by the trained encoder.

Reads   results/embed/<name>, data/<name>
Writes  results/audit/<name>/outliers.csv, near_duplicates.csv and labels.csv: the first
            ``audit.listed`` images or pairs, the likeliest fault first, with split, row and file
        results/audit/<name>/images.parquet: a row per audited image with all its scores
        results/audit/<name>/examples.safetensors: pictures of the first rows, for the report:
            ``outliers``, ``labels`` and ``near_duplicates``, the two images of a pair one after the
            other, uint8 [n, C, H, W]
        metrics/audit/<name>.json, per encoder:
            outlier_distance: the median distance of an image to its k-th neighbour
            near_duplicates: number of pairs, by the splits of the two images, such as
                ``train, test``
            likely_wrong: share of audited images whose label is likely wrong
            label_auroc, label_ap: of labels that are made wrong at random, to tell what the audit
                of labels is worth on this dataset
            n: number of audited images
        and ``identical``, pairs of images with the same pixels by their splits, and ``images``, the
        number of images that are compared with

``prosmin.evaluation.audit`` has the methods. Up to ``audit.images`` of each split are audited, and
compared with all images of the dataset. Without labels there is no table of labels, and
``left_out`` in the metrics gives the reason.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from prosmin.common import files
from prosmin.common.compute.stacked import Stack
from prosmin.common.encoders import ENCODERS, TRAINED
from prosmin.common.seeds import generator
from prosmin.evaluation import audit
from prosmin.evaluation.audit import Neighbourhood, Pairs, Suspicion
from prosmin.metrics import classification, detection
from prosmin.metrics.uncertainty import share
from stages.common import layout, parts, pictures
from stages.common.command import LEFT_OUT, Unlabelled, check_name, run
from stages.common.features import require_labels
from stages.common.images import COLUMNS, Images
from stages.params.evaluation import Audit
from stages.params.load import Params

EXAMPLES = 32  # pictures kept of each table; the report chooses among them
FLIPPED = 0.05  # share of the labels that are made wrong to measure the audit of labels
OTHER = tuple(f"other_{name}" for name in COLUMNS)
TABLES = {  # the columns of each, behind the rank
    "outliers": ("score", *COLUMNS),
    "near_duplicates": ("ratio", "distance", "identical", *COLUMNS, *OTHER),
    "labels": ("score", "likely", "suggested", "share", *COLUMNS),
}

log = logging.getLogger(__name__)


def main(params: Params, name: str = "") -> None:
    asked, seed = params.audit, params.seed
    check_name("audit", "one of audit.datasets", name, asked.datasets)
    metrics: dict[str, Any] = {}
    for encoder in ENCODERS:
        features = parts.load(name, encoder)
        images = Images.of(features)
        joined = Stack(tuple(features.split(split)[0] for split in features.splits))
        near = Neighbourhood.find(joined, images.sample(asked.images, seed, "audit"), asked.k)
        pairs = audit.near_duplicates(near, images.digests)
        suspicion, of_labels = None, {}
        try:
            suspicion, of_labels = _suspect(asked, images, near, seed)
        except Unlabelled as error:
            metrics[LEFT_OUT] = f"{error}."
        metrics[encoder] = {
            "outlier_distance": float(np.median(near.radius)),
            "near_duplicates": _by_splits(images, pairs.chosen(~pairs.identical)),
            **of_labels,
            "n": len(near.rows),
        }
        if encoder == TRAINED:
            metrics["identical"] = _by_splits(images, pairs.chosen(pairs.identical))
            metrics["images"] = len(images.labels)
            _write(asked, images, near, pairs, suspicion)
        _tell(f"{name}, {encoder} encoder", metrics, encoder)
    files.write_metrics(layout.metrics("audit", name), metrics)


def _by_splits(images: Images, pairs: Pairs) -> dict[str, int]:
    return images.by_splits(pairs.first, pairs.second)


def _tell(where: str, metrics: dict[str, Any], encoder: str) -> None:
    """Log the number of pairs and, of labels, how many are likely wrong."""
    own = metrics[encoder]
    identical, alike = sum(metrics["identical"].values()), sum(own["near_duplicates"].values())
    told = f"{identical} identical pairs, {alike} near-duplicates"
    if "likely_wrong" in own:
        told += f", {round(own['likely_wrong'] * own['n'])} labels likely wrong"
    if "label_auroc" in own:
        told += f" (AUROC {own['label_auroc']:.3f} of labels made wrong)"
    log.info("%s: of %d images %s", where, own["n"], told)


def _suspect(
    asked: Audit, images: Images, near: Neighbourhood, seed: int
) -> tuple[Suspicion, dict[str, float]]:
    """Suspicions about the labels, and how well they find labels that are made wrong.

    Raises ``Unlabelled`` where a split has no labels.
    """
    for split, labels in images.by_split(images.labels).items():
        require_labels(labels, images.name, split)
    classes = len(images.classes)
    suspicion = audit.suspect_labels(near, images.labels, classes)
    wanted = {"likely_wrong": partial(share, suspicion.likely)}
    metrics = classification.with_intervals(wanted, len(near.rows), asked.bootstrap, seed)
    if classes < 2:
        return suspicion, metrics
    rng = generator(seed, "labels made wrong")
    labels, wrong = audit.flip(images.labels, FLIPPED, classes, rng)
    score, flipped = audit.suspect_labels(near, labels, classes).score, np.isin(near.rows, wrong)
    if flipped.any() and not flipped.all():
        right, made = score[~flipped], score[flipped]
        low, high = detection.auroc_interval(right, made, resamples=asked.bootstrap, seed=seed)
        metrics |= {
            "label_auroc": detection.auroc(right, made),
            "label_auroc_low": low,
            "label_auroc_high": high,
            "label_ap": detection.average_precision(made, right),
        }
    return suspicion, metrics


# --- tables ---------------------------------------------------------------------------------------


def _write(
    asked: Audit, images: Images, near: Neighbourhood, pairs: Pairs, suspicion: Suspicion | None
) -> None:
    """Write the tables, and pictures of their first rows."""
    scores, alike = audit.outlier_scores(near), pairs.chosen(slice(asked.listed))
    odd = _highest(scores, asked.listed)
    shown = {
        "outliers": near.rows[odd],
        "near_duplicates": np.column_stack([alike.first, alike.second]),
    }
    with files.whole_folder(layout.results("audit", images.name)) as folder:
        described = zip(scores[odd].tolist(), images.describe(near.rows[odd]), strict=True)
        _table(folder, "outliers", ((score, *image) for score, image in described))
        _table(folder, "near_duplicates", _of_pairs(images, alike))
        if suspicion is not None:
            doubtful = _highest(suspicion.score, asked.listed)
            shown["labels"] = near.rows[doubtful]
            _table(folder, "labels", _of_labels(images, near.rows, suspicion, doubtful))
        table = pyarrow.table(_columns(images, near, suspicion))
        pyarrow.parquet.write_table(table, folder / "images.parquet", compression="zstd")
        examples = {
            key: pictures.one_size(images.read(rows[:EXAMPLES].ravel()))
            for key, rows in shown.items()
            if len(rows)
        }
        files.write_arrays(folder / layout.audit_examples(images.name).name, examples)


def _highest(scores: np.ndarray, count: int) -> np.ndarray:
    """Places of the highest scores, highest first; of equal scores the first."""
    return np.argsort(-scores, kind="stable")[:count]


def _table(folder: Path, name: str, rows: Iterable[Sequence[Any]]) -> None:
    ranked = ((rank, *row) for rank, row in enumerate(rows, 1))
    files.write_csv(folder / layout.audit_table("", name).name, ("rank", *TABLES[name]), ranked)


def _of_pairs(images: Images, pairs: Pairs) -> Iterator[Sequence[Any]]:
    ones, others = images.describe(pairs.first), images.describe(pairs.second)
    numbers = zip(pairs.ratio.tolist(), pairs.distance.tolist(), pairs.identical.tolist())
    for (ratio, distance, same), one, other in zip(numbers, ones, others, strict=True):
        yield ratio, distance, int(same), *one, *other


def _of_labels(
    images: Images, rows: np.ndarray, suspicion: Suspicion, places: np.ndarray
) -> Iterator[Sequence[Any]]:
    for place, image in zip(places, images.describe(rows[places]), strict=True):
        score, share = float(suspicion.score[place]), float(suspicion.share[place])
        suggested = images.classes[suspicion.suggested[place]]
        yield score, int(suspicion.likely[place]), suggested, share, *image


def _columns(images: Images, near: Neighbourhood, suspicion: Suspicion | None) -> dict[str, Any]:
    """All scores of all audited images; ``nearest`` is a place such as ``train/17``."""
    described = zip(*images.describe(near.rows), strict=True)
    columns: dict[str, Any] = dict(zip(COLUMNS, described, strict=True))
    columns["outlier"] = audit.outlier_scores(near)
    columns["nearest"] = images.named(near.index[:, 0])
    columns["nearest_distance"] = near.distance[:, 0]
    columns["nearest_ratio"] = near.ratio[:, 0]
    if suspicion is not None:
        columns["label_doubt"] = suspicion.score
        columns["likely_wrong"] = suspicion.likely
        columns["suggested"] = [images.classes[label] for label in suspicion.suggested]
    return columns


if __name__ == "__main__":
    run("audit", main)
