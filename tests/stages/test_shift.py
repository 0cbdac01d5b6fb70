"""The shift stage on images of the same classes from elsewhere, as ImageNet-A and -R have them."""

import shutil

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from prosmin.common import files
from prosmin.common.errors import UserError
from prosmin.metrics import calibration, classification, conformal
from stages import embed, fetch, linear, shift
from stages.linear import load_probe
from stages.params.fetch import Folder
from stages.params.load import load
from tests.stages.conftest import ROOT
from tests.stages.test_prediction import at_work

CLASSES = (3, 7, 8)


def faint(folder, names):
    """20 digits per class at half contrast, ``folder/<class>/<number>.png``, without splits."""
    digits = load_digits()
    for label, name in names.items():
        (folder / name).mkdir(parents=True)
        for place, picture in enumerate(digits.images[digits.target == label][:20]):
            Image.fromarray((picture * 8).astype(np.uint8)).save(folder / name / f"{place:02d}.png")


@pytest.fixture(scope="module")
def params(tmp_path_factory):
    folder = tmp_path_factory.mktemp("elsewhere")
    faint(folder / "faint", {label: str(label) for label in CLASSES})
    faint(folder / "strange", {3: "3", 4: "four"})
    (folder / "unlabelled").mkdir()
    shutil.copy(folder / "faint/3/00.png", folder / "unlabelled")
    given = load(ROOT / "params.yaml")
    sets = {
        name: Folder(source="folder", path=str(folder / name), test_fraction=1)
        for name in ("faint", "strange", "unlabelled")
    }
    digits = given.fetch["digits"].model_copy(
        update={"limit": {"train": 300, "val": 60, "test": 100}}
    )
    asked = given.shift.model_copy(update={"sets": tuple(sets), "bootstrap": 100})
    few = given.linear.model_copy(update={"bootstrap": 100})
    return given.model_copy(
        update={"fetch": {"digits": digits, **sets}, "shift": asked, "linear": few}
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory, params):
    folder = tmp_path_factory.mktemp("shift")
    with at_work(folder, params):
        for name in params.fetch:
            fetch.main(params, name)
        for name in ("digits", "faint"):
            embed.main(params, name)
        linear.main(params)
    return folder


@pytest.fixture(autouse=True)
def here(made, monkeypatch):
    monkeypatch.chdir(made)


def test_all_images_of_the_set_are_test_images():
    manifest = files.read_json("data/faint/manifest.json")
    assert manifest["splits"]["test"]["count"] == 60 and list(manifest["splits"]) == ["test"]


def test_the_probe_chooses_among_the_classes_of_the_set(params):
    shift.main(params, "faint")
    metrics = files.read_json("metrics/shift/faint.json")
    names = files.read_json("data/digits/manifest.json")["classes"]
    columns = [names.index(str(label)) for label in CLASSES]
    for encoder in ("trained", "random"):
        arrays = files.read_arrays(f"results/embed/faint/{encoder}.safetensors")
        logits = load_probe(encoder).logits(arrays["test.features"])
        truth = [
            names.index(files.read_json("data/faint/manifest.json")["classes"][label])
            for label in arrays["test.labels"]
        ]
        right = [
            columns[int(np.argmax(row[columns]))] == label
            for row, label in zip(logits, truth, strict=True)
        ]
        assert metrics[encoder]["accuracy"] == pytest.approx(np.mean(right), abs=1e-6)
        probabilities = classification.softmax(logits[:, columns])
        ece = calibration.ece(probabilities, np.array([columns.index(label) for label in truth]))
        assert metrics[encoder]["ece"] == pytest.approx(ece, abs=1e-6)
        probe = load_probe(encoder)
        calibrated = classification.softmax(logits[:, columns] / probe.temperature)
        sets = conformal.prediction_sets(calibrated, probe.threshold)
        assert metrics[encoder]["conformal_size"] == pytest.approx(sets.sum() / 60, abs=1e-5)
        assert (metrics[encoder]["classes"], metrics[encoder]["n"]) == (3, 60)
        known = files.read_arrays(f"results/embed/digits/{encoder}.safetensors")
        inside = np.isin(known["test.labels"], columns)
        clean = load_probe(encoder).logits(known["test.features"][inside])[:, columns].argmax(1)
        right = np.array(columns)[clean] == known["test.labels"][inside]
        assert metrics[encoder]["accuracy_clean"] == pytest.approx(right.mean(), abs=1e-6)
    assert len(files.read_csv("plots/shift/faint.csv")) > 4


def test_a_set_without_labels_is_left_out(params):
    shift.main(params, "unlabelled")
    metrics = files.read_json("metrics/shift/unlabelled.json")
    assert metrics == {"left_out": "dataset 'unlabelled' has no labels."}
    assert files.read_csv("plots/shift/unlabelled.csv") == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("faintly", "shift needs one of shift.sets, not 'faintly'.*did you mean 'faint'"),
        ("strange", "^class 'four' of strange is no class of digits"),
    ],
)
def test_what_cannot_be_matched_is_one_sentence(params, name, message):
    with pytest.raises(UserError, match=message):
        shift.main(params, name)
