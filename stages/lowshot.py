"""lowshot: the linear probe from a few labels of each class, over several random draws of them.

Reads   results/embed/<dataset>
Writes  metrics/lowshot.json: for each encoder and setting the mean accuracy and its 95 % interval over draws
            of the labels and over test images
        plots/lowshot/accuracy.csv: the accuracy of each draw

Without labels there is nothing to measure, and ``left_out`` in the metrics gives the reason.
"""

import logging

import numpy as np

from prosmin.common import files
from prosmin.common.errors import UserError
from prosmin.evaluation.lowshot import evaluate_lowshot, per_class_of
from prosmin.metrics.intervals import over_draws
from stages.common.command import Unlabelled, leave_out, run
from stages.common.features import ENCODERS, load_labelled
from stages.params.load import Params

METRICS, DRAWS = "metrics/lowshot.json", "plots/lowshot/accuracy.csv"
COLUMNS = ("encoder", "setting", "labels", "draw", "accuracy")

log = logging.getLogger(__name__)


def main(params: Params) -> None:
    settings, metrics, rows = params.lowshot, {}, []
    for encoder in ENCODERS:
        try:
            train, val, test = load_labelled(params.dataset, encoder, params.seed)
        except Unlabelled as error:
            return leave_out(error, METRICS, DRAWS, COLUMNS)
        pool = (np.concatenate([train[0], val[0]]), np.concatenate([train[1], val[1]]))
        sizes = {f"per_class_{count}": count for count in settings.per_class}
        sizes |= {f"percent_{share:g}": per_class_of(share, pool[1]) for share in settings.percent}
        metrics[encoder] = {}
        for name, size in sizes.items():
            try:
                accuracies = evaluate_lowshot(
                    pool, test, size, settings.draws, settings.l2, params.seed
                )
            except UserError as error:
                raise UserError(f"lowshot, {name}: {error}") from None
            mean, low, high = over_draws(accuracies, len(test[1]))
            labels = size * len(np.unique(pool[1]))
            metrics[encoder][name] = {
                "accuracy": mean,
                "accuracy_low": low,
                "accuracy_high": high,
                "labels": labels,
                "draws": settings.draws,
            }
            rows += [
                (encoder, name, labels, draw, accuracy) for draw, accuracy in enumerate(accuracies)
            ]
            log.info(
                "%s encoder, %d labels: accuracy %.4f [%.4f, %.4f]",
                encoder,
                labels,
                mean,
                low,
                high,
            )
    files.write_csv(DRAWS, COLUMNS, rows)
    files.write_metrics(METRICS, metrics)


if __name__ == "__main__":
    run("lowshot", main)
