"""finetune: encoder and classifier trained together on the labels of one dataset.

Reads   data/<name>, results/pretrain
Writes  metrics/finetune/<name>.json: per encoder the metrics of
            ``prosmin.evaluation.finetuning.evaluate_finetuned`` with all labels; under
            per_class_<n> and percent_<p> the mean accuracy with few labels and its 95 % interval
            over draws of the labels. The untrained encoder is trained from scratch, for a number
            of epochs of its own (``finetune.scratch_epochs``); an encoder at the weights of
            ``pretrain.initial`` for as many as the trained one
        plots/finetune/<name>.csv: the reliability diagram on test, before and after temperature
            scaling

Without labels there is nothing to measure, and ``left_out`` in the metrics gives the reason.
"""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from prosmin.common import files
from prosmin.common.encoders import ENCODERS, UNTRAINED
from prosmin.common.errors import UserError
from prosmin.data import dataset
from prosmin.data.feed import Resident, Streamed
from prosmin.data.stored import Stored
from prosmin.evaluation import lowshot
from prosmin.evaluation.finetuning import (
    FinetuneSettings,
    LabelledImages,
    evaluate_finetuned,
    finetune_lowshot,
    geometry,
)
from prosmin.evaluation.label_subsets import stratified_holdout
from prosmin.models import store
from stages.common import layout, workers
from stages.common.command import check_name, needs_labels, run
from stages.common.features import HELD_OUT, require_labels
from stages.common.views import view_of_training
from stages.linear import RELIABILITY_COLUMNS
from stages.params.load import Params

SHOWN = ("accuracy", "accuracy_low", "accuracy_high")  # in the log

log = logging.getLogger(__name__)


@needs_labels(layout.metrics("finetune", "{}"), layout.plot("finetune", "{}"), RELIABILITY_COLUMNS)
def main(params: Params, name: str = "") -> None:
    asked, seed = params.finetune, params.seed
    check_name("finetune", "one of finetune.datasets", name, asked.datasets)
    model, trained = store.load_description(layout.PRETRAINED)
    settings = FinetuneSettings(
        views=geometry(view_of_training(trained, model.image_size)),
        epochs=asked.epochs,
        batch_size=asked.batch_size,
        weight_decay=asked.weight_decay,
        steps=asked.steps,
    )
    train, val, test = labelled_images(name, model, seed, trained["params"]["stream"])
    pool = train.joined(val)
    sizes = lowshot.sizes(asked.per_class, asked.percent, pool.labels)
    classes = len(np.unique(pool.labels))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    metrics, rows = {}, []
    for encoder in ENCODERS:
        network = store.load_encoder(layout.PRETRAINED, encoder).to(device)
        from_scratch = encoder == UNTRAINED and "initial" not in trained
        epochs = asked.scratch_epochs if from_scratch else ()
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
    name: str, model: store.ModelSettings, seed: int, stream: bool
) -> tuple[LabelledImages, LabelledImages, LabelledImages]:
    """Open (train, val, test) at the size of the encoder; train and val are of one set.

    Without a val split a stratified fifth of train takes its place.

    stream: whether encoded images stay on the disk, as in pretraining; otherwise they are loaded.

    Raises ``Unlabelled``.
    """
    folder = Path("data") / name
    manifest, names = dataset.read_manifest(folder), dataset.split_names(folder)
    for split in ("train", "test"):
        if split not in names:
            raise UserError(f"dataset {name!r} has no {split} split; it has {', '.join(names)}")
    on_disk = {split: Stored(folder, [split], model.frame, model.channels) for split in names}
    for split, content in on_disk.items():
        require_labels(content.labels(), name, split)
    known = ["train", "val"] if "val" in names else ["train"]

    def opened(splits: list[str]) -> LabelledImages:
        stored = Stored(folder, splits, model.frame, model.channels)
        rows, labels = np.arange(len(stored)), stored.labels()
        if stream and manifest["encoding"] == "encoded":
            processes = workers.decoders(1, torch.cuda.is_available())
            feed = Streamed(folder, splits, model.channels, processes)
            return LabelledImages(feed, stored, rows, labels)
        resident = Resident(stored.load())
        return LabelledImages(resident, resident, rows, labels)

    pool, test = opened(known), opened(["test"])
    if "val" in names:
        count = len(on_disk["train"])
        kept, held = pool.rows[:count], pool.rows[count:]
    else:
        kept, held = stratified_holdout(pool.labels, HELD_OUT, seed)
    return pool.part(kept), pool.part(held), test


if __name__ == "__main__":
    run("finetune", main)
