import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from prosmin.evaluation.embedding import describe, embed
from prosmin.models import store
from tests.prosmin.models.small import SMALL

IMAGES = torch.tensor(load_digits().images[:50] / 16 * 255).round().byte().unsqueeze(1)


def test_features_keep_the_order_of_the_images_whatever_the_batch():
    encoder = store.build_model(SMALL).eval().encoder
    whole = embed(encoder, IMAGES, 50)
    assert whole.shape == (50, 8) and whole.dtype == np.float32
    np.testing.assert_allclose(embed(encoder, IMAGES, 7), whole, atol=1e-5)
    alone = [embed(encoder, IMAGES[place : place + 1])[0] for place in (0, 31, 49)]
    np.testing.assert_allclose(alone, whole[[0, 31, 49]], atol=1e-5)


def test_log_sigma_is_the_mean_of_what_the_model_predicts():
    model = store.build_model(SMALL, seed=3).eval()
    description = describe(model, IMAGES, 16)
    with torch.no_grad():
        expected_features, _, expected = model.predict(IMAGES.float() / 255)
    np.testing.assert_allclose(description.features, expected_features.numpy(), atol=1e-5)
    np.testing.assert_allclose(description.log_sigma, expected.mean(1).numpy(), atol=1e-5)
    np.testing.assert_allclose(description.features, embed(model.encoder, IMAGES), atol=1e-5)


def test_doubts_are_a_number_per_image_whatever_the_batch():
    model = store.build_model(SMALL, seed=3).eval()
    doubts, other = (describe(model, IMAGES, size).doubts for size in (16, 50))
    assert doubts.keys() == other.keys() == {"projection_norm", "mean_norm", "unexplained"}
    for name, values in doubts.items():
        assert values.shape == (50,) and values.dtype == np.float32
        np.testing.assert_allclose(values, other[name], atol=1e-5)
    # Monotone functions of each other, so they rank images alike.
    np.testing.assert_allclose(doubts["unexplained"], 1 - doubts["mean_norm"] ** 2 / 4, atol=1e-5)


@pytest.mark.gpu
def test_a_gpu_embeds_as_a_cpu_does():
    model = store.build_model(SMALL, seed=3).eval()
    here = describe(model, IMAGES, 16)
    there = describe(model.cuda(), IMAGES, 16)
    np.testing.assert_allclose(here.features, there.features, atol=1e-3)
    np.testing.assert_allclose(here.log_sigma, there.log_sigma, atol=1e-3)
    for name, values in here.doubts.items():
        np.testing.assert_allclose(values, there.doubts[name], atol=1e-3)
