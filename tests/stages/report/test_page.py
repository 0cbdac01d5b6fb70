"""The whole page: its sections, its references, its bytes, and its width in a browser."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from prosmin.common.files import read_arrays, read_json
from stages import detectors, embed, linear, ood, pretrain
from stages.params.load import load
from stages.report import __main__ as report
from stages.report.figures.drawing import COLOURS
from stages.report.inputs import Inputs
from stages.report.page import page
from tests.conftest import BROWSERS
from tests.stages.conftest import ROOT
from tests.stages.report.reading import SECTIONS, Tags, build


def test_an_objective_without_a_predicted_distribution_goes_through_to_the_report(folder):
    content = yaml.safe_load((folder / "params.yaml").read_text())
    content["pretrain"]["objective"] = {"name": "byol"}
    (folder / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    params = load()
    pretrain.main(params)
    for name in ("digits", "patches"):
        embed.main(params, name)
    linear.main(params)
    detectors.main(params)
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


def test_page_of_a_run_that_has_not_begun_still_has_every_section(folder):
    for name in ("metrics", "plots", "results"):
        shutil.rmtree(name)
    page = Tags(build())
    assert {attributes["id"] for tag, attributes in page.tags if tag == "section"} == SECTIONS
    assert "plots/pretrain/loss.csv does not exist. Run dvc repro pretrain" in page.text
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


def test_same_inputs_give_the_same_bytes_whatever_the_hash_seed_and_the_users_matplotlibrc(
    folder, html
):
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
    assert (folder / "results/report/index.html").read_text() == html


def test_page_names_no_place_on_this_machine(finished, html):
    assert (
        str(finished) not in html and str(ROOT) not in html and str(Path.home()) + "/" not in html
    )


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("whole", [True, False], ids=["finished", "empty"])
def test_page_is_no_wider_than_the_window(finished, html, tmp_path, width, whole):
    """The page in a frame of that width (a window has a least width): how wide is what it holds?"""
    (tmp_path / "params.yaml").write_bytes((finished / "params.yaml").read_bytes())
    html = html if whole else page(Inputs(tmp_path, load(finished / "params.yaml")))
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
