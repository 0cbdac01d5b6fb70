"""The ONNX file predicts as the model does, for batches of any size, and is the same each time."""

import builtins
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prosmin.common.errors import UserError
from prosmin.predicting import onnx_file
from prosmin.predicting.model import load

ROOT = Path(__file__).parents[3]
ALL = {
    "features", "logits", "probabilities", "set", "entropy", "log_sigma", "projection_norm",
    "mean_norm", "unexplained", "width", "answer_entropy", "ood_mahalanobis",
}  # fmt: skip


@pytest.fixture(scope="module")
def runtime():
    for name in onnx_file.PACKAGES:
        pytest.importorskip(name, reason=f"{name} is not installed: pip install '.[onnx]'")
    return pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def written(runtime, made, tmp_path_factory):
    """The bytes of the file of the model that tells red from green."""
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    onnx_file.write(path, load(made.folder, "cpu"))
    return path.read_bytes()


@pytest.mark.parametrize("count", [1, 2, 30])
def test_it_gives_what_the_model_predicts(written, made, count):
    images = made.splits["test"][0][:count]
    found = onnx_file.run(written, images.numpy())
    known = load(made.folder, "cpu").predict(images)
    assert found.keys() == ALL
    np.testing.assert_allclose(found["features"], known.embedding.features, atol=1e-5)
    np.testing.assert_allclose(found["probabilities"], known.probabilities, atol=1e-5)
    np.testing.assert_array_equal(found["set"], known.sets)
    np.testing.assert_allclose(found["entropy"], known.uncertainty[1], atol=1e-5)
    logits = made.probe.logits(known.embedding.features)
    np.testing.assert_allclose(found["logits"], logits, rtol=1e-5, atol=1e-5)
    for name, values in known.label_free.items():
        np.testing.assert_allclose(found[name], values, atol=1e-5)
    expected = known.scores["mahalanobis"]
    np.testing.assert_allclose(found["ood_mahalanobis"], expected, rtol=1e-5)


def test_its_notes_say_what_a_program_needs(written, made, runtime):
    session = runtime.InferenceSession(written, providers=["CPUExecutionProvider"])
    (taken,) = session.get_inputs()
    assert (taken.name, taken.type) == ("images", "tensor(uint8)")
    assert isinstance(taken.shape[0], str) and taken.shape[1:] == [3, 16, 16]
    raw = session.get_modelmeta().custom_metadata_map
    known = {name: json.loads(value) for name, value in raw.items()}
    assert known["classes"] == list(made.facts.classes) and known["level"] == 0.9
    assert known["temperature"] == made.probe.temperature and known["short_side"] == 16
    held = made.reference.held["mahalanobis"]
    assert (held <= known["ood_threshold"]).mean() == 0.95


def test_the_code_of_the_docs_predicts_a_photograph(written, made, tmp_path, monkeypatch):
    (tmp_path / "results/export").mkdir(parents=True)
    (tmp_path / "results/export/model.onnx").write_bytes(written)
    pixels = np.kron(made.splits["test"][0][0].permute(1, 2, 0), np.ones((4, 3, 1), np.uint8))
    Image.fromarray(pixels).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    given = {}
    exec(re.search("```py\n(.*?)```", (ROOT / "docs/predict.md").read_text(), re.DOTALL)[1], given)
    known = load(made.folder, "cpu").predict(["photo.jpg"])
    found = given["outputs"]["probabilities"]
    np.testing.assert_allclose(found, known.probabilities, atol=0.02)  # Pillow resizes otherwise


def test_it_is_the_same_each_time_and_names_no_path(written, made, tmp_path):
    onnx_file.write(tmp_path / "again.onnx", load(made.folder, "cpu"))
    assert (tmp_path / "again.onnx").read_bytes() == written
    assert b".py" not in written and b"site-packages" not in written


def test_without_labels_there_are_features_and_label_free_scores(runtime, unlabelled, tmp_path):
    model = load(unlabelled.folder, "cpu")
    onnx_file.write(tmp_path / "model.onnx", model)
    images = unlabelled.splits["test"][0]
    found = onnx_file.run((tmp_path / "model.onnx").read_bytes(), images.numpy())
    assert found.keys() == {"features", *model.predict(images).label_free}


def test_a_model_that_differs_is_refused():
    values = {"features": np.ones((2, 3))}
    onnx_file.compare({"features": np.full((2, 3), 1.00001)}, values)
    with pytest.raises(UserError, match="does not give the features of the model"):
        onnx_file.compare({"features": np.full((2, 3), 1.001)}, values)
    with pytest.raises(UserError, match="does not give the features"):
        onnx_file.compare({"features": np.full((2, 3), np.nan)}, values)
    with pytest.raises(UserError, match="has the outputs logits, not features"):
        onnx_file.compare({"logits": np.ones(2)}, values)


@pytest.mark.parametrize("package", onnx_file.PACKAGES)
def test_a_missing_package_is_named_before_any_work(monkeypatch, tmp_path, package):
    for name in onnx_file.PACKAGES:
        monkeypatch.setitem(sys.modules, name, None if name == package else builtins)
    with pytest.raises(UserError, match=f"an ONNX file needs {package}, which .*pip install"):
        onnx_file.write(tmp_path / "model.onnx", None)
