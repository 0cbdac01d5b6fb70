"""Predictions of a loaded model are those of the exported parts, for images of any kind."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

import prosmin
from prosmin.common.errors import UserError
from prosmin.metrics import classification, conformal
from prosmin.predicting import bundle


@pytest.fixture(scope="module")
def model(made):
    return prosmin.load(made.folder, "cpu")


def test_predictions_equal_the_evaluation(model, made):
    images, labels = made.splits["test"]
    found, embedding = model.predict(images), made.embeddings["test"]
    logits = made.probe.logits(embedding.features)
    expected = classification.softmax(logits / made.probe.temperature)
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)
    assert found.labels == [made.facts.classes[place] for place in logits.argmax(axis=1)]
    assert (logits.argmax(axis=1) == labels).mean() > 0.9
    sets = conformal.prediction_sets(expected, made.probe.threshold)
    np.testing.assert_array_equal(found.sets, sets)
    for name, scores in made.reference.detectors.score(embedding.features)[0].items():
        np.testing.assert_allclose(found.scores[name], scores, rtol=1e-5)
    np.testing.assert_allclose(found.embedding.log_sigma, embedding.log_sigma, atol=1e-5)
    assert len(found) == 30 and found.distances.shape == found.nearest.shape == (30, 3)


def test_a_training_image_is_its_own_nearest_and_black_is_unusual(model, made):
    for split, place, row in (("train", 0, 0), ("train", 59, 59), ("val", 0, 60), ("val", 39, 99)):
        found = model.predict(made.splits[split][0][place : place + 1], neighbours=1)
        assert found.nearest.tolist() == [[made.names[row]]]
        assert found.distances[0, 0] < 1e-6
    strange = model.predict(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
    assert strange.unusual[0] and strange.percentiles[0] == 100
    usual = model.predict(made.splits["test"][0])
    assert usual.unusual.mean() < 0.3 and 20 < usual.percentiles.mean() < 80


def test_an_image_of_any_kind_gives_the_same(model, made, tmp_path):
    pixels = made.splits["test"][0][0]
    array = pixels.permute(1, 2, 0).numpy()
    content = io.BytesIO()
    Image.fromarray(array).save(content, "PNG")
    (path := tmp_path / "image.png").write_bytes(content.getvalue())
    kinds = [path, str(path), content.getvalue(), Image.fromarray(array), array, pixels]
    features = model.embed(kinds).features
    np.testing.assert_allclose(features, np.repeat(features[:1], 6, axis=0), atol=1e-6)


def test_other_sizes_and_channels_are_converted_as_the_evaluations_do(model):
    grey = np.random.default_rng(0).integers(0, 256, (40, 25), np.uint8)
    once, thrice = model.prepare(grey), model.prepare(np.repeat(grey[..., None], 3, axis=2))
    assert once.shape == (3, 16, 16) and torch.equal(once, thrice)
    assert model.predict([grey, grey[:16, :16]]).percentiles.shape == (2,)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 3)),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        torch.zeros(3, 4, 4),
        torch.zeros(4, 4, 3, dtype=torch.uint8),
        7,
    ],
)
def test_anything_else_is_one_sentence(model, image):
    with pytest.raises(UserError, match="^an image is .*; needed: a file, bytes, a PIL image"):
        model.predict([image])


def test_a_broken_file_and_an_empty_list_are_one_sentence(model, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(UserError, match="broken.jpg cannot be read: "):
        model.predict([tmp_path / "broken.jpg"])
    with pytest.raises(UserError, match="there are no images to predict"):
        model.predict([])


def test_without_labels_there_are_no_classes(unlabelled):
    found = prosmin.load(unlabelled.folder, "cpu").predict(unlabelled.splits["test"][0])
    assert found.labels is found.probabilities is found.sets is None
    assert list(found.scores) == ["knn"] and found.distances.shape == (30, 3)
    assert found.uncertainty[0] in found.label_free
    np.testing.assert_allclose(
        found.embedding.log_sigma, unlabelled.embeddings["test"].log_sigma, atol=1e-5
    )


def test_the_uncertainty_of_a_classifier_is_the_entropy(model, made):
    found = model.predict(made.splits["test"][0])
    name, values = found.uncertainty
    expected = [-sum(p * np.log(p) for p in row if p > 0) for row in found.probabilities]
    assert name == "entropy"
    np.testing.assert_allclose(values, expected, atol=1e-12)


def test_a_damaged_export_is_refused(export):
    (export / bundle.HEADS).unlink()
    with pytest.raises(UserError, match="heads.safetensors is missing"):
        prosmin.load(export)
