"""The ways of calibration from fitting to corrupted and shifted images, with small networks."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from prosmin.common import files
from prosmin.corruptions.apply import corrupt as corrupted
from prosmin.data import dataset
from prosmin.evaluation.embedding import embed as see
from prosmin.evaluation.recalibration import Recalibration
from prosmin.evaluation.ways import WAYS
from prosmin.metrics import calibration, classification
from prosmin.models import store
from stages import calibrate, corrupt, embed, fetch, linear, shift
from stages.common.recalibration import load_recalibration
from stages.linear import load_probe
from stages.params.load import load
from tests.stages.conftest import ROOT
from tests.stages.test_prediction import at_work

LIMIT = {"train": 200, "val": 80, "test": 60}
TYPES, SEVERITIES = ("contrast", "gaussian_noise"), (1, 4)


@pytest.fixture(scope="module")
def params():
    given = load(ROOT / "params.yaml")
    digits = given.fetch["digits"].model_copy(update={"limit": LIMIT})
    changes = {
        "fetch": {"digits": digits, "others": digits},
        "linear": given.linear.model_copy(update={"bootstrap": 100}),
        "calibrate": given.calibrate.model_copy(update={"severities": (2, 5), "bootstrap": 100}),
        "corrupt": given.corrupt.model_copy(
            update={"types": TYPES, "severities": SEVERITIES, "bootstrap": 100}
        ),
        "shift": given.shift.model_copy(update={"sets": ("others",), "bootstrap": 100}),
    }
    return given.model_copy(update=changes)


@pytest.fixture(scope="module")
def made(tmp_path_factory, params):
    folder = tmp_path_factory.mktemp("calibrate")
    with at_work(folder, params):
        for name in params.fetch:
            fetch.main(params, name)
            embed.main(params, name)
        for stage in (linear, calibrate, corrupt):
            stage.main(params)
        shift.main(params, "others")
    return folder


@pytest.fixture(autouse=True)
def here(made, monkeypatch):
    monkeypatch.chdir(made)


def measured(name):
    return files.read_metrics(f"metrics/{name}.json")


@pytest.mark.parametrize("encoder", ["trained", "random"])
def test_raw_and_temperature_are_those_of_the_linear_stage(encoder):
    of_probe, methods = measured("linear")[encoder], measured("calibrate")[encoder]["methods"]
    on_shifted = measured("shift/others")[encoder]
    assert list(methods) == list(WAYS) == list(on_shifted["calibration"])
    for method, end in (("raw", ""), ("temperature", "_calibrated")):
        for name in ("nll", "ece"):
            for side in ("", "_low", "_high"):
                value = methods[method][f"{name}{side}"]
                assert value == pytest.approx(of_probe[f"{name}{end}{side}"], rel=1e-5)
                other = on_shifted["calibration"][method][f"{name}{side}"]
                assert other == pytest.approx(on_shifted[f"{name}{end}{side}"], rel=1e-5)


@pytest.mark.parametrize("encoder", ["trained", "random"])
def test_the_best_way_on_val_and_on_shifted_val_is_named(encoder):
    metrics = measured("calibrate")
    methods = metrics[encoder]["methods"]
    for name in ("val", "shifted_val"):
        best = min(values[f"nll_{name}"] for values in methods.values())
        assert methods[metrics["chosen"][encoder][name]][f"nll_{name}"] == best
    assert methods["temperature_shifted"]["nll_shifted_val"] <= methods["raw"]["nll_shifted_val"]
    distance = methods["temperature_distance"]["nll_shifted_val"]
    assert distance <= methods["temperature_shifted"]["nll_shifted_val"]


@pytest.mark.parametrize("encoder", ["trained", "random"])
def test_under_corruption_the_numbers_are_means_over_the_cells(encoder, params):
    written = measured("corrupt")[encoder]
    network = store.load_encoder(Path("results/pretrain"), encoder)
    probe, ways = load_probe(encoder), load_recalibration(encoder)
    test = dataset.load_split("data/digits", "test", 8, 1)
    labels, cells = test.labels.numpy(), {}
    for name in TYPES:
        for severity in SEVERITIES:
            features = see(network, corrupted(test.images, name, severity, params.seed))
            for method, logits in ways.logits(probe, features).items():
                nll = classification.nll(logits, labels)
                ece = calibration.ece(classification.softmax(logits), labels)
                cells[method, name, severity] = nll, ece
    for method in WAYS:
        values = written["calibration"][method]
        for place, name in enumerate(("nll", "ece")):
            by_severity = {
                severity: np.mean([cells[method, kind, severity][place] for kind in TYPES])
                for severity in SEVERITIES
            }
            for severity, mean in by_severity.items():
                assert values[f"{name}_severity_{severity}"] == pytest.approx(mean, rel=1e-4)
            mean = values[f"{name}_corrupted"]
            assert mean == pytest.approx(np.mean(list(by_severity.values())), rel=1e-4)
            assert values[f"{name}_corrupted_low"] <= mean <= values[f"{name}_corrupted_high"]
    for severity in SEVERITIES:
        raw = written["calibration"]["raw"][f"ece_severity_{severity}"]
        assert raw == pytest.approx(written[f"ece_severity_{severity}"], rel=1e-4)


def test_a_second_run_writes_the_same_bytes(params):
    paths = [Path("metrics/calibrate.json"), *sorted(Path("results/calibrate").iterdir())]
    before = [path.read_bytes() for path in paths]
    calibrate.main(params)
    assert [path.read_bytes() for path in paths] == before and len(paths) == 3


def test_without_val_a_part_of_train_takes_its_place(tmp_path, made, monkeypatch, params):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    digits = params.fetch["digits"].model_copy(
        update={"val_fraction": 0.0, "limit": {"train": 250, "test": 40}}
    )
    changed = params.model_copy(update={"fetch": {"digits": digits}})
    for stage, *name in ((fetch, "digits"), (embed, "digits"), (linear,), (calibrate,)):
        stage.main(changed, *name)
    assert isinstance(load_recalibration("trained"), Recalibration)
    assert measured("calibrate")["trained"]["n"] == 40


def test_without_labels_it_is_left_out(tmp_path, made, monkeypatch, params):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    path = Path("results/embed/digits/trained.safetensors")
    arrays = dict(files.read_arrays(path))
    arrays["val.labels"] = np.full_like(arrays["val.labels"], -1)
    files.write_arrays(path, arrays)
    calibrate.main(params)
    reason = "the val split of dataset 'digits' has no labels."
    assert measured("calibrate") == {"left_out": reason}
    assert load_recalibration("trained") is None
