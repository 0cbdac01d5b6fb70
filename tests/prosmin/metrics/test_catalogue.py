"""Every number that a stage writes is defined once, has a direction, and is documented."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prosmin.evaluation.linear_probe import classification_metrics
from prosmin.metrics import catalogue, detection
from prosmin.metrics.catalogue import CALIBRATED, METRICS, VARIANTS, find, higher_is_better

ROOT = Path(__file__).parents[3]
RNG = np.random.default_rng(0)


def bounded(content: dict[str, Any]) -> Iterator[str]:
    """The names with an interval, at any depth of a metrics file."""
    for key, value in content.items():
        if isinstance(value, dict):
            yield from bounded(value)
        elif f"{key}_low" in content:
            yield key


def test_no_metric_stands_twice():
    names = [entry.name for entry in METRICS]
    assert len(set(names)) == len(names)
    labels = [entry.label for entry in METRICS]
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize("entry", METRICS, ids=lambda entry: entry.name)
def test_every_metric_is_defined_in_a_sentence(entry):
    assert entry.definition.endswith(".") and len(entry.definition) > 15
    assert entry.low < entry.high and entry.label


def test_every_metric_with_an_interval_in_the_committed_run_has_an_entry():
    paths = sorted((ROOT / "metrics").rglob("*.json"))
    names = {name for path in paths for name in bounded(json.loads(path.read_text()))}
    assert "accuracy" in names and "coverage_90" in names
    assert {name for name in names if find(name) is None} == set()


def test_every_metric_that_a_probe_or_detector_computes_has_an_entry():
    logits, labels = RNG.normal(size=(40, 7)), RNG.integers(0, 7, 40)
    metrics = classification_metrics(logits, labels, 2.0, 0.8, 10, 0)
    metrics |= detection.evaluate(RNG.normal(size=9), RNG.normal(size=9), resamples=9, seed=0)
    names = {name for name in metrics if not name.endswith(("_low", "_high"))} - {"temperature"}
    assert len(names) > 15 and all(find(name) for name in names)


def test_the_table_of_the_docs_is_that_of_the_catalogue():
    """Where it fails: paste the output of ``python -m prosmin.metrics.catalogue`` into the docs."""
    assert f"\n\n{catalogue.markdown()}\n\n" in (ROOT / "docs/evaluation.md").read_text()


def test_the_metrics_without_a_direction_are_those_with_a_best_value_in_between_or_of_information():
    without = {entry.name for entry in METRICS if entry.higher_is_better is None}
    assert without == {
        "conformal_coverage",
        "coverage",
        "likely_wrong",
        "n_seen_in_training",
        "sigma_mean",
        "sigma_clamped",
    }


@pytest.mark.parametrize(
    ("name", "verdicts"),
    [
        ("accuracy", ["better", "worse"]),
        ("nll", ["worse", "better"]),
        ("conformal_coverage_severity_3", ["", ""]),
    ],
)
def test_a_gain_is_better_or_worse_or_neither(name, verdicts):
    assert [catalogue.entry_of(name).verdict(gain) for gain in (0.1, -0.1)] == verdicts


@pytest.mark.parametrize("group", ["classification", "corruption"])
def test_of_an_error_lower_is_better_and_of_an_accuracy_higher(group):
    for name in catalogue.of_group(group):
        assert higher_is_better(name) == name.startswith(("accuracy", "feature_similarity"))


@pytest.mark.parametrize("metric", CALIBRATED)
def test_a_calibrated_metric_is_better_the_same_way(metric):
    calibrated = catalogue.entry_of(f"{metric}_calibrated")
    assert calibrated.higher_is_better is higher_is_better(metric) is False
    assert calibrated.label == f"{catalogue.entry_of(metric).label}, calibrated"


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("ece_severity_3", "ECE, severity 3"),
        ("conformal_size_severity_5", "size of 90 % sets, severity 5"),
        ("coverage_90", "coverage of 90 % intervals"),
        ("mce_unnormalised_extra", "mean error, extra types"),
    ],
)
def test_a_variant_has_its_own_label(name, label):
    entry = catalogue.entry_of(name)
    assert (entry.name, entry.label) == (name, label)


def test_the_metrics_that_a_variant_names_exist():
    assert {name for variant in VARIANTS for name in variant.of} <= set(catalogue.BY_NAME)


@pytest.mark.parametrize(
    "name",
    ["", "pieces", "receipts", "l2", "ece_severity_6", "accuracy_low", "accuracy_calibrated", "n"],
)
def test_a_name_that_is_no_metric_has_no_direction(name):
    assert find(name) is None and higher_is_better(name) is None
    with pytest.raises(KeyError, match="is no metric"):
        catalogue.entry_of(name)


def test_ranges_are_shown_with_round_brackets_at_infinite_ends():
    ranges = {name: catalogue.entry_of(name).range for name in ("accuracy", "nll", "crps_skill")}
    assert ranges == {"accuracy": "[0, 1]", "nll": "[0, ∞)", "crps_skill": "(−∞, 1]"}
