"""Every recipe of ``docs/extending.md`` does what the page says and can be removed again.

All are applied to one small project, one after another, and their stages run in one ``dvc repro``:
every process that loads DVC or PyTorch takes seconds. ``--single-item`` runs no stage between them,
as if no other recipe had been followed.
"""

import json

import numpy as np
import pytest
from sklearn.datasets import load_digits

from tests.extending.recipes import REPRO, Project, recipe

TITLES = ("An objective", "A metric", "A detector", "A source of images", "A stage")
pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def followed(tmp_path_factory) -> tuple[Project, dict[str, str]]:
    """The project with all recipes followed, and what their commands printed, by title."""
    project = Project.create(tmp_path_factory.mktemp("extending") / "project")
    project.run_stages()
    digits = load_digits()
    images, names = digits.images[:60].astype(np.uint8), digits.target[:60].astype(str)
    np.savez(project.folder / "scans.npz", images=images, labels=names)
    recipes = {title: recipe(title) for title in TITLES}
    for change in recipes.values():
        project.apply(change)
        for command in change.before:
            project.run(command)
    project.run("python -m pipelines.deps")
    modules = {name for change in recipes.values() for name in change.changed}
    modules = {name for name in modules if name.endswith(".py")}
    project.run("ruff check", *modules)
    project.run("ruff format --check", *modules)
    stages = [stage for change in recipes.values() for stage in change.stages]
    said = {REPRO: project.run(REPRO.strip(), "--single-item", *stages)}
    for title, change in recipes.items():
        said[title] = "".join(project.run(command) for command in change.after)
    return project, said


@pytest.fixture
def project(followed) -> Project:
    return followed[0]


def read(project: Project, name: str) -> dict:
    return json.loads((project.folder / name).read_text())


def test_an_objective(followed):
    project, said = followed
    assert " passed" in said["An objective"]
    assert read(project, "results/pretrain/model.json")["model"]["objective"]["name"] == "spectral"
    losses = (project.folder / "plots/pretrain/loss.csv").read_text().splitlines()
    assert len(losses) == 2 and -2 < float(losses[1].split(",")[2]) < 1


def test_a_metric(project):
    metrics = read(project, "metrics/linear.json")
    for encoder in ("trained", "random"):
        values = metrics[encoder]
        assert 0 < values["spherical_low"] < values["spherical"] < values["spherical_high"] < 1
        assert 0 < values["spherical_calibrated"] < 1
    report = (project.folder / "results/report/index.html").read_text()
    assert "<code>spherical</code>" in report and "spherical loss" in report
    page = (project.folder / "docs/evaluation.md").read_text()
    assert project.run("python -m prosmin.metrics.catalogue").strip() in page


def test_a_detector(project):
    metrics = read(project, "metrics/ood/digits_rotated.json")
    for encoder in ("trained", "random"):
        values = metrics[encoder]["gen"]
        assert 0 < values["auroc_low"] < values["auroc"] < values["auroc_high"] < 1
    curves = (project.folder / "plots/ood/digits_rotated.csv").read_text()
    assert "\ntrained,gen," in curves and "\nrandom,gen," in curves


def test_a_source_of_images(project):
    manifest = read(project, "data/scans/manifest.json")
    assert manifest["source"] == "npz" and manifest["classes"] == [
        str(digit) for digit in range(10)
    ]
    assert sum(split["count"] for split in manifest["splits"].values()) == 60


def test_a_stage(followed):
    project, said = followed
    metrics = read(project, "metrics/ncm.json")
    for encoder in ("trained", "random"):
        values = metrics[encoder]
        assert 0 < values["accuracy_low"] < values["accuracy"] < values["accuracy_high"] < 1
    plot = (project.folder / "plots/ncm/classes.csv").read_text().splitlines()
    assert plot[0] == "encoder,class,accuracy" and len(plot) == 1 + 2 * 10
    assert "prosmin/evaluation/class_means.py" in (project.folder / "dvc.yaml").read_text()
    assert "Running stage 'ncm'" in said[REPRO]
    assert "& ncm" in (project.folder / "README.md").read_text()


def test_the_recipes_can_be_removed(project):
    """The last test of this module."""
    project.remove()
