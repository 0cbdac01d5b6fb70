"""knn: weighted k-nearest neighbours on the frozen features of the dataset.

Reads   results/embed/<dataset>
Writes  metrics/knn.json: per encoder the metrics of ``prosmin.evaluation.knn.evaluate_knn``
        plots/knn/grid.csv: accuracy on val per k and temperature

Without labels there is nothing to measure, and ``left_out`` in the metrics gives the reason.
"""

import logging

from prosmin.common import files
from prosmin.common.encoders import ENCODERS
from prosmin.evaluation.knn import evaluate_knn
from stages.common import layout
from stages.common.command import needs_labels, run
from stages.common.features import load_labelled
from stages.params.load import Params

COLUMNS = ("encoder", "k", "temperature", "accuracy")

log = logging.getLogger(__name__)


@needs_labels(layout.metrics("knn"), layout.KNN_GRID, COLUMNS)
def main(params: Params) -> None:
    asked, metrics, rows = params.knn, {}, []
    for encoder in ENCODERS:
        splits = load_labelled(params.dataset, encoder, params.seed)
        scored, grid = evaluate_knn(
            *splits, asked.k, asked.temperature, asked.bootstrap, params.seed
        )
        del splits  # before those of the next encoder are read
        metrics[encoder] = scored
        rows += [(encoder, *row) for row in grid]
        log.info("%s encoder: accuracy %.4f with k %d", encoder, scored["accuracy"], scored["k"])
    files.write_csv(layout.KNN_GRID, COLUMNS, rows)
    files.write_metrics(layout.metrics("knn"), metrics)


if __name__ == "__main__":
    run("knn", main)
