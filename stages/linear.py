"""linear: a linear probe on the frozen features of the dataset, its accuracy and its calibration.

Reads   results/embed/<dataset>
Writes  results/linear/<encoder>.safetensors: the probe (``prosmin.evaluation.linear_probe.Probe``)
        metrics/linear.json: for each encoder what ``prosmin.evaluation.linear_probe.evaluate_probe`` reports
        plots/linear/reliability.csv: the reliability diagram on test, before and after temperature

Without labels there is no probe, and ``left_out`` in the metrics gives the reason.
"""

import logging

from prosmin.common import files
from prosmin.evaluation.linear_probe import Evaluation, evaluate_probe
from stages.common.command import Unlabelled, leave_out, run
from stages.common.features import ENCODERS, load_labelled
from stages.params.load import Linear, Params, Transfer

RELIABILITY = ("encoder", "calibrated", "bin_low", "bin_high", "confidence", "accuracy", "count")

log = logging.getLogger(__name__)


def evaluate(dataset: str, settings: Linear | Transfer, seed: int) -> dict[str, Evaluation]:
    """The probe of each encoder on one dataset. Raises ``Unlabelled``."""
    evaluations = {}
    for encoder in ENCODERS:
        found = evaluate_probe(
            *load_labelled(dataset, encoder, seed), settings.l2, settings.bootstrap, seed
        )
        log.info(
            "%s, %s encoder: accuracy %.4f [%.4f, %.4f], ECE %.4f, %.4f calibrated",
            dataset,
            encoder,
            *(
                found.metrics[name]
                for name in ("accuracy", "accuracy_low", "accuracy_high", "ece", "ece_calibrated")
            ),
        )
        evaluations[encoder] = found
    return evaluations


def write(evaluations: dict[str, Evaluation], metrics: str, reliability: str) -> None:
    """The metrics and the reliability diagram of each encoder, to these two files."""
    rows = [(encoder, *row) for encoder, found in evaluations.items() for row in found.reliability]
    files.write_csv(reliability, RELIABILITY, rows)
    files.write_metrics(metrics, {encoder: found.metrics for encoder, found in evaluations.items()})


def main(params: Params) -> None:
    metrics, reliability = "metrics/linear.json", "plots/linear/reliability.csv"
    try:
        evaluations = evaluate(params.dataset, params.linear, params.seed)
    except Unlabelled as error:
        evaluations = {}
        leave_out(error, metrics, reliability, RELIABILITY)
    with files.whole_folder("results/linear") as folder:
        for encoder, found in evaluations.items():
            found.probe.save(folder / f"{encoder}.safetensors")
    if evaluations:
        write(evaluations, metrics, reliability)


if __name__ == "__main__":
    run("linear", main)
