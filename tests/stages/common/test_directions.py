"""Which way each metric is better: all that the docs define, whatever a dataset is called."""

import re

import pytest

from stages.common.directions import HIGHER, LOWER, higher_is_better
from stages.report.tables import CORRUPTION, PROBE
from tests.stages.conftest import ROOT


def defined() -> list[str]:
    """The names in the first column of the table of definitions, abbreviated ones left out."""
    text = (
        (ROOT / "docs/evaluation.md")
        .read_text()
        .partition("| name | definition |")[2]
        .partition("\n\n")[0]
    )
    return [
        name
        for line in text.splitlines()
        for name in re.findall(r"`(\w+)`", line.partition(" | ")[0])
    ]


def test_every_metric_of_the_docs_has_a_direction_and_no_metric_two():
    assert len(defined()) > 20 and not set(HIGHER) & set(LOWER)
    assert {name for name in defined() if higher_is_better(name) is None} == {
        "n_seen_in_training",
        "coverage_50",
    }


@pytest.mark.parametrize("metric", [*PROBE, *CORRUPTION])
def test_every_metric_that_the_report_judges_has_one(metric):
    assert higher_is_better(metric) == metric.startswith(("accuracy", "feature_similarity"))


@pytest.mark.parametrize("metric", PROBE)
def test_a_calibrated_metric_is_better_the_same_way(metric):
    assert higher_is_better(f"{metric}_calibrated") == higher_is_better(metric)


@pytest.mark.parametrize(
    "name", ["", "pieces", "coverage_90", "l2", "ece_severity_6", "accuracy_low"]
)
def test_what_is_no_metric_has_none(name):
    assert higher_is_better(name) is None
