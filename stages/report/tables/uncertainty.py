"""The tables of uncertainty: every label-free score on each of ``uncertainty.datasets``."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from prosmin.common.encoders import ENCODERS, TRAINED
from prosmin.evaluation.uncertainty import SCORES
from stages.common import layout
from stages.common.command import LEFT_OUT
from stages.report.figures import uncertainty
from stages.report.figures.drawing import Panel
from stages.report.figures.lines import score_line
from stages.report.inputs import Inputs, Missing, made_by
from stages.report.tables.results import tested
from stages.report.tables.rows import Row, row

OF_PROBE = ("nll_human", "nll_human_calibrated", "ece_human", "ece_human_calibrated")


class Scored(NamedTuple):
    """One score on one dataset. A row is None where it needs labels or people and there are none.

    own: as in ``prosmin.evaluation.uncertainty.Score``.
    chosen: whether it is the own score that val chose for the trained encoder.
    """

    label: str
    own: bool
    chosen: bool
    r_auroc: Row | None
    crop_test: Row | None
    human: Row | None


class Dataset(NamedTuple):
    """All scores on one dataset.

    recall: Recall@1 of both encoders. of_probe: agreement of the linear probe with people.
    left_out: why metrics are missing, empty where none is. missing: why the whole table is.
    """

    name: str
    note: str
    recall: Row | None
    scores: list[Scored]
    of_probe: list[Row]
    left_out: str
    missing: Missing | None = None

    @property
    def asked_people(self) -> bool:
        """Whether people labelled the test images."""
        return any(score.human for score in self.scores)


def section(inputs: Inputs) -> dict[str, Any]:
    """``datasets``: a table each. ``panels``: rejection curves, and ``lines``: their legend."""
    names = inputs.params.uncertainty.datasets
    panels: list[Panel] = []
    drawn: set[str] = set()
    for name in names:
        if curves := inputs.plot(layout.plot("uncertainty", name)):
            panels.append(uncertainty.rejection(curves, name))
            drawn |= {str(point["score"]) for point in curves}
    lines = [score_line(name) for name in SCORES if name in drawn]
    return {
        "datasets": [_dataset(inputs, name) for name in names],
        "panels": panels,
        "lines": lines,
    }


def _dataset(inputs: Inputs, name: str) -> Dataset:
    path = layout.metrics("uncertainty", name)
    content = inputs.metrics(path)
    if not content:
        return Dataset(name, "", None, [], [], "", made_by(path, "uncertainty", name))
    scores = {encoder: (content.get(encoder) or {}).get("scores") for encoder in ENCODERS}
    chosen = (content.get("chosen") or {}).get(TRAINED)
    probe = [metric for key in OF_PROBE if (metric := row(content, key))]
    return Dataset(
        name,
        tested(content),
        row(content, "recall_at_1"),
        [_scored(scores, key, key == chosen) for key in scores[TRAINED]],
        probe,
        content.get(LEFT_OUT, ""),
    )


def _scored(scores: Mapping[str, Any], name: str, chosen: bool) -> Scored:
    label, own = score_line(name).label, name not in SCORES or SCORES[name].own
    cells = (row(scores, metric, label, name) for metric in ("r_auroc", "crop_test"))
    return Scored(label, own, chosen, *cells, row(scores, "human_correlation", label, name))
