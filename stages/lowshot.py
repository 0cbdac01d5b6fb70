"""lowshot: the linear probe from a few labels per class, over several random draws of the labels.

Reads   results/embed/<dataset>
Writes  metrics/lowshot.json: per encoder and setting the mean accuracy and its 95 % interval over
            draws of the labels and over test images
        plots/lowshot/accuracy.csv: the accuracy of each draw

Without labels there is nothing to measure, and ``left_out`` in the metrics gives the reason.
"""

import logging

import numpy as np

from prosmin.common import files
from prosmin.common.compute.stacked import Stack
from prosmin.common.encoders import ENCODERS
from prosmin.common.errors import UserError
from prosmin.evaluation import lowshot
from stages.common import layout
from stages.common.command import needs_labels, run
from stages.common.features import load_labelled
from stages.params.load import Params

COLUMNS = ("encoder", "setting", "labels", "draw", "accuracy")

log = logging.getLogger(__name__)


@needs_labels(layout.metrics("lowshot"), layout.LOWSHOT_DRAWS, COLUMNS)
def main(params: Params) -> None:
    asked, metrics, rows = params.lowshot, {}, []
    for encoder in ENCODERS:
        train, val, test = load_labelled(params.dataset, encoder, params.seed)
        pool = (Stack((train[0], val[0])), np.concatenate([train[1], val[1]]))
        classes = len(np.unique(pool[1]))
        metrics[encoder] = {}
        for setting, size in lowshot.sizes(asked.per_class, asked.percent, pool[1]).items():
            try:
                accuracies = lowshot.evaluate_lowshot(
                    pool, test, size, asked.draws, asked.l2, params.seed
                )
            except UserError as error:
                raise UserError(f"lowshot, {setting}: {error}") from None
            scored = lowshot.summarise(accuracies, size, classes, len(test[1]))
            metrics[encoder][setting] = scored
            rows += [
                (encoder, setting, scored["labels"], draw, accuracy)
                for draw, accuracy in enumerate(accuracies)
            ]
            log.info(
                "%s encoder, %d labels: accuracy %.4f [%.4f, %.4f]",
                *(encoder, scored["labels"]),
                *(scored[key] for key in ("accuracy", "accuracy_low", "accuracy_high")),
            )
    files.write_csv(layout.LOWSHOT_DRAWS, COLUMNS, rows)
    files.write_metrics(layout.metrics("lowshot"), metrics)


if __name__ == "__main__":
    run("lowshot", main)
