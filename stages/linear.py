"""linear: a linear probe on the frozen features of the dataset, its accuracy and its calibration.

Reads   results/embed/<dataset>
Writes  results/linear/<encoder>.safetensors: the probe (``prosmin.evaluation.linear_probe.Probe``)
        results/linear/<encoder>_train.safetensors: the same, fitted to train alone
        metrics/linear.json: per encoder the metrics of
            ``prosmin.evaluation.linear_probe.evaluate_probe``
        plots/linear/reliability.csv: the reliability diagram on test, before and after temperature
            scaling

Without labels there is no probe, and ``left_out`` in the metrics gives the reason.
"""

import logging
from pathlib import Path

from prosmin.common import files
from prosmin.common.encoders import ENCODERS
from prosmin.common.errors import UserError
from prosmin.evaluation.linear_probe import Evaluation, Probe, evaluate_probe
from stages.common import layout
from stages.common.command import Unlabelled, needs_labels, run
from stages.common.features import load_labelled
from stages.params.evaluation import Linear, Transfer
from stages.params.load import Params

RELIABILITY_COLUMNS = (
    "encoder",
    "calibrated",
    "bin_low",
    "bin_high",
    "confidence",
    "accuracy",
    "count",
)

log = logging.getLogger(__name__)


@needs_labels(layout.metrics("linear"), layout.RELIABILITY, RELIABILITY_COLUMNS)
def main(params: Params) -> None:
    try:
        evaluations = evaluate(params.dataset, params.linear, params.seed)
    except Unlabelled:
        save_probes({})
        raise
    save_probes(evaluations)
    write(evaluations, layout.metrics("linear"), layout.RELIABILITY)


def evaluate(dataset: str, settings: Linear | Transfer, seed: int) -> dict[str, Evaluation]:
    """Fit and measure the probe of each encoder on one dataset. Raises ``Unlabelled``."""
    evaluations = {}
    for encoder in ENCODERS:
        splits = load_labelled(dataset, encoder, seed)
        evaluation = evaluate_probe(*splits, settings.l2, settings.bootstrap, seed)
        shown = ("accuracy", "accuracy_low", "accuracy_high", "ece", "ece_calibrated")
        log.info(
            "%s, %s encoder: accuracy %.4f [%.4f, %.4f], ECE %.4f, %.4f calibrated",
            *(dataset, encoder, *(evaluation.metrics[name] for name in shown)),
        )
        evaluations[encoder] = evaluation
        del splits  # before those of the next encoder are read
    return evaluations


def write(evaluations: dict[str, Evaluation], metrics: Path, plot: Path) -> None:
    """Write the metrics and the reliability diagram of each encoder to these two files."""
    rows = [
        (encoder, *row)
        for encoder, evaluation in evaluations.items()
        for row in evaluation.reliability
    ]
    files.write_csv(plot, RELIABILITY_COLUMNS, rows)
    by_encoder = {encoder: evaluation.metrics for encoder, evaluation in evaluations.items()}
    files.write_metrics(metrics, by_encoder)


def save_probes(evaluations: dict[str, Evaluation]) -> None:
    """Write the probes; an empty folder says that there are none."""
    with files.whole_folder(layout.results("linear")) as folder:
        for encoder, evaluation in evaluations.items():
            evaluation.probe.save(folder / layout.probe(encoder).name)
            evaluation.selected.save(folder / layout.probe(encoder, selected=True).name)


def load_probe(encoder: str, selected: bool = False) -> Probe | None:
    """The probe that this stage wrote for the encoder; None where the dataset has no labels.

    selected: the probe that was fitted to train alone.
    Raises ``UserError`` where the stage has not run.
    """
    path = layout.probe(encoder, selected)
    if path.parent.is_dir() and not any(path.parent.iterdir()):
        return None
    try:
        return Probe.load(path)
    except FileNotFoundError:
        raise UserError(
            f"{path} does not exist; run `dvc repro` or `python -m stages.linear`"
        ) from None


if __name__ == "__main__":
    run("linear", main)
