"""The numbers of the page are those of the metrics, each in its row."""

import re

import pytest

from prosmin.common.files import read_csv, read_json
from prosmin.evaluation.uncertainty import SCORES
from prosmin.metrics.catalogue import METRICS
from stages.report.tables.detection import Detection, OodSet, means
from stages.report.tables.rows import Row, Value
from tests.stages.report.reading import Tags, shown


def test_numbers_of_both_encoders_are_those_of_the_metrics(finished, html):
    text = Tags(html).text.replace("\u2060", "")
    for encoder in ("trained", "random"):
        metrics = read_json(finished / "metrics/linear.json")[encoder]
        assert shown(metrics, "accuracy") in text
        for name in ("patches", "digits_halves"):
            for detector in (
                "msp",
                "energy",
                "knn",
                "vim",
                "sigma",
                "combined_sigma",
                "view_score",
                "disagreement",
            ):
                values = read_json(finished / f"metrics/ood/{name}.json")[encoder][detector]
                assert f"{shown(values, 'auroc')} {values['fpr95']:.3f}" in text
    accuracy = read_json(finished / "metrics/linear.json")["trained"]["accuracy"]
    assert f"{100 * accuracy:.1f}\u00a0% of 60 test images" in html
    for split in read_json(finished / "metrics/fetch/digits.json").values():
        if isinstance(split, dict):
            assert split["sha256"] in html


def test_fine_tuning_and_shifted_images_have_their_rows(finished, html):
    text = Tags(html).text.replace("\u2060", "")
    for name, few in (
        ("finetune/digits", "accuracy, 2 per class (20)"),
        ("shift/elsewhere", "accuracy on digits, same classes"),
    ):
        values = read_json(finished / f"metrics/{name}.json")["trained"]
        assert shown(values, "accuracy") in text
        assert few in text
    assert "Fine-tuned on digits · n = 60 test images, beside the same network from scratch" in text
    assert (
        "Linear probe of digits on elsewhere · n = 40 test images, 2 classes to choose from" in text
    )


def test_the_prediction_is_shown_for_each_condition_with_its_intervals(finished, html):
    text = Tags(html).text.replace("\u2060", "").replace("\u2212", "-")
    for name, label in (("digits", "digits (in distribution)"), ("patches", "patches (far)")):
        values = read_json(finished / f"metrics/prediction/{name}.json")["trained"]["clean"]
        covered = " ".join(f"{values[f'coverage_{level}']:.3f}" for level in (50, 80))
        assert f"{label} {covered} {shown(values, 'coverage_90')}" in text
        assert shown(values, "crps_skill") in text
    assert (
        "digits, contrast 0." in text and html.count("PIT histogram on") == 4
    )  # two of digits, two OOD sets


def test_every_score_of_uncertainty_has_its_row_for_each_dataset(finished, html):
    text = Tags(html).text.replace("\u2060", "").replace("\u2212", "-")
    text = text[text.index("Uncertainty Every score is high") :]
    for name in ("digits", "patches"):
        found = read_json(finished / f"metrics/uncertainty/{name}.json")
        trained, random = (found[encoder] for encoder in ("trained", "random"))
        recall = f"Recall@1: {trained['recall_at_1']:.3f} ("
        assert f"{name} · n = 60 test images {recall}" in text
        chosen = SCORES[found["chosen"]["trained"]].label
        assert f"{chosen} chosen on val {shown(trained, 'r_auroc')}" in text
        for score in ("projection_norm", "log_sigma", "feature_norm", "loss_ranking"):
            values, untrained = trained["scores"][score], random["scores"][score]
            row = f"{shown(values, 'r_auroc')} {shown(untrained, 'r_auroc')} "
            row += f"{shown(values, 'crop_test')} {untrained['crop_test']:.3f}"
            if name == "digits":
                people = untrained["human_correlation"]
                row += f" {shown(values, 'human_correlation')} {people:.3f}"
            assert row in text, (name, score)
    assert text.count("rank corr. with people") == 1
    assert "NLL of people's labels: " in text and "ECE against people, calibrated: " in text
    assert html.count('aria-label="Recall@1 on ') == 2


def test_every_way_of_calibration_has_its_row_and_the_best_are_marked(finished, html):
    text = Tags(html).text.replace("\u2060", "")
    found = read_json(finished / "metrics/calibrate.json")
    corrupted = read_json(finished / "metrics/corrupt.json")["trained"]["calibration"]
    shifted = read_json(finished / "metrics/shift/elsewhere.json")["trained"]["calibration"]
    for way, values in found["trained"]["methods"].items():
        for metrics, names in (
            (values, ("nll", "ece")),
            (corrupted[way], ("nll_corrupted", "ece_corrupted")),
            (shifted[way], ("nll", "ece")),
        ):
            assert all(shown(metrics, name) in text for name in names), way
    for place, way in found["chosen"]["trained"].items():
        assert re.search(rf"{way} best on [a-z ]*{place.replace('_', ' ')}", text)


def test_the_audit_shows_the_first_rows_of_its_tables(finished, html):
    text = Tags(html).text.replace("\u2060", "")
    section = text[text.index("Faults of the data") : text.rindex("Params and data")]
    metrics = read_json(finished / "metrics/audit/digits.json")
    assert shown(metrics["trained"], "label_auroc").replace(" ", " (", 1) in section
    for name in ("outliers", "labels"):
        first = read_csv(finished / f"results/audit/digits/{name}.csv")[0]
        assert f"{first['split']} {first['row']}" in section
    doubtful = read_csv(finished / "results/audit/digits/labels.csv")[0]
    assert f"{doubtful['label']} → {doubtful['suggested']}" in section


def test_an_ood_set_that_overlaps_the_training_images_is_marked(html, edited):
    assert "to training images of digits" not in Tags(html).text
    said = "7 of its 60 images are identical, pixel by pixel, to training images of digits: do not"
    assert said in Tags(edited).text


def test_params_are_shown_as_they_stand(finished, edited):
    assert "<angle>" not in edited
    text = (finished / "params.yaml").read_text() + "# a note with <angle> brackets & more\n"
    assert text in "".join(Tags(edited).words)


def test_the_mean_of_each_detector_over_near_and_over_far_sets():
    def ood_set(name, distance, aurocs):
        detections = [
            Detection(
                detector,
                detector,
                Row("auroc", detector, Value(auroc, auroc - 0.1, auroc + 0.1), None, 1.0),
                {"fpr95": 1 - auroc},
                None,
            )
            for detector, auroc in aurocs.items()
        ]
        return OodSet(name, distance, 10, 10, {}, "", detections)

    sets = [
        ood_set("a", "near", {"knn": 0.6, "sigma": 0.5}),
        ood_set("b", "near", {"knn": 0.8}),
        ood_set("c", "far", {"knn": 0.9}),
    ]
    (mean,) = means(sets)
    assert (mean.name, mean.distance) == ("mean of 2 sets", "near")
    (knn,) = mean.detections
    assert (*knn.auroc.trained, knn.trained["fpr95"]) == pytest.approx((0.7, 0.6, 0.8, 0.3))
    assert knn.auroc.random is None and knn.random is None
    assert means([*sets[:1], ood_set("b", "near", {})]) == []


def test_poor_auroc_is_named_in_a_sentence(edited):
    sentence = Tags(edited).text.partition("AUROC below 0.6")[2].partition("detector AUROC")[0]
    assert "predicted sigma on patches (0.379)" in sentence
    assert "k-NN distance on patches" not in sentence


@pytest.mark.parametrize(
    "trained, random, metric, verdict",
    [
        (Value(0.9, 0.8, 0.95), Value(0.5, 0.4, 0.6), "accuracy", "better"),
        (Value(0.9, 0.8, 0.95), Value(0.5, 0.4, 0.6), "ece", "worse"),
        (Value(0.1, 0.05, 0.2), Value(0.5, 0.4, 0.6), "ece", "better"),
        (Value(0.1, 0.05, 0.2), Value(0.5, 0.4, 0.6), "accuracy", "worse"),
        (Value(0.5, 0.3, 0.7), Value(0.6, 0.7, 0.8), "accuracy", "overlap"),
        (Value(0.5, None, None), Value(0.6, 0.7, 0.8), "accuracy", ""),
        (Value(0.5, 0.4, 0.6), None, "accuracy", ""),
        (Value(0.5, 0.4, 0.6), Value(1.0, 1.0, 1.0), "mce", ""),
        (Value(0.99, 0.98, 1.0), Value(0.92, 0.9, 0.94), "conformal_coverage", ""),
        (Value(0.91, 0.9, 0.93), Value(0.92, 0.9, 0.94), "conformal_coverage", ""),
    ],
)
def test_verdict_says_only_whether_intervals_overlap(trained, random, metric, verdict):
    assert Row(metric, "", trained, random, 1.0).verdict == verdict


def test_every_metric_is_defined_on_the_page_and_the_untrained_encoder_has_one_name(html):
    text = Tags(html).text
    for entry in METRICS:
        assert f"{entry.name} {entry.definition}" in text
    assert "untrained" in text
    for word in ("random init,", "random initialisation", "random encoder", "floor"):
        assert word not in text.partition("params.yaml, as it was run")[0]


def test_files_of_datasets_that_params_no_longer_name_are_left_out(edited):
    assert "gone_long_ago" not in edited
