"""finetune: encoder and classifier trained together on the labels of one dataset.

Reads   data/<name>, results/pretrain
Writes  metrics/finetune/<name>.json: per encoder the metrics of
            ``prosmin.evaluation.finetuning.evaluate_finetuned`` with all labels; under
            per_class_<n> and percent_<p> the mean accuracy with few labels and its 95 % interval
            over draws of the labels. The untrained encoder is trained from scratch, for a number
            of epochs of its own (``finetune.scratch_epochs``)
        plots/finetune/<name>.csv: the reliability diagram on test, before and after temperature
            scaling

Without labels there is nothing to measure, and ``left_out`` in the metrics gives the reason.
"""

import logging
from dataclasses import replace
from pathlib import Path

import torch

from prosmin.common import files
from prosmin.common.encoders import ENCODERS, UNTRAINED
from prosmin.common.errors import UserError
from prosmin.data import dataset
from prosmin.evaluation import lowshot
from prosmin.evaluation.finetuning import (
    FinetuneSettings,
    evaluate_finetuned,
    finetune_lowshot,
    geometry,
)
from prosmin.evaluation.label_subsets import stratified_holdout
from prosmin.models import store
from prosmin.views.settings import ViewSettings
from stages.common import layout
from stages.common.command import check_name, needs_labels, run
from stages.common.features import HELD_OUT, require_labels
from stages.linear import RELIABILITY_COLUMNS
from stages.params.load import Params

SHOWN = ("accuracy", "accuracy_low", "accuracy_high")  # in the log

log = logging.getLogger(__name__)


@needs_labels(layout.metrics("finetune", "{}"), layout.plot("finetune", "{}"), RELIABILITY_COLUMNS)
def main(params: Params, name: str = "") -> None:
    asked, seed = params.finetune, params.seed
    check_name("finetune", "one of finetune.datasets", name, asked.datasets)
    model, trained = store.load_description(layout.PRETRAINED)
    views = {key: value for key, value in trained["params"]["views"].items() if key != "local"}
    settings = FinetuneSettings(
        views=geometry(ViewSettings(size=model.image_size, **views)),
        epochs=asked.epochs,
        batch_size=asked.batch_size,
        weight_decay=asked.weight_decay,
        steps=asked.steps,
    )
    train, val, test = labelled_images(name, model, seed)
    pool = dataset.Split(
        torch.cat([train.images, val.images]), torch.cat([train.labels, val.labels]), train.classes
    )
    sizes = lowshot.sizes(asked.per_class, asked.percent, pool.labels.numpy())
    classes = len(pool.labels.unique())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    metrics, rows = {}, []
    for encoder in ENCODERS:
        network = store.load_encoder(layout.PRETRAINED, encoder).to(device)
        epochs = asked.scratch_epochs if encoder == UNTRAINED else ()
        whole = evaluate_finetuned(
            network, train, val, test, settings, asked.lr, asked.bootstrap, seed, epochs
        )
        metrics[encoder] = dict(whole.metrics)
        rows += [(encoder, *row) for row in whole.reliability]
        log.info(
            "%s, %s encoder: accuracy %.4f [%.4f, %.4f]",
            *(name, encoder, *(whole.metrics[key] for key in SHOWN)),
        )
        length = replace(settings, epochs=whole.metrics["epochs"])
        for setting, size in sizes.items():
            try:
                accuracies = finetune_lowshot(
                    network, pool, test, size, asked.draws, length, asked.lr[0], seed
                )
            except UserError as error:
                raise UserError(f"finetune, {name}, {setting}: {error}") from None
            scored = lowshot.summarise(accuracies, size, classes, len(test))
            metrics[encoder][setting] = scored
            log.info(
                "%s, %s encoder, %d labels: accuracy %.4f [%.4f, %.4f]",
                *(name, encoder, scored["labels"], *(scored[key] for key in SHOWN)),
            )
    files.write_csv(layout.plot("finetune", name), RELIABILITY_COLUMNS, rows)
    files.write_metrics(layout.metrics("finetune", name), metrics)


def labelled_images(
    name: str, model: store.ModelSettings, seed: int
) -> tuple[dataset.Split, dataset.Split, dataset.Split]:
    """Read (train, val, test) at the size of the encoder.

    Without a val split a stratified fifth of train takes its place. Raises ``Unlabelled``.
    """
    folder = Path("data") / name
    splits = {
        split: dataset.load_split(folder, split, model.image_size, model.channels)
        for split in dataset.split_names(folder)
    }
    for split in ("train", "test"):
        if split not in splits:
            raise UserError(f"dataset {name!r} has no {split} split; it has {', '.join(splits)}")
    for split, content in splits.items():
        require_labels(content.labels.numpy(), name, split)
    train = splits["train"]
    if "val" in splits:
        return train, splits["val"], splits["test"]
    kept, held = (
        dataset.Split(train.images[rows], train.labels[rows], train.classes)
        for rows in stratified_holdout(train.labels.numpy(), HELD_OUT, seed)
    )
    return kept, held, splits["test"]


if __name__ == "__main__":
    run("finetune", main)
