"""Every recipe of ``docs/extending.md`` does what the page says and can be removed again."""

import json

import numpy as np
import pytest
from sklearn.datasets import load_digits

from tests.extending.recipes import Project, recipe

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Project:
    """The small project after its first stages."""
    project = Project.create(tmp_path_factory.mktemp("extending") / "project")
    project.run_stages()
    return project


@pytest.fixture
def project(finished, tmp_path) -> Project:
    return finished.copy(tmp_path / "project")


def read(project: Project, name: str) -> dict:
    return json.loads((project.folder / name).read_text())


def follow(project: Project, title: str) -> str:
    """Apply a recipe, run its commands and return what they print."""
    change = recipe(title)
    project.apply(change)
    said = "".join(project.run(command) for command in change.commands)
    project.run("python -m pipelines.deps")
    modules = [name for name in change.changed if name.endswith(".py")]
    project.run("ruff check", *modules)
    project.run("ruff format --check", *modules)
    return said


def test_an_objective(project):
    said = follow(project, "An objective")
    assert " passed" in said
    assert read(project, "results/pretrain/model.json")["model"]["objective"]["name"] == "spectral"
    losses = (project.folder / "plots/pretrain/loss.csv").read_text().splitlines()
    assert len(losses) == 2 and -2 < float(losses[1].split(",")[2]) < 1
    project.remove()


def test_a_metric(project):
    follow(project, "A metric")
    metrics = read(project, "metrics/linear.json")
    for encoder in ("trained", "random"):
        values = metrics[encoder]
        assert 0 < values["spherical_low"] < values["spherical"] < values["spherical_high"] < 1
        assert 0 < values["spherical_calibrated"] < 1
    report = (project.folder / "results/report/index.html").read_text()
    assert "<code>spherical</code>" in report and "spherical loss" in report
    assert project.run("python -m prosmin.metrics.catalogue").strip() in page(project)
    project.remove()


def page(project: Project) -> str:
    return (project.folder / "docs/evaluation.md").read_text()


def test_a_detector(project):
    follow(project, "A detector")
    metrics = read(project, "metrics/ood/digits_rotated.json")
    for encoder in ("trained", "random"):
        values = metrics[encoder]["gen"]
        assert 0 < values["auroc_low"] < values["auroc"] < values["auroc_high"] < 1
    curves = (project.folder / "plots/ood/digits_rotated.csv").read_text()
    assert "\ntrained,gen," in curves and "\nrandom,gen," in curves
    project.remove()


def test_a_source_of_images(project):
    digits = load_digits()
    images, names = digits.images[:60].astype(np.uint8), digits.target[:60].astype(str)
    np.savez(project.folder / "scans.npz", images=images, labels=names)
    follow(project, "A source of images")
    manifest = read(project, "data/scans/manifest.json")
    assert manifest["source"] == "npz" and manifest["classes"] == [
        str(digit) for digit in range(10)
    ]
    assert sum(split["count"] for split in manifest["splits"].values()) == 60
    project.remove()


def test_a_stage(project):
    said = follow(project, "A stage")
    assert "Running stage 'ncm'" in said and "Running stage 'embed" not in said
    metrics = read(project, "metrics/ncm.json")
    for encoder in ("trained", "random"):
        values = metrics[encoder]
        assert 0 < values["accuracy_low"] < values["accuracy"] < values["accuracy_high"] < 1
    plot = (project.folder / "plots/ncm/classes.csv").read_text().splitlines()
    assert plot[0] == "encoder,class,accuracy" and len(plot) == 1 + 2 * 10
    assert "prosmin/evaluation/class_means.py" in (project.folder / "dvc.yaml").read_text()
    assert "& ncm" in (project.folder / "README.md").read_text()
    project.remove()
