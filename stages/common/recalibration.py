"""The ways of calibration that ``stages.calibrate`` saved, as evaluations read them."""

import logging

from prosmin.evaluation.recalibration import Recalibration
from stages.common import layout

log = logging.getLogger(__name__)


def load_recalibration(encoder: str) -> Recalibration | None:
    """The ways of calibration of the linear probe of an encoder.

    None, with a warning, where the stage has not run, and where the dataset has no labels.
    """
    path = layout.recalibration(encoder)
    if not path.parent.is_dir():
        log.warning(
            "%s does not exist, so that ways of calibration are left out; "
            "run `dvc repro` or `python -m stages.calibrate`",
            path,
        )
    return Recalibration.load(path) if path.is_file() else None
