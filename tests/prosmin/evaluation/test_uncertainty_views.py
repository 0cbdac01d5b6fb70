"""Crops against torchvision, and embeddings that do not depend on how images are divided."""

import numpy as np
import torch
import torchvision.transforms.functional as tv

from prosmin.evaluation import uncertainty_views
from prosmin.evaluation.embedding import describe, embed
from prosmin.models import store
from prosmin.views.settings import ViewSettings

IMAGES = torch.randint(0, 256, (9, 3, 16, 16), generator=torch.Generator().manual_seed(0)).byte()
VIEW = ViewSettings(size=16)


def models():
    """Two small networks in evaluation mode."""
    narrow = {"layers": [1, 1, 1, 1], "channels": [4, 4, 4, 4], "zero_init_last": False}
    settings = store.ModelSettings(
        "resnet18", 16, 3, (0.5,) * 3, (0.2,) * 3, 16, 8, cifar_stem=True, kwargs=narrow
    )
    return {name: store.build_model(settings, seed).eval() for seed, name in enumerate("ab")}


def test_a_crop_is_torchvisions():
    shares = np.array([0.1, 0.2, 0.31, 0.4, 0.47, 0.5, 0.6, 0.7, 0.75])
    crops = uncertainty_views.centre_crops(IMAGES, shares)
    assert crops.shape == IMAGES.shape and crops.dtype == torch.uint8
    for image, share, crop in zip(IMAGES, shares, crops, strict=True):
        side = max(1, round(16 * share))
        whole = tv.resize(tv.center_crop(image.float(), [side]), [16, 16], antialias=False)
        assert (whole - crop.float()).abs().max() <= 0.51


def test_a_crop_of_the_whole_image_is_the_image():
    crops = uncertainty_views.centre_crops(IMAGES, np.ones(9))
    assert torch.equal(crops, IMAGES)


def test_shares_are_drawn_from_the_range_by_the_seed():
    shares = uncertainty_views.draw_shares(1000, 0)
    assert 0.1 <= shares.min() < 0.12 and 0.73 < shares.max() <= 0.75
    np.testing.assert_array_equal(shares, uncertainty_views.draw_shares(1000, 0))
    assert (shares != uncertainty_views.draw_shares(1000, 1)).any()


def test_embedded_crops_are_the_embeddings_of_the_crops_however_images_are_divided():
    networks = models()
    whole = uncertainty_views.embed_crops(networks, [IMAGES], 9, 0, 4)
    parts = uncertainty_views.embed_crops(networks, [IMAGES[:5], IMAGES[5:]], 9, 0, 4)
    crops = uncertainty_views.centre_crops(IMAGES, uncertainty_views.draw_shares(9, 0))
    for name, model in networks.items():
        expected = describe(model, crops)
        assert expected.doubts and expected.log_sigma is not None
        for embedding in (whole[name], parts[name]):
            np.testing.assert_allclose(embedding.features, expected.features, atol=1e-5)
            np.testing.assert_allclose(embedding.log_sigma, expected.log_sigma, atol=1e-5)
            assert embedding.doubts.keys() == expected.doubts.keys()
            for key, values in expected.doubts.items():
                np.testing.assert_allclose(embedding.doubts[key], values, atol=1e-5)


def test_both_networks_see_the_same_two_views_of_each_image():
    networks = models()
    views = uncertainty_views.embed_views(networks, [IMAGES[:4], IMAGES[4:]], VIEW, 0, 8)
    first, second = (
        torch.cat(parts)
        for parts in zip(
            uncertainty_views.two_views(IMAGES[:4], VIEW, 0, 0),
            uncertainty_views.two_views(IMAGES[4:], VIEW, 0, 1),
            strict=True,
        )
    )
    assert first.dtype == torch.uint8 and not torch.equal(first, second)
    for name, model in networks.items():
        for features, view in zip(views[name], (first, second), strict=True):
            np.testing.assert_allclose(features, embed(model.encoder, view), atol=1e-5)


def test_views_depend_on_the_seed_and_the_block_alone():
    again = uncertainty_views.two_views(IMAGES, VIEW, 3, 0)
    for other, same in (((3, 0), True), ((4, 0), False), ((3, 1), False)):
        views = uncertainty_views.two_views(IMAGES, VIEW, *other)
        assert torch.equal(views[0], again[0]) is same
