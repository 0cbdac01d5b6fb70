"""knn: weighted k-nearest neighbours on the frozen features of the dataset.

Reads   results/embed/<dataset>
Writes  metrics/knn.json: for each encoder what ``prosmin.evaluation.knn.evaluate_knn`` reports
        plots/knn/grid.csv: accuracy on val for each k and temperature

Without labels there is nothing to measure, and ``left_out`` in the metrics gives the reason.
"""

import logging

from prosmin.common import files
from prosmin.evaluation.knn import evaluate_knn
from stages.common.command import Unlabelled, leave_out, run
from stages.common.features import ENCODERS, load_labelled
from stages.params.load import Params

METRICS, GRID = "metrics/knn.json", "plots/knn/grid.csv"
COLUMNS = ("encoder", "k", "temperature", "accuracy")

log = logging.getLogger(__name__)


def main(params: Params) -> None:
    settings, metrics, rows = params.knn, {}, []
    for encoder in ENCODERS:
        try:
            splits = load_labelled(params.dataset, encoder, params.seed)
        except Unlabelled as error:
            return leave_out(error, METRICS, GRID, COLUMNS)
        found, grid = evaluate_knn(
            *splits, settings.k, settings.temperature, settings.bootstrap, params.seed
        )
        metrics[encoder] = found
        rows += [(encoder, *row) for row in grid]
        log.info("%s encoder: accuracy %.4f with k %d", encoder, found["accuracy"], found["k"])
    files.write_csv(GRID, COLUMNS, rows)
    files.write_metrics(METRICS, metrics)


if __name__ == "__main__":
    run("knn", main)
