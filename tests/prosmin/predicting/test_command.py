"""The program ``prosmin``: its tables, its page, its errors, and what it does without."""

import csv
import json
import os
import re
import struct
import subprocess
import sys
import tomllib
import zlib
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from packaging.requirements import Requirement

from prosmin.predicting.command import main
from prosmin.predicting.model import Model, load
from prosmin.predicting.page import Gathered

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
        ({"--device": "meta"}, "--device is 'meta'"),
        ({"--out": "photos.csv"}, "--out is 'photos.csv'; it is a folder; a file is needed"),
        ({"--out": "file/out.csv"}, "--out is 'file/out.csv'; .*file is no folder"),
        ({"--report": "file/a.html"}, "--report is 'file/a.html'; .*file is no folder"),
        ({"--report": "./out.csv"}, "--report is 'out.csv'; it must be another file than --out"),
    ],
)
def test_bad_input_is_one_sentence(made, photos, tmp_path, capsys, monkeypatch, change, message):
    monkeypatch.chdir(tmp_path)
    Path("photos.csv").mkdir()
    Path("file").touch()
    given = {"FOLDER": photos, "--model": made.folder, "--out": "out.csv"} | change
    folder = given.pop("FOLDER")
    assert run("predict", folder, *(part for pair in given.items() for part in pair)) == 2
    said = capsys.readouterr().err
    assert re.search(f"^error: .*{message}", said) and len(said.splitlines()) == 1
    assert not Path("out.csv").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_one_sentence(made, photos, tmp_path, capsys):
    arguments = ("--model", made.folder, "--out", tmp_path / "out.csv", "--device", "cuda")
    assert run("predict", photos, *arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: --device is 'cuda'; ") and len(said.splitlines()) == 1


def test_odd_files_are_rows_of_the_table(made, photos, tmp_path, capsys):
    """Names with HTML, of other bytes than UTF-8 and over lines; loops of links; a huge image."""
    content = (photos / "00.png").read_bytes()
    names = [b"<img src=x onerror=alert(1)>.png", b"caf\xe9.png", b"two\nlines.png"]
    for name in names:
        (photos / os.fsdecode(name)).write_bytes(content)
    (photos / "itself.png").symlink_to("itself.png")
    (photos / "nowhere.png").symlink_to("gone.png")
    (photos / "above").symlink_to(photos, target_is_directory=True)
    os.mkfifo(photos / "pipe.png")
    huge = bytearray(content)
    huge[16:24] = struct.pack(">II", 60_000, 60_000)
    huge[29:33] = struct.pack(">I", zlib.crc32(huge[12:29]))
    (photos / "huge.png").write_bytes(huge)
    page, out = tmp_path / "page.html", tmp_path / os.fsdecode(b"t\xe9.csv")
    arguments = ("--model", made.folder, "--out", out, "--report", page, "--batch", "7")
    assert run("predict", photos, *arguments) == 0
    said = capsys.readouterr()
    assert "33 of 38 images" in said.out and not said.err
    with open(out, newline="") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    errors = {name: row["error"] for name, row in rows.items() if row["error"]}
    assert len(rows) == 38 and not any(name.startswith("above/") for name in rows)
    assert errors.keys() == {"03.png", "huge.png", "itself.png", "nowhere.png", "pipe.png"}
    assert errors["nowhere.png"] == "no such file or directory"
    assert errors["pipe.png"] == "not a regular file" and "exceeds limit" in errors["huge.png"]
    assert {"caf\\xe9.png", "two\\x0alines.png"} < rows.keys()
    html = page.read_text(encoding="utf-8")
    assert "onerror=alert(1)&gt;" in html and "<img src=x" not in html


def stopped_by(error):
    """``Model.predict_prepared`` that ends with an error in its third call."""
    calls, whole = iter(range(100)), Model.predict_prepared

    def predict(self, *arguments):
        if next(calls) == 2:
            raise error
        return whole(self, *arguments)

    return predict


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "prosmin: interrupted; no table was written"),
        (OSError(28, "No space left"), 2, "error: .* on: No space left; no table was written"),
        (RuntimeError("CUDA out of memory. Tried"), 2, "error: .*too little memory for --batch 4"),
    ],
)
def test_an_end_in_the_middle_leaves_no_file(
    made, photos, tmp_path, capsys, monkeypatch, error, code, message
):
    monkeypatch.setattr(Model, "predict_prepared", stopped_by(error))
    page, out = tmp_path / "out" / "page.html", tmp_path / "out" / "out.parquet"
    arguments = ("--model", made.folder, "--out", out, "--report", page, "--batch", "4")
    assert run("predict", photos, *arguments) == code
    said = capsys.readouterr().err
    assert re.match(message, said) and len(said.splitlines()) == 1
    assert not list(out.parent.iterdir())


def test_a_page_that_cannot_be_written_does_not_deny_the_table(
    made, photos, tmp_path, capsys, monkeypatch
):
    def write(*_):
        raise OSError(28, "No space left")

    monkeypatch.setattr(Gathered, "write", write)
    page, out = tmp_path / "page.html", tmp_path / "out.csv"
    assert run("predict", photos, "--model", made.folder, "--out", out, "--report", page) == 2
    assert f"No space left; {out} is written" in capsys.readouterr().err and out.exists()


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
