"""Recipes: each file is complete and says what it costs; a run of it has a folder of its own."""

import shutil
from pathlib import Path

import pytest
import yaml

from pipelines import recipe
from prosmin.common.errors import UserError
from stages.params.load import load
from tests.pipelines.clones import ROOT, TINY, clone

FILES = sorted((ROOT / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_a_recipe_is_complete_and_says_what_it_costs_and_what_to_expect(file, tmp_path):
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    shutil.copy(file, tmp_path / "params.yaml")
    params = load(tmp_path / "params.yaml")
    assert set(yaml.safe_load(file.read_text())) == set(type(params).model_fields)
    head = file.read_text().partition("\n\n")[0]
    assert f"make repro PARAMS=recipes/{file.name}" in head
    for word in ("# Cost", "# Expect"):
        assert word in head
    paths = [
        path
        for dataset in params.fetch.values()
        for path in [*getattr(dataset, "files", {}).values(), getattr(dataset, "path", None)]
        if path
    ]
    assert paths and all(path.startswith("sets/") for path in paths)


@pytest.fixture
def project(tmp_path, monkeypatch):
    changes = {key: value for key, value in TINY.items() if key.startswith("pretrain")}
    folder = clone(tmp_path, changes)
    monkeypatch.chdir(folder)
    (folder / "sets").mkdir()
    return folder


def test_a_run_has_a_folder_of_its_own_that_stays(project):
    mine = Path("params.yaml").read_bytes()
    settings = yaml.safe_load(mine) | {"seed": 7}
    Path("recipes/other.yaml").write_text(yaml.safe_dump(settings))
    Path("stages/knn.py").write_text("# a change that is not committed\n")
    folder = recipe.prepare(Path("recipes/other.yaml"))
    assert folder == Path("runs/other") and load(folder / "params.yaml").seed == 7
    assert (folder / "stages/knn.py").read_text() == "# a change that is not committed\n"
    assert (folder / "sets").resolve() == (project / "sets").resolve()
    assert "cache" in (folder / ".dvc/config.local").read_text()
    (folder / "results").mkdir(exist_ok=True)
    for name in ("results/made", "dvc.lock"):
        (folder / name).write_text("stages: {}\n")
    settings["seed"] = 8
    Path("recipes/other.yaml").write_text(yaml.safe_dump(settings))
    Path("stages/knn.py").write_text("# another change\n")
    recipe.prepare(Path("recipes/other.yaml"))
    assert load(folder / "params.yaml").seed == 8
    assert (folder / "stages/knn.py").read_text() == "# another change\n"
    for name in ("results/made", "dvc.lock"):
        assert (folder / name).read_text() == "stages: {}\n"
    assert Path("params.yaml").read_bytes() == mine and not Path("dvc.lock").exists()
    with pytest.raises(UserError, match="recipes/othr.yaml does not exist; there are: .*other"):
        recipe.prepare(Path("recipes/othr.yaml"))
