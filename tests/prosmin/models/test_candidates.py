"""The entropy of the answer against its definition, by NumPy and SciPy."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.special import softmax
from scipy.stats import entropy

from prosmin.common import distributed
from prosmin.models import store
from prosmin.objectives import settings
from prosmin.objectives.contrastive import MoCoV3, SimCLR
from tests.prosmin.models.small import SMALL
from tests.prosmin.objectives.conftest import tiny_encoder, tiny_model


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def whitened(y, shrinkage):
    centred = y - y.mean(0)
    covariance = centred.T @ centred / len(y)
    mean = np.trace(covariance) / len(covariance)
    shrunk = (1 - shrinkage) * covariance + shrinkage * mean * np.eye(len(covariance))
    return centred @ np.linalg.inv(np.real(sqrtm(shrunk)))


def images(count):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 1, 4, 4), dtype=torch.uint8, generator=generator)


VIEWS = images(32).float() / 255


@pytest.mark.parametrize("heads", ["shared", "stopped"])
@pytest.mark.parametrize("width", ["predicted", "constant", "fixed"])
def test_the_entropy_is_that_of_the_predicted_answer(heads, width):
    model = tiny_model(identification=1.0, heads=heads, width=width).eval()
    shown = images(40)
    model.set_candidates(shown)
    with torch.no_grad():
        y = torch.nn.Sequential(*model.target)(shown.float() / 255).double().numpy()
        prediction = model.predict_from(model.project(VIEWS))
        ours = model.describe(VIEWS).doubts["answer_entropy"].numpy()
    similarity = unit(prediction.mean.double().numpy()) @ unit(whitened(y, model.shrinkage)).T
    squared = np.exp(2 * prediction.log_width.double().numpy())[:, None]
    answer = softmax(similarity / squared, axis=1)
    np.testing.assert_allclose(ours, entropy(answer, axis=1), rtol=1e-4)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
@pytest.mark.parametrize("kind", [SimCLR, MoCoV3])
def test_contrastive_baselines_answer_at_their_temperature(kind, temperature):
    torch.manual_seed(0)
    asked = getattr(settings, kind.__name__)(temperature=temperature)
    model, shown = kind(tiny_encoder(), 12, 4, asked).eval(), images(40)
    model.set_candidates(shown)
    with torch.no_grad():
        projection, y = model.project(VIEWS), model.project(shown.float() / 255)
        mean = model.predicted_mean(projection) if kind is MoCoV3 else projection
        ours = model.describe(VIEWS).doubts["answer_entropy"].numpy()
    similarity = unit(mean.double().numpy()) @ unit(y.double().numpy()).T
    expected = entropy(softmax(similarity / temperature, axis=1), axis=1)
    np.testing.assert_allclose(ours, expected, rtol=1e-4)


def test_without_candidates_or_identification_there_is_no_answer():
    assert "answer_entropy" not in tiny_model(identification=1.0).describe(VIEWS).doubts
    model = tiny_model().eval()
    model.set_candidates(images(8))
    assert "answer_entropy" not in model.describe(VIEWS).doubts


def test_candidates_are_saved_and_read_with_the_model(tmp_path):
    described = replace(SMALL, objective=settings.ProSMIN(identification=1.0))
    model = store.build_model(described).eval()
    model.set_candidates(images(9))
    store.save_description(tmp_path, described, {})
    store.save_state(tmp_path / store.WEIGHTS["trained"], model.state_dict())
    read = store.load_model(tmp_path)
    assert read.candidates.targets.shape == (9, 4)
    with torch.no_grad():
        one, other = (network.describe(VIEWS).doubts for network in (model, read))
    assert torch.equal(one["answer_entropy"], other["answer_entropy"])


def test_a_process_alone_counts_as_one(monkeypatch):
    monkeypatch.setattr(distributed.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed.dist, "get_world_size", lambda: 3)
    with distributed.alone():
        assert distributed.world() == 1
    assert distributed.world() == 3
