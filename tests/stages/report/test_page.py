import io
import os
import re
import shutil
import subprocess
import sys
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from scipy.stats import percentileofscore

from prosmin.common.errors import UserError
from prosmin.common.files import (
    read_arrays,
    read_csv,
    read_json,
    write_arrays,
    write_csv,
    write_json,
)
from prosmin.evaluation.uncertainty import SCORES
from prosmin.metrics.catalogue import METRICS
from stages import (
    audit,
    calibrate,
    corrupt,
    embed,
    fetch,
    finetune,
    knn,
    linear,
    lowshot,
    ood,
    prediction,
    pretrain,
    shift,
    transfer,
    uncertainty,
)
from stages.params.fetch import Folder
from stages.params.load import load
from stages.report import __main__ as report
from stages.report.figures.drawing import COLOURS
from stages.report.inputs import Inputs
from stages.report.page import page
from stages.report.pictures import evenly, examples, picture
from stages.report.tables.detection import Detection, OodSet, means
from stages.report.tables.rows import Row, Value
from tests.conftest import BROWSERS
from tests.stages.test_shift import faint

ROOT = Path(__file__).parents[3]
SECTIONS = {
    "results",
    "training",
    "calibration",
    "ood",
    "prediction",
    "uncertainty",
    "corruption",
    "lowshot",
    "views",
    "examples",
    "audit",
    "params",
    "definitions",
}
VOID = {"meta", "img", "br", "link"}


def tiny(content):
    """The default params on few images with a small network."""
    content["fetch"] = {
        name: content["fetch"][name] for name in ("digits", "patches", "digits_halves")
    }
    for dataset in content["fetch"].values():
        dataset["limit"] = {"train": 150, "val": 60, "test": 60}
    content["pretrain"] |= {"epochs": 1, "batch_size": 64, "warmup_epochs": 0}
    content["pretrain"]["encoder"]["kwargs"]["channels"] = [8, 8, 8, 8]
    content["ood"]["sets"] = {"patches": "far", "digits_halves": "near"}
    content["lowshot"] = {"per_class": [1, 3], "percent": [10], "draws": 3, "l2": 1.0}
    content["prediction"] |= {"views": 2, "corruptions": ["contrast"], "bootstrap": 100}
    content["corrupt"] |= {"types": ["gaussian_noise", "contrast"], "severities": [1, 5]}
    content["finetune"] |= {"epochs": 1, "scratch_epochs": [1, 2], "steps": 2, "per_class": [2]}
    content["fetch"]["elsewhere"] = {"source": "folder", "path": "elsewhere", "test_fraction": 1}
    content["shift"]["sets"] = ["elsewhere"]
    content["uncertainty"]["head"] = {"images": 50, "epochs": 1}
    content["calibrate"]["severities"] = [1, 5]
    for stage in (
        *("linear", "calibrate", "knn", "ood", "corrupt", "transfer", "finetune"),
        *("shift", "uncertainty", "audit"),
    ):
        content[stage]["bootstrap"] = 100
    return content


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder in which every stage but the report has really run."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "params.yaml").write_text(
        yaml.safe_dump(tiny(yaml.safe_load((ROOT / "params.yaml").read_text())), sort_keys=False)
    )
    faint(folder / "elsewhere", {3: "3", 7: "7"})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PROSMIN_PROCESSES", "1")
        params = load()
        for name in params.fetch:
            fetch.main(params, name)
        pretrain.main(params)
        for name in params.fetch:
            embed.main(params, name)
            prediction.main(params, name)
        for stage in (linear, calibrate, knn, lowshot, corrupt):
            stage.main(params)
        for name in params.ood.sets:
            ood.main(params, name)
        for name in params.transfer.targets:
            transfer.main(params, name)
        finetune.main(params, "digits")
        shift.main(params, "elsewhere")
        people = np.random.default_rng(0).dirichlet(np.full(10, 0.3), 60).astype(np.float32)
        write_arrays(folder / "data/digits/human_labels.safetensors", {"shares": people})
        for name in params.uncertainty.datasets:
            uncertainty.main(params, name)
        for name in params.audit.datasets:
            audit.main(params, name)
    return folder


@pytest.fixture
def folder(finished, tmp_path, monkeypatch):
    """A copy of it to change, as current directory."""
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    monkeypatch.chdir(copy)
    return copy


@pytest.fixture(scope="module")
def html(finished):
    return page(Inputs(finished, load(finished / "params.yaml")))


def build():
    return page(Inputs(Path(), load()))


def shown(metrics, name):
    """A number with its interval, as the page writes both."""
    return f"{metrics[name]:.3f} {metrics[f'{name}_low']:.3f}–{metrics[f'{name}_high']:.3f}"


class Tags(HTMLParser):
    """The content of a page.

    tags: (name, attributes) of every opened tag.
    text: the visible words, separated by single spaces.
    open: tags that were never closed.
    """

    def __init__(self, html):
        super().__init__()
        self.tags, self.words, self.open = [], [], []
        self.feed(html)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)


# --- the whole page -------------------------------------------------------------------------------


def test_an_objective_without_a_predicted_distribution_goes_through_to_the_report(folder):
    content = yaml.safe_load((folder / "params.yaml").read_text())
    content["pretrain"]["objective"] = {"name": "byol"}
    (folder / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    params = load()
    pretrain.main(params)
    for name in ("digits", "patches"):
        embed.main(params, name)
    linear.main(params)
    ood.main(params, "patches")
    assert not any(
        name.endswith("log_sigma")
        for name in read_arrays("results/embed/digits/trained.safetensors")
    )
    assert "sigma" not in read_json("metrics/ood/patches.json")["trained"]
    page = Tags(build())
    assert "BYOL on digits" in page.text and "was pretrained by BYOL" in page.text


def test_an_external_encoder_is_named_and_has_no_sections_on_its_training(folder):
    content = yaml.safe_load((folder / "params.yaml").read_text())
    content["pretrain"]["external"] = {
        "source": "file",
        "path": "/home/somebody/theirs.safetensors",
        "mean": [0.3],
        "std": [0.4],
    }
    content["corrupt"]["reference"] = "/home/somebody/errors.json"
    (folder / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    html = build()
    page = Tags(html)
    assert "/home/somebody" not in html and "mCE, errors.json = 1" in page.text
    assert (
        "resnet18 on digits" in page.text
        and "with weights trained by others (theirs.safetensors)" in page.text
    )
    sections = {attributes["id"] for tag, attributes in page.tags if tag == "section"}
    assert sections == SECTIONS - {"training", "views"}
    references = {attributes.get("href", "")[1:] for tag, attributes in page.tags if tag == "a"}
    assert not references & {"training", "views"}


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


def test_stage_writes_the_page_and_the_summary_and_nothing_else(folder):
    before = {path for path in folder.rglob("*") if path.is_file()}
    report.main(load())
    after = {path for path in folder.rglob("*") if path.is_file()}
    assert after - before == {folder / "results/report/index.html", folder / "summary.json"}
    linear = read_json("metrics/linear.json")["trained"]
    assert read_json("summary.json")["linear"] == round(linear["accuracy"], 4)


def test_finished_run_fills_every_section(html):
    page = Tags(html)
    assert {attributes["id"] for tag, attributes in page.tags if tag == "section"} == SECTIONS
    assert "does not exist" not in page.text
    assert page.open == []


def test_page_refers_to_nothing_outside_itself(html):
    assert not re.search(r"https?:|@import|//cdn", html)
    for tag, attributes in Tags(html).tags:
        assert tag not in ("script", "link", "iframe", "object")
        for key in ("src", "href", "xlink:href"):
            assert attributes.get(key, "#").startswith(("#", "data:")), attributes[key][:80]
    assert not re.search(r"url\((?!#)", html)
    assert len(html.encode()) < 5e6


def test_ids_are_unique_and_every_reference_has_its_target(html):
    tags = Tags(html).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {
        value[1:]
        for _, attributes in tags
        for key in ("href", "xlink:href")
        if (value := attributes.get(key, "")).startswith("#")
    }
    assert (targets | set(re.findall(r"url\(#([^)]+)\)", html))) <= set(ids)


def test_every_drawing_and_image_is_described_and_takes_its_colours_from_the_page(html):
    tags = Tags(html).tags
    drawings = [
        attributes for tag, attributes in tags if tag == "svg" and "aria-hidden" not in attributes
    ]
    assert (
        len(drawings) >= 5 + 3 + 2 + 2 + 2 + 1
    )  # training, reliability, ROC, severity, types, low-shot
    assert all(len(attributes["aria-label"]) > 20 for attributes in drawings)
    assert all("alt" in attributes for tag, attributes in tags if tag == "img")
    for drawing in re.findall(r"<svg.*?</svg>", html, re.DOTALL):
        assert not re.search(r"#[0-9a-f]{6}\b", re.sub(r'"#\w+"|url\(#\w+\)', "", drawing))
    assert len({light for light, _ in COLOURS.values()}) == len(COLOURS)


def test_same_inputs_give_the_same_bytes_whatever_the_hash_seed_and_the_users_matplotlibrc(folder):
    (folder / "matplotlibrc").write_text("font.size: 30\ngrid.linestyle: :\nsvg.fonttype: path\n")
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTHONHASHSEED": "7",
        "MATPLOTLIBRC": str(folder / "matplotlibrc"),
    }
    subprocess.run(
        [sys.executable, "-m", "stages.report"], env=environment, check=True, capture_output=True
    )
    assert (folder / "results/report/index.html").read_text() == build()


def test_page_names_no_place_on_this_machine(finished, html):
    assert (
        str(finished) not in html and str(ROOT) not in html and str(Path.home()) + "/" not in html
    )


def test_params_are_shown_without_folders_of_this_machine(tmp_path):
    text = """\
seed: 0  # was /home/me/old/seeds.yaml; docs/params.md says more, 1 / 2 too, or https://a.org/b/c
fetch:
  pets: {source: folder, path: /home/me/my pets}
  cars: {source: folder, path: "/home/m\\x65/cars", splits: {train: a/b}}
  vans: {source: parquet, files: {train: ~/vans/train-*.parquet}}
"""
    (tmp_path / "params.yaml").write_text(text)
    pets = Folder(source="folder", path="/home/me/my pets")
    params = load(ROOT / "params.yaml")
    params = params.model_copy(update={"fetch": {**params.fetch, "pets": pets}})
    assert Inputs(tmp_path, params).params_text() == (
        text.replace("/home/me/old/", "…/")
        .replace("/home/me/", "…/")
        .replace("/home/m\\x65/", "…/")
        .replace("~/vans/", "…/")
    )


# --- numbers --------------------------------------------------------------------------------------


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


@pytest.fixture(scope="module")
def edited(finished, tmp_path_factory):
    """The page of another folder, of which the tests below say what is different."""
    folder = tmp_path_factory.mktemp("edited") / "copy"
    shutil.copytree(finished, folder)
    with open(folder / "params.yaml", "a") as params:
        params.write("# a note with <angle> brackets & more\n")
    for name in ("metrics/ood/patches.json", "plots/ood/patches.csv"):
        shutil.copy(folder / name, folder / name.replace("patches", "gone_long_ago"))
    old = folder / "metrics/transfer"
    shutil.copy(old / "patches.json", old / "gone_long_ago.json")
    metrics = read_json(folder / "metrics/ood/patches.json") | {"n_seen_in_training": 7}
    for name in metrics["trained"]:
        metrics["trained"][name]["auroc"] = 0.379 if name == "sigma" else 0.61
    write_json(folder / "metrics/ood/patches.json", metrics)
    return page(Inputs(folder, load(folder / "params.yaml")))


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


# --- what is missing ------------------------------------------------------------------------------


MAKERS = {
    "metrics/linear.json": "linear",
    "metrics/knn.json": "knn",
    "metrics/lowshot.json": "lowshot",
    "metrics/calibrate.json": "calibrate",
    "metrics/corrupt.json": "corrupt",
    "metrics/transfer/patches.json": "transfer patches",
    "metrics/ood/patches.json": "ood patches",
    "metrics/finetune/digits.json": "finetune digits",
    "metrics/shift/elsewhere.json": "shift elsewhere",
    "metrics/audit/digits.json": "audit digits",
    "metrics/fetch/patches.json": "fetch patches",
    "metrics/prediction/patches.json": "prediction patches",
    "plots/linear/reliability.csv": "linear",
    "plots/corrupt/accuracy.csv": "corrupt",
    "plots/ood/digits_halves.csv": "ood digits_halves",
    "results/pretrain/views.safetensors": "pretrain",
    "results/ood/patches/examples.safetensors": "ood patches",
    "results/audit/digits/examples.safetensors": "audit digits",
}


@pytest.mark.parametrize("kind", ["metrics", "plots", "results"])
def test_missing_file_is_named_with_the_commands_that_make_it(folder, kind):
    gone = {path: stage for path, stage in MAKERS.items() if path.startswith(kind)}
    for path in gone:
        Path(path).unlink()
    text = Tags(build()).text
    for path, stage in gone.items():
        run = f"dvc repro {stage.replace(' ', '@')} or python -m stages.{stage} ."
        assert f"{path} does not exist. Run {run}" in text
    assert set(re.findall(r"(\S+) does not exist", text)) == set(gone)


def test_page_of_a_run_that_has_not_begun_still_has_every_section(folder):
    for name in ("metrics", "plots", "results"):
        shutil.rmtree(name)
    page = Tags(build())
    assert {attributes["id"] for tag, attributes in page.tags if tag == "section"} == SECTIONS
    assert "plots/pretrain/loss.csv does not exist. Run dvc repro pretrain" in page.text
    assert page.open == []


def test_dataset_without_labels_is_given_as_the_reason(folder):
    reason = "the test split of dataset 'digits' has no labels."
    for name in ("linear", "knn", "lowshot"):
        write_json(f"metrics/{name}.json", {"left_out": reason})
    for name in ("linear/reliability", "lowshot/accuracy"):
        plot = Path(f"plots/{name}.csv")
        plot.write_text(plot.read_text().splitlines()[0] + "\n")
    similar = {
        "feature_similarity": 0.9,
        "feature_similarity_low": 0.8,
        "feature_similarity_high": 0.95,
    }
    write_json("metrics/corrupt.json", {"left_out": reason, "trained": similar, "random": similar})
    cells = read_csv("plots/corrupt/accuracy.csv")
    rows = [[*list(row.values())[:3], "", "", row["feature_similarity"]] for row in cells]
    write_csv("plots/corrupt/accuracy.csv", list(cells[0]), rows)
    curves = Path("plots/pretrain/diagnostics.csv")
    curves.write_text(
        re.sub(r",[^,\n]*$", "", curves.read_text(), flags=re.MULTILINE)
    )  # without online k-NN
    facts = read_json("metrics/ood/patches.json") | {"labelled": False}
    for encoder in ("trained", "random"):
        facts[encoder] = {name: facts[encoder][name] for name in ("knn", "sigma")}
    facts.pop("accuracy_id")
    write_json("metrics/ood/patches.json", facts)
    text = Tags(build()).text
    assert text.count(f"Left out: {reason}") >= 4
    assert "does not exist" not in text
    assert "Feature similarity by type" in text and "feature similarity" in text
    assert "There is no online k-NN curve: it needs labels." in text
    assert "Detectors that need labels are left out: digits has none." in text


@pytest.mark.parametrize("path", ["metrics/linear.json", "results/pretrain/views.safetensors"])
def test_broken_file_is_one_sentence_and_leaves_the_old_page(folder, path):
    old = b"the page of an earlier run"
    Path("results/report").mkdir(parents=True)
    Path("results/report/index.html").write_bytes(old)
    Path(path).write_bytes(b"{ half")
    with pytest.raises(UserError, match=f"^{path} cannot be read .*; remove it and make it again$"):
        report.main(load())
    assert Path("results/report/index.html").read_bytes() == old


def test_pictures_that_are_not_of_the_scores_are_one_sentence(folder):
    path = Path("results/ood/patches/examples.safetensors")
    arrays = dict(read_arrays(path))
    for name, content, why in (
        ("index", arrays["index"] + 10**6, "index has a number that is none of"),
        ("id_index", arrays["id_index"][1:], "'id_index' is int64"),
        ("images", arrays["images"].astype(np.float32), "'images' is float32"),
    ):
        write_arrays(path, arrays | {name: content})
        with pytest.raises(
            UserError, match=rf"^{path} cannot be read \({why}.*\); remove it and make it again$"
        ):
            report.main(load())


# --- drawings and pictures ------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_small_image_is_embedded_pixel_by_pixel(channels):
    pixels = np.random.default_rng(0).integers(0, 256, (channels, 9, 7), np.uint8)
    embedded = picture(pixels)
    decoded = np.asarray(
        Image.open(io.BytesIO(b64decode(embedded.uri.removeprefix("data:image/png;base64,"))))
    )
    assert embedded.pixelated
    np.testing.assert_array_equal(decoded.reshape(9, 7, channels).transpose(2, 0, 1), pixels)


def test_large_image_is_shrunk_so_that_the_page_stays_light():
    embedded = picture(np.random.default_rng(0).integers(0, 256, (3, 300, 200), np.uint8))
    decoded = Image.open(
        io.BytesIO(b64decode(embedded.uri.removeprefix("data:image/jpeg;base64,")))
    )
    assert not embedded.pixelated and max(decoded.size) <= 128 and len(embedded.uri) < 30_000


def test_examples_show_scores_and_the_share_of_in_distribution_images_that_score_lower(finished):
    arrays, scores = (
        read_arrays(finished / f"results/ood/patches/{name}.safetensors")
        for name in ("examples", "scores")
    )
    for kind in ("id", "ood"):
        chosen = examples(arrays, scores, kind, 4)
        assert len(chosen) == 4
        for example in chosen:
            score = scores[f"trained.knn.{kind}"][example.index]
            share = percentileofscore(scores["trained.knn.id"], score, "strict") / 100
            assert example.scores["k-NN distance"] == pytest.approx((score, share))
        assert [example.scores["k-NN distance"][0] for example in chosen] == sorted(
            example.scores["k-NN distance"][0] for example in chosen
        )


def test_examples_are_spread_over_all_that_there_are():
    assert evenly(32, 4) == [0, 10, 21, 31]
    assert evenly(3, 8) == [0, 1, 2]


# --- in a browser ---------------------------------------------------------------------------------


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("whole", [True, False], ids=["finished", "empty"])
def test_page_is_no_wider_than_the_window(finished, tmp_path, width, whole):
    """The page in a frame of that width (a window has a least width): how wide is what it holds?"""
    (tmp_path / "params.yaml").write_bytes((finished / "params.yaml").read_bytes())
    html = page(Inputs(finished if whole else tmp_path, load(finished / "params.yaml")))
    measure = (
        "onload = () => parent.postMessage([document.documentElement.scrollWidth, innerWidth], '*')"
    )
    html = re.sub(r"<meta http-equiv[^>]*>", "", html)  # the page's own policy forbids scripts
    html = html.replace("</body>", f"<script>{measure}</script></body>")
    (tmp_path / "page.html").write_text(html)
    (tmp_path / "frame.html").write_text(
        "<script>onmessage = event => document.body.dataset.widths = event.data</script>"
        "<body><iframe src='page.html' "
        f"style='width: {width}px; height: 3000px; border: 0'></iframe></body>"
    )
    browser = next(filter(None, map(shutil.which, BROWSERS)))
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
    ]
    flags += [
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--virtual-time-budget=5000",
    ]
    done = subprocess.run(
        [browser, *flags, "--dump-dom", (tmp_path / "frame.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=100,
    )
    measured = re.search(r'data-widths="(\d+),(\d+)"', done.stdout)
    assert measured, done.stderr
    content, window = map(int, measured.groups())
    assert window == width and content <= window
