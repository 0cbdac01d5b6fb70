"""ood: how well the test images of another dataset are told from those of the dataset trained on.

Reads   results/embed/<dataset>, results/embed/<set>, results/linear, data/<dataset>, data/<set>, and for the detectors
            that need the network itself results/prediction/<dataset>, results/prediction/<set>
Writes  metrics/ood/<set>.json: for each encoder what ``prosmin.metrics.detection.evaluate`` says of each detector; the probe's
            accuracy_id beside it; labelled: false when the dataset has no labels, so that detectors which need them
            are left out; n_seen_in_training: how many of the OOD images are, pixel by pixel as the network sees them,
            training images
        plots/ood/<set>.csv: ROC curves
        results/ood/<set>/scores.safetensors: ``<encoder>.<detector>.id`` and ``.ood``, float64 [N] of each test image
        results/ood/<set>/examples.safetensors: OOD test images ``images`` uint8 [n,C,H,W] at evenly spaced ranks of the
            trained encoder's k-NN score, lowest first, and their rows ``index`` int64 [n]; ID images as ``id_images``
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from prosmin.common import files
from prosmin.common.errors import UserError, nearest
from prosmin.data import picture
from prosmin.data.arrow import SplitReader
from prosmin.evaluation import ood_scores
from prosmin.evaluation.linear_probe import Probe
from prosmin.metrics import classification, detection
from stages.common.command import run
from stages.common.features import ENCODERS, Features, load_features
from stages.common.probing import load_probe
from stages.params.load import Ood, Params

FITTED = ("train", "val")  # splits of the dataset trained on
PREDICTED = ("view_score", "view_score_constant", "disagreement", "disagreement_constant")
EXAMPLES = 32  # as many as a report may show; it chooses among them
LARGEST = 224  # pixels a side of an example

log = logging.getLogger(__name__)


def main(params: Params, name: str = "") -> None:
    sets = params.ood.sets
    if name not in sets:
        raise UserError(
            f"ood needs one of ood.sets, not {name!r}; params.yaml has {', '.join(sets)}{nearest(name, sets)}"
        )
    seen = _seen_in_training(
        load_features(params.dataset, ENCODERS[0]), load_features(name, ENCODERS[0])
    )
    found: dict[str, dict[str, dict[str, float]]] = {}
    scores: dict[str, np.ndarray] = {}
    curves: list[tuple[str, str, float, float]] = []
    accuracy_id = {}
    for encoder in ENCODERS:
        inside, outside = load_features(params.dataset, encoder), load_features(name, encoder)
        train = _training(inside)
        probe = load_probe(encoder)
        measured = [_predicted(each, encoder) for each in (params.dataset, name)]
        found[encoder] = {}
        pairs = _scores(params.ood, params.seed, train, inside, outside, probe)
        pairs |= {score: (values, measured[1][score]) for score, values in measured[0].items()}
        for detector, pair in pairs.items():
            try:
                found[encoder][detector] = detection.evaluate(
                    *pair, resamples=params.ood.bootstrap, seed=params.seed
                )
            except UserError as error:
                raise UserError(
                    f"OOD set {name!r}, {encoder} encoder, detector {detector}: {error}"
                ) from None
            fpr, tpr = detection.roc_curve(*pair)
            curves += [
                (encoder, detector, *point)
                for point in zip(fpr.tolist(), tpr.tolist(), strict=True)
            ]
            scores |= {
                f"{encoder}.{detector}.{kind}": each
                for kind, each in zip(("id", "ood"), pair, strict=True)
            }
        if probe is not None:
            features, labels = inside.labelled("test")
            accuracy_id[encoder] = classification.accuracy(probe.logits(features), labels)
        said = ", ".join(
            f"{detector} {values['auroc']:.3f}" for detector, values in found[encoder].items()
        )
        log.info("%s, %s encoder: AUROC %s", name, encoder, said)

    by_knn = {kind: scores[f"trained.knn.{kind}"] for kind in ("id", "ood")}
    with files.whole_folder(Path("results/ood") / name) as folder:
        files.write_arrays(folder / "scores.safetensors", scores)
        examples = _examples(name, by_knn["ood"], "") | _examples(
            params.dataset, by_knn["id"], "id_"
        )
        files.write_arrays(folder / "examples.safetensors", examples)
    files.write_csv(f"plots/ood/{name}.csv", ("encoder", "detector", "fpr", "tpr"), curves)
    facts: dict[str, Any] = {"distance": sets[name], "labelled": bool(accuracy_id)}
    facts |= {f"n_{kind}": len(each) for kind, each in by_knn.items()} | {
        "n_seen_in_training": seen
    }
    if accuracy_id:
        facts["accuracy_id"] = accuracy_id
    files.write_metrics(f"metrics/ood/{name}.json", found | facts)


def _seen_in_training(inside: Features, outside: Features) -> int:
    """How many OOD test images have the pixels of a training image: what is familiar cannot be found to be novel."""
    training = np.concatenate([inside.digests(split) for split in FITTED if split in inside.splits])
    seen = int(np.isin(outside.digests("test"), training).sum())
    if seen:
        log.warning(
            "%d of %d images of OOD set %s are, to the pixel, training images of %s: its numbers are not to be trusted",
            seen, len(outside.digests("test")), outside.dataset, inside.dataset,
        )  # fmt: skip
    return seen


def _training(inside: Features) -> ood_scores.Sample:
    """All that may be fitted to: train and val. Without labels where any image lacks its own."""
    parts = [inside.split(split) for split in FITTED if split in inside.splits]
    if not parts:
        raise UserError(
            f"dataset {inside.dataset!r} has no train split for the detectors to be fitted to"
        )
    features, labels, log_sigma = map(_joined, zip(*parts, strict=True))
    return ood_scores.Sample(
        features, log_sigma=log_sigma, labels=labels if (labels >= 0).all() else None
    )


def _joined(parts: Sequence[np.ndarray | None]) -> np.ndarray | None:
    return None if any(part is None for part in parts) else np.concatenate(parts)


def _predicted(name: str, encoder: str) -> dict[str, np.ndarray]:
    """The scores by detector, of each test image, that ``stages.prediction`` has taken from the network."""
    path = Path("results/prediction") / name / "scores.safetensors"
    try:
        arrays = files.read_arrays(path)
    except FileNotFoundError:
        raise UserError(
            f"{path} does not exist; run `dvc repro` or `python -m stages.prediction {name}`"
        ) from None
    there = [detector for detector in PREDICTED if f"{encoder}.{detector}" in arrays]
    arrays.check({f"{encoder}.{detector}": (files.NUMBER, "N") for detector in there})
    return {detector: arrays[f"{encoder}.{detector}"] for detector in there}


def _scores(
    settings: Ood,
    seed: int,
    train: ood_scores.Sample,
    inside: Features,
    outside: Features,
    probe: Probe | None,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """ID and OOD scores of the test splits by every detector that the labels allow."""
    parts = inside.split("test"), outside.split("test")
    features, _, log_sigma = map(_joined, zip(*parts, strict=True))
    query = ood_scores.Sample(
        features, log_sigma=log_sigma, logits=None if probe is None else probe.logits(features)
    )
    train = replace(train, head=None if probe is None else probe.linear)
    tuning = ood_scores.Settings(
        settings.k, settings.temperature, settings.shrinkage, settings.vim_dim, seed
    )
    count = len(parts[0][0])
    return {
        name: (both[:count], both[count:])
        for name, both in ood_scores.score_all(train, query, tuning).items()
    }


# --- examples -------------------------------------------------------------------------------------


def _examples(dataset: str, scores: np.ndarray, prefix: str) -> dict[str, np.ndarray]:
    rows = detection.spread(scores, EXAMPLES)
    return {f"{prefix}images": _one_size(_read(dataset, rows)), f"{prefix}index": rows}


def _read(dataset: str, rows: np.ndarray) -> list[np.ndarray]:
    """These test images as they were fetched, uint8 [H,W,C]; no others are decoded."""
    path = Path("data") / dataset / "test.arrow"
    if not path.exists():
        raise UserError(
            f"{path} does not exist; run `dvc repro` or `python -m stages.fetch {dataset}`"
        )
    reader = SplitReader(path)
    layout, stored = reader.layout, [reader.image(int(row)).to_pybytes() for row in rows]
    if layout.encoding == "raw":
        return [
            np.frombuffer(each, np.uint8).reshape(layout.height, layout.width, layout.channels)
            for each in stored
        ]
    return [picture.decode(each, layout.channels) for each in stored]


def _one_size(pictures: list[np.ndarray]) -> np.ndarray:
    """uint8 [n,C,H,W]: as they are, or, where sizes differ or are large, squares cut from the middle and resized."""
    side = min(LARGEST, *(min(each.shape[:2]) for each in pictures))
    if len({each.shape for each in pictures}) > 1 or max(pictures[0].shape[:2]) > LARGEST:
        pictures = [_square(each, side) for each in pictures]
    return np.stack(pictures).transpose(0, 3, 1, 2)


def _square(pixels: np.ndarray, side: int) -> np.ndarray:
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    return np.asarray(ImageOps.fit(image, (side, side), Image.Resampling.BILINEAR)).reshape(
        side, side, -1
    )


if __name__ == "__main__":
    run("ood", main)
