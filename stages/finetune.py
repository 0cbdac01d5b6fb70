"""finetune: encoder and classifier trained together on the labels of one dataset, all of them and a few of each class.

Reads   data/<name>, results/pretrain
Writes  metrics/finetune/<name>.json: for each encoder what ``prosmin.evaluation.finetuning.evaluate_finetuned`` reports, and under
            per_class_<n> and percent_<n> the mean accuracy and its 95 % interval over draws; the floor is the same network trained from scratch,
            for a number of epochs of its own (``finetune.scratch_epochs``)
        plots/finetune/<name>.csv: the reliability diagram on test, before and after temperature

Without labels there is nothing to measure, and ``left_out`` in the metrics gives the reason.
"""

import logging
from dataclasses import replace
from pathlib import Path

import torch

from prosmin.common import files
from prosmin.common.errors import UserError
from prosmin.data import dataset
from prosmin.evaluation.finetuning import (
    FinetuneSettings,
    evaluate_finetuned,
    finetune_lowshot,
    geometry,
)
from prosmin.evaluation.label_subsets import stratified_holdout
from prosmin.evaluation.lowshot import per_class_of
from prosmin.metrics.intervals import over_draws
from prosmin.models import store
from prosmin.views.settings import ViewSettings
from stages.common.command import Unlabelled, check_name, leave_out, run
from stages.common.features import ENCODERS, HELD_OUT, require_labels
from stages.linear import RELIABILITY
from stages.params.load import Params

log = logging.getLogger(__name__)


def main(params: Params, name: str = "") -> None:
    asked = params.finetune
    check_name("finetune", "one of finetune.datasets", name, asked.datasets)
    model, trained = store.load_description("results/pretrain")
    views = {key: value for key, value in trained["params"]["views"].items() if key != "local"}
    settings = FinetuneSettings(
        views=geometry(ViewSettings(size=model.image_size, **views)),
        epochs=asked.epochs,
        batch_size=asked.batch_size,
        weight_decay=asked.weight_decay,
        steps=asked.steps,
    )
    metrics, reliability = f"metrics/finetune/{name}.json", f"plots/finetune/{name}.csv"
    try:
        train, val, test = labelled_images(name, model, params.seed)
    except Unlabelled as error:
        return leave_out(error, metrics, reliability, RELIABILITY)
    pool = dataset.Split(
        torch.cat([train.images, val.images]), torch.cat([train.labels, val.labels]), train.classes
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found, rows = {}, []
    for weights in ENCODERS:
        encoder = store.load_encoder("results/pretrain", weights).to(device)
        epochs = asked.scratch_epochs if weights == "random" else ()
        whole = evaluate_finetuned(
            encoder, train, val, test, settings, asked.lr, asked.bootstrap, params.seed, epochs
        )
        found[weights] = dict(whole.metrics)
        rows += [(weights, *row) for row in whole.reliability]
        log.info(
            "%s, %s encoder: accuracy %.4f [%.4f, %.4f]",
            name, weights, *(whole.metrics[key] for key in ("accuracy", "accuracy_low", "accuracy_high")),
        )  # fmt: skip
        length = replace(settings, epochs=whole.metrics["epochs"])
        sizes = {f"per_class_{count}": count for count in asked.per_class}
        sizes |= {
            f"percent_{share:g}": per_class_of(share, pool.labels.numpy())
            for share in asked.percent
        }
        for setting, size in sizes.items():
            try:
                accuracies = finetune_lowshot(
                    encoder, pool, test, size, asked.draws, length, asked.lr[0], params.seed
                )
            except UserError as error:
                raise UserError(f"finetune, {name}, {setting}: {error}") from None
            mean, low, high = over_draws(accuracies, len(test))
            labels = size * len(pool.labels.unique())
            found[weights][setting] = {
                "accuracy": mean, "accuracy_low": low, "accuracy_high": high, "labels": labels, "draws": asked.draws,
            }  # fmt: skip
            log.info(
                "%s, %s encoder, %d labels: accuracy %.4f [%.4f, %.4f]",
                name,
                weights,
                labels,
                mean,
                low,
                high,
            )
    files.write_csv(reliability, RELIABILITY, rows)
    files.write_metrics(metrics, found)


def labelled_images(
    name: str, model: store.ModelSettings, seed: int
) -> tuple[dataset.Split, dataset.Split, dataset.Split]:
    """(train, val, test) of images at the size of the encoder. Without a val split a stratified fifth of train takes its place.

    Raises ``Unlabelled``.
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
    kept, held = stratified_holdout(train.labels.numpy(), HELD_OUT, seed)
    return *(
        dataset.Split(train.images[part], train.labels[part], train.classes)
        for part in (kept, held)
    ), splits["test"]


if __name__ == "__main__":
    run("finetune", main)
