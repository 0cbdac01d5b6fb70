"""uncertainty: whether label-free scores tell what the encoder does not know, on one dataset.

Reads   results/embed/<dataset>, results/embed/<name>, results/pretrain, results/linear,
        data/<dataset>, data/<name>
Writes  metrics/uncertainty/<name>.json, per encoder:
            recall_at_1, recall_at_1_train_neighbours, recall_at_1_val: of test images with
                neighbours in the test set and in train, and of val with neighbours in val
            r_auroc, human_correlation: of the score in ``chosen``
            nll_human, ece_human: of the linear probe on the dataset trained on, where people
                labelled its test images
            scores: per score r_auroc, r_auroc_train_neighbours, r_auroc_val, crop_test and
                human_correlation
            n: number of test images
        and ``chosen``, per encoder the own score with the highest R-AUROC on val
        plots/uncertainty/<name>.csv: Recall@1 among the images with the least doubt, per encoder
            and score

``prosmin.evaluation.uncertainty.SCORES`` lists the scores. The bank of the k-NN distance and the
loss-ranking head are fitted to training images of the dataset trained on, without labels. Nothing
is fitted to another dataset. Without labels the crop test alone is measured, and ``left_out`` in
the metrics gives the reason.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from prosmin.common import files
from prosmin.common.compute.logistic import standardisation
from prosmin.common.compute.stacked import Stack
from prosmin.common.encoders import ENCODERS
from prosmin.common.seeds import sample_rows
from prosmin.data import dataset
from prosmin.data.stored import Stored
from prosmin.evaluation import uncertainty, uncertainty_head, uncertainty_views
from prosmin.metrics.uncertainty import r_auroc, rejection_curve
from prosmin.models import store
from stages.common import layout, parts
from stages.common.command import LEFT_OUT, Unlabelled, check_name, run
from stages.common.parts import Doubts, Part
from stages.common.views import view_of_training
from stages.linear import load_probe
from stages.params.load import Params

COLUMNS = ("encoder", "score", "kept", "recall_at_1")
OF_CHOSEN = ("r_auroc", "human_correlation")  # the headline metrics
TEMPERATURE = 0.1  # of the cosines by which a view is identified
_BLOCK = 4096  # images read at a time; a constant, because the drawn views depend on it

Scores = dict[str, np.ndarray]  # all scores, float64 [N] each
Scorer = Callable[[np.ndarray, Doubts], Scores]  # of features [N, F] and doubts

log = logging.getLogger(__name__)


def main(params: Params, name: str = "") -> None:
    asked, seed = params.uncertainty, params.seed
    check_name("uncertainty", "one of uncertainty.datasets", name, asked.datasets)
    description, trained = store.load_description(layout.PRETRAINED)
    view = view_of_training(trained, description.image_size)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    models = {
        encoder: store.load_model(layout.PRETRAINED, encoder).to(device) for encoder in ENCODERS
    }
    here, bank = {}, {}
    for encoder, model in models.items():
        size = model.encoder.num_features
        here[encoder] = parts.splits_of(parts.load(name, encoder, size), seed)
        bank[encoder] = parts.to_fit(parts.load(params.dataset, encoder, size), seed)
    batch, count = params.embed.batch_size, len(here[ENCODERS[0]]["test"].labels)
    images = _images(name, "test", np.arange(count), description)
    cropped = uncertainty_views.embed_crops(models, images, count, seed, batch)
    rows = bank[ENCODERS[0]][1]
    sampled = sample_rows(len(rows), asked.head.images, seed, "loss ranking")
    images = _images(params.dataset, "train", rows[sampled], description)
    viewed = uncertainty_views.embed_views(models, images, view, seed, batch)
    human = dataset.load_human_labels(f"data/{name}")
    metrics: dict[str, Any] = {}
    chosen: dict[str, str] = {}
    curves: list[tuple[str, str, float, float]] = []
    for encoder, splits in here.items():
        score = _fit(params, bank[encoder][0], sampled, *viewed[encoder])
        test, crops = splits["test"], cropped[encoder]
        of_networks = parts.with_sigma(crops.doubts, crops.log_sigma)
        parts.check_doubts(name, encoder, splits, of_networks)
        doubts = score(test.features, test.doubts)
        of_crops = score(crops.features, of_networks)
        uncertainty.check_doubts(doubts, f"{name}, {encoder} encoder")
        uncertainty.check_doubts(of_crops, f"crops of {name}, {encoder} encoder")
        try:
            truth, recalls = _truth(splits, human)
            recall_val, on_val = _on_val(splits, score)
        except Unlabelled as error:
            metrics[LEFT_OUT] = f"{error}."
            truth, recalls, recall_val, on_val = None, {}, {}, {}
        measured = uncertainty.measure(doubts, of_crops, truth, asked.bootstrap, seed)
        for key, value in on_val.items():
            measured[key]["r_auroc_val"] = value
        metrics[encoder] = recalls | recall_val
        if (own := uncertainty.choose(on_val)) is not None:
            chosen[encoder] = own
            whole = (f"{key}{end}" for key in OF_CHOSEN for end in ("", "_low", "_high"))
            metrics[encoder] |= {key: measured[own][key] for key in whole if key in measured[own]}
        if human is not None and name == params.dataset:
            metrics[encoder] |= _agreement(params, encoder, test, human)
        metrics[encoder] |= {"scores": measured, "n": count}
        if truth is not None:
            for key, values in doubts.items():
                curve = zip(*rejection_curve(values, truth.right), strict=True)
                curves += [(encoder, key, float(kept), float(value)) for kept, value in curve]
        _tell(f"{name}, {encoder} encoder", recalls, measured, chosen.get(encoder))
    if chosen:
        metrics["chosen"] = chosen
    files.write_csv(layout.plot("uncertainty", name), COLUMNS, curves)
    files.write_metrics(layout.metrics("uncertainty", name), metrics)


def _tell(
    where: str,
    recalls: Mapping[str, float],
    scores: Mapping[str, Mapping[str, float | None]],
    chosen: str | None,
) -> None:
    """Log the Recall@1 and the score that was chosen on val, or the crop test without labels."""
    if not recalls:
        shares = (f"{key} {values['crop_test']:.3f}" for key, values in scores.items())
        log.info("%s: crop test %s", where, ", ".join(shares))
        return
    told = [
        f"{key} {values['r_auroc']:.3f}{' (chosen on val)' if key == chosen else ''}"
        for key, values in scores.items()
        if values["r_auroc"] is not None
    ]
    aurocs = ", ".join(told) or "undefined"
    log.info("%s: Recall@1 %.4f, R-AUROC %s", where, recalls["recall_at_1"], aurocs)


def _images(
    name: str, split: str, rows: np.ndarray, model: store.ModelSettings
) -> Iterator[torch.Tensor]:
    """The images of these rows, uint8 [n, C, S, S], a block at a time."""
    stored = Stored(f"data/{name}", [split], model.frame, model.channels)
    return stored.batches(rows, _BLOCK)


# --- scores and their measures --------------------------------------------------------------------


def _fit(
    params: Params, bank: Stack, sampled: np.ndarray, first: np.ndarray, second: np.ndarray
) -> Scorer:
    """Fit the scores that are fitted, and return the function that scores images.

    bank: features of training images, [B, F].
    sampled: places of some of these images in the bank, [n].
    first, second: features of two views of the sampled images, [n, F] each.
    """
    asked, standard = params.uncertainty, standardisation(bank)
    losses = uncertainty.identification_losses(first, second, *standard, TEMPERATURE)
    head = uncertainty_head.fit(bank[sampled], losses, *standard, asked.head.epochs, params.seed)

    def score(features: np.ndarray, doubts: Doubts) -> Scores:
        scores = {name: values.astype(np.float64) for name, values in doubts.items()}
        scores["feature_norm"] = uncertainty.feature_norm(features)
        scores["knn_distance"] = uncertainty.knn_distance(bank, features, asked.k)
        scores["loss_ranking"] = head(features)
        return uncertainty.ordered(scores)

    return score


def _truth(
    splits: Mapping[str, Part], human: np.ndarray | None
) -> tuple[uncertainty.Truth, dict[str, float]]:
    """What scores of the test images are compared with, and Recall@1. Raises ``Unlabelled``."""
    test = splits["test"].labelled()
    right, right_train = uncertainty.right_among_themselves(*test), None
    recalls = uncertainty.recall(right)
    if "train" in splits:
        right_train = uncertainty.right_in_bank(splits["train"].labelled(), test)
        recalls |= uncertainty.recall(right_train, "_train_neighbours")
    return uncertainty.Truth(right, right_train, human), recalls


def _on_val(
    splits: Mapping[str, Part], score: Scorer
) -> tuple[dict[str, float], dict[str, float | None]]:
    """Recall@1 on val, and the R-AUROC of each score on val; both empty where there is no val."""
    if "val" not in splits:
        return {}, {}
    val = splits["val"]
    right = uncertainty.right_among_themselves(*val.labelled())
    recalls, scores = {"recall_at_1_val": float(right.mean())}, score(val.features, val.doubts)
    return recalls, {key: r_auroc(values, right) for key, values in scores.items()}


def _agreement(params: Params, encoder: str, test: Part, human: np.ndarray) -> dict[str, float]:
    """How the linear probe agrees with people; empty where there is no probe."""
    if (probe := load_probe(encoder)) is None:
        return {}
    logits = probe.logits(test.features)
    return uncertainty.agreement(
        logits, probe.temperature, human, params.uncertainty.bootstrap, params.seed
    )


if __name__ == "__main__":
    run("uncertainty", main)
