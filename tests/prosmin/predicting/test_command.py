"""The program ``prosmin``: its tables, its page, its errors, and what it does without."""

import csv
import json
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from packaging.requirements import Requirement

from prosmin.predicting.command import main
from prosmin.predicting.model import load

ROOT = Path(__file__).parents[3]


def run(*arguments):
    """The exit code of the program."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as end:
        return end.code
    return 0


def test_predict_writes_a_row_per_file(made, photos, tmp_path, capsys):
    out = tmp_path / "new" / "out.parquet"
    assert run("predict", photos, "--model", made.folder, "--out", out, "--batch", "8") == 0
    said = capsys.readouterr()
    assert f"{out}: 30 of 31 images; " in said.out and " are unusual" in said.out
    assert "not read, for reasons in the table: 03.png" in said.out
    rows = {row["file"]: row for row in pyarrow.parquet.read_table(out).to_pylist()}
    assert list(rows) == sorted(rows) and len(rows) == 31 and rows["03.png"]["class"] is None
    assert rows["03.png"]["error"] and rows["00.png"]["error"] is None
    expected = load(made.folder, "cpu").predict(made.splits["test"][0])
    for place in range(30):
        row = rows[f"{'more <b>/' if place % 2 else ''}{place:02}.png"]
        assert row["class"] == expected.labels[place]
        for number, name in enumerate(made.facts.classes):
            assert abs(row[f"p_{name}"] - expected.probabilities[place, number]) < 1e-5
        for detector, scores in expected.scores.items():
            assert row[f"ood_{detector}"] == pytest.approx(scores[place], rel=1e-5, abs=1e-5)
        assert row["unusual"] == expected.unusual[place]
        assert row["nearest"] == expected.nearest[place].tolist()
        assert row["log_sigma"] == pytest.approx(expected.embedding.log_sigma[place], abs=1e-5)


def test_embed_writes_features(made, photos, tmp_path):
    out = tmp_path / "out.csv"
    assert run("embed", photos, "--model", made.folder, "--out", out, "--workers", "1") == 0
    with open(out, newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 31 and {"features", "log_sigma", "projection_norm"} < set(rows[0])
    first = np.array(json.loads(rows[0]["features"]))
    np.testing.assert_allclose(first, made.embeddings["test"].features[0], atol=1e-5)


def test_the_page_shows_the_images_without_links(made, photos, tmp_path):
    page = tmp_path / "page.html"
    out = tmp_path / "out.csv"
    arguments = ("--model", made.folder, "--out", out, "--report", page)
    assert run("predict", photos, *arguments) == 0
    html = page.read_text()
    for title in ("Most uncertain", "Most unusual", "Near-duplicates", "Examples per class"):
        assert title in html
    assert "Not readable" in html and "03.png" in html
    assert "red &amp; round" in html and "more &lt;b&gt;/01.png" in html and "<b>/" not in html
    assert "http" not in html.replace("http-equiv", "") and html.count("data:image/png") > 30


def test_a_dataset_without_labels_has_a_page_too(unlabelled, photos, tmp_path):
    page, out = tmp_path / "page.html", tmp_path / "out.parquet"
    arguments = ("--model", unlabelled.folder, "--out", out, "--report", page)
    assert run("predict", photos, *arguments) == 0
    assert "Examples per class" not in page.read_text() and "Most unusual" in page.read_text()
    columns = pyarrow.parquet.read_table(out).column_names
    assert "class" not in columns and {"unusual", "ood_knn", "nearest"} < set(columns)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--out": "out.xlsx"}, "its ending must be .parquet or .csv"),
        ({"--model": "nothing"}, "nothing holds no exported model"),
        ({"FOLDER": "no photos"}, "no photos is no folder of images"),
        ({"--device": "gpu0"}, "--device is 'gpu0'"),
    ],
)
def test_bad_input_is_one_sentence(made, photos, tmp_path, capsys, monkeypatch, change, message):
    monkeypatch.chdir(tmp_path)
    given = {"FOLDER": photos, "--model": made.folder, "--out": "out.csv"} | change
    folder = given.pop("FOLDER")
    assert run("predict", folder, *(part for pair in given.items() for part in pair)) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and message in said and len(said.splitlines()) == 1
    assert not Path("out.csv").exists()


def test_a_misspelt_argument_names_the_command(capsys):
    assert run("predict", "photos", "--out", "x.csv", "--batch", "0") == 2
    assert "'0' is no whole number above 0" in capsys.readouterr().err
    assert run() == 2


def test_the_base_installation_is_enough(made, photos, tmp_path):
    """No package of an extra is imported: each of them raises here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = chain(*project["optional-dependencies"].values())
    names = {Requirement(line).name.replace("-", "_") for line in extras} | {"sklearn"}
    assert {"dvc", "prefect", "datasets", "pydantic", "accelerate", "scipy"} < names
    code = (
        "import sys\n"
        f"for name in {sorted(names)}: sys.modules[name] = None\n"
        "from prosmin.predicting.command import main; main(sys.argv[1:])"
    )
    out, page = tmp_path / "out.parquet", tmp_path / "page.html"
    arguments = ["--model", made.folder, "--out", out, "--report", page, "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "-c", code, "predict", photos, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert out.exists() and page.exists()


def test_help_is_fast_and_says_what_there_is():
    code = "import sys; from prosmin.predicting.command import main\ntry: main(['--help'])\n"
    code += "finally: assert 'torch' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "predict" in done.stdout and "embed" in done.stdout


def test_the_program_is_installed_under_its_name():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"prosmin": "prosmin.predicting.command:main"}
