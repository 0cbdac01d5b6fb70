"""Files that are missing, broken or without labels, and params that name folders."""

import re
from pathlib import Path

import numpy as np
import pytest

from prosmin.common.errors import UserError
from prosmin.common.files import (
    read_arrays,
    read_csv,
    read_json,
    write_arrays,
    write_csv,
    write_json,
)
from stages.params.fetch import Folder
from stages.params.load import load
from stages.report import __main__ as report
from stages.report.inputs import Inputs
from tests.stages.conftest import ROOT
from tests.stages.report.reading import Tags, build


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
