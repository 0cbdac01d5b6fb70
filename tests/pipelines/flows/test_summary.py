"""The table that ``make repro`` ends with."""

from pathlib import Path

import pytest

from pipelines.flows.summary import table
from prosmin.common.files import write_json
from stages.common.headlines import Row, rows, summary
from stages.params.load import load

ROOT = Path(__file__).parents[3]
PARAMS = load(ROOT / "params.yaml")


def both(**metrics):
    return {"trained": metrics, "random": {name: 0.5 for name in metrics}}


def test_a_row_holds_the_value_its_interval_and_that_of_the_untrained_encoder(tmp_path):
    write_json(
        tmp_path / "linear.json",
        both(accuracy=0.97, accuracy_low=0.95, accuracy_high=0.98, ece=0.02),
    )
    accuracy, ece = rows(PARAMS, tmp_path)
    assert accuracy == Row("linear probe", "accuracy", 0.97, 0.95, 0.98, 0.5)
    assert accuracy.label == "linear probe: accuracy" and accuracy.entry.higher_is_better
    assert ece == Row("linear probe", "ece", 0.02, None, None, 0.5)
    assert ece.label == "linear probe: ECE (lower is better)"


def test_every_stage_has_its_rows_in_the_order_of_params(tmp_path):
    inner = {"auroc": 0.9}
    write_json(tmp_path / "linear.json", both(accuracy=0.97, ece=0.02, ece_calibrated=0.01))
    write_json(tmp_path / "knn.json", both(accuracy=0.96))
    write_json(
        tmp_path / "lowshot.json",
        {"trained": {"per_class_1": {"accuracy": 0.6}, "per_class_10": {"accuracy": 0.9}}},
    )
    write_json(
        tmp_path / "ood" / "patches.json",
        {"trained": {"knn": inner, "mahalanobis": inner, "sigma": inner, "msp": inner}},
    )
    write_json(tmp_path / "ood" / "digits_halves.json", {"trained": {"knn": inner}})
    write_json(tmp_path / "corrupt.json", both(mce_unnormalised=0.2))
    write_json(tmp_path / "transfer" / "patches.json", both(accuracy=0.99))
    write_json(tmp_path / "uncertainty" / "digits.json", both(r_auroc=0.6))
    assert [row.label for row in rows(PARAMS, tmp_path)] == [
        "linear probe: accuracy",
        "linear probe: ECE (lower is better)",
        "linear probe: ECE, calibrated (lower is better)",
        "k-NN: accuracy",
        "10 labels per class: accuracy",
        "OOD, digits_halves (near), knn: AUROC",
        "OOD, patches (far), knn: AUROC",
        "OOD, patches (far), mahalanobis: AUROC",
        "OOD, patches (far), sigma: AUROC",
        "corruption: mean error (lower is better)",
        "transfer to patches: accuracy",
        "uncertainty, digits: R-AUROC",
    ]


def test_the_mean_over_ood_sets_of_a_distance_stands_after_the_sets(tmp_path):
    """Only over all sets of ``ood.sets``; the interval is the mean of the intervals."""
    values = {"digits_inverted": (0.8, 0.7, 0.9), "patches": (0.6, 0.5, 0.75)}
    for name, (value, low, high) in values.items():
        knn = {"auroc": value, "auroc_low": low, "auroc_high": high}
        floor = {"knn": {"auroc": value - 0.2}}
        write_json(tmp_path / f"ood/{name}.json", {"trained": {"knn": knn}, "random": floor})
    write_json(tmp_path / "ood/digits_halves.json", {"trained": {"knn": {"auroc": 0.9}}})
    *_, mean = rows(PARAMS, tmp_path)
    assert mean.label == "OOD, mean of 2 far sets, knn: AUROC"
    assert mean[2:6] == pytest.approx((0.7, 0.6, 0.825, 0.5))
    assert not any("near sets" in row.label for row in rows(PARAMS, tmp_path))
    stale = rows(PARAMS, tmp_path, without=["metrics/ood/patches.json"])
    assert not any("mean of" in row.label for row in stale)
    write_json(tmp_path / "ood/digits_rotated.json", {"trained": {"knn": {"auroc": 0.5}}})
    near = next(row for row in rows(PARAMS, tmp_path) if "near sets" in row.label)
    assert near[2:6] == (0.7, None, None, None)


def test_metrics_of_datasets_no_longer_named_are_left_out(tmp_path):
    write_json(tmp_path / "ood" / "svhn.json", {"trained": {"knn": {"auroc": 0.9}}})
    write_json(tmp_path / "transfer" / "svhn.json", both(accuracy=0.9))
    assert rows(PARAMS, tmp_path) == []


def test_the_summary_takes_the_mean_over_datasets_and_has_the_same_names_for_all_data(tmp_path):
    write_json(tmp_path / "linear.json", both(accuracy=0.97, ece=0.02123456, ece_calibrated=0.01))
    for name, value in {"digits_halves": 0.9, "digits_rotated": 0.8, "patches": 0.7}.items():
        both_detectors = {"knn": {"auroc": value}, "sigma": {"auroc": value / 2}}
        write_json(tmp_path / f"ood/{name}.json", {"trained": both_detectors})
    write_json(tmp_path / "uncertainty/digits.json", both(r_auroc=0.6, human_correlation=0.3))
    write_json(tmp_path / "uncertainty/patches.json", both(r_auroc=0.5))
    expected = {"linear": 0.97, "ece": 0.0212, "near_knn": 0.85, "far_knn": 0.7, "r_auroc": 0.55}
    expected |= {"human_correlation": 0.3}  # of those that people have labelled
    last = {"ece_calibrated": 0.01, "near_sigma": 0.425, "far_sigma": 0.35}
    assert list(summary(PARAMS, tmp_path).items()) == list((expected | last).items())


def test_a_column_with_a_file_of_other_settings_is_no_part_of_the_summary(tmp_path):
    for name in ("digits_halves", "digits_rotated"):
        write_json(tmp_path / f"ood/{name}.json", {"trained": {"knn": {"auroc": 0.9}}})
    assert summary(PARAMS, tmp_path) == {"near_knn": 0.9}
    assert summary(PARAMS, tmp_path, without=["metrics/ood/digits_rotated.json"]) == {}


def test_dvc_shows_about_twenty_columns_with_names_that_the_docs_explain():
    columns = summary(PARAMS, ROOT / "metrics")
    assert 10 <= len(columns) <= 25 and max(map(len, columns)) <= 20
    page = (ROOT / "docs/orchestration.md").read_text()
    assert not [name for name in columns if f"`{name}`" not in page]


def test_the_table_is_aligned_and_leaves_blank_what_is_unmeasured():
    text = table(
        [
            Row("a", "accuracy", 0.9712, 0.95, 0.98, 0.5),
            Row("a longer name", "accuracy", 12.0, None, None, None),
        ]
    )
    assert [line.rstrip() for line in text.splitlines()] == [
        "                         trained  95 % interval  untrained",
        "a: accuracy                0.971  0.950 - 0.980      0.500",
        "a longer name: accuracy   12.000",
    ]
