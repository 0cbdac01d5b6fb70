"""A folder in which every stage has really run, and the pages of it."""

import shutil

import numpy as np
import pytest
import yaml

from prosmin.common.files import read_json, write_arrays, write_json
from stages import (
    audit,
    calibrate,
    corrupt,
    detectors,
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
from stages.params.load import load
from stages.report.inputs import Inputs
from stages.report.page import page
from tests.stages.conftest import ROOT
from tests.stages.test_shift import faint


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


@pytest.fixture(scope="package")
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
        for stage in (linear, detectors, calibrate, knn, lowshot, corrupt):
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


@pytest.fixture(scope="package")
def html(finished):
    return page(Inputs(finished, load(finished / "params.yaml")))


@pytest.fixture(scope="package")
def edited(finished, tmp_path_factory):
    """The page of another folder, of which the tests that read it say what is different."""
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
