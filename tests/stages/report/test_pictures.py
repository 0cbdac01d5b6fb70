"""Images on the page, and the examples of the OOD sets."""

import io
from base64 import b64decode

import numpy as np
import pytest
from PIL import Image
from scipy.stats import percentileofscore

from prosmin.common.files import read_arrays
from stages.report.pictures import evenly, examples, picture


@pytest.mark.parametrize("channels", [1, 3])
def test_small_image_is_embedded_pixel_by_pixel(channels):
    pixels = np.random.default_rng(0).integers(0, 256, (channels, 9, 7), np.uint8)
    embedded = picture(pixels)
    decoded = np.asarray(
        Image.open(io.BytesIO(b64decode(embedded.uri.removeprefix("data:image/png;base64,"))))
    )
    assert embedded.pixelated
    np.testing.assert_array_equal(decoded.reshape(9, 7, channels).transpose(2, 0, 1), pixels)


def test_large_image_is_shrunk_so_that_the_page_stays_light():
    embedded = picture(np.random.default_rng(0).integers(0, 256, (3, 300, 200), np.uint8))
    decoded = Image.open(
        io.BytesIO(b64decode(embedded.uri.removeprefix("data:image/jpeg;base64,")))
    )
    assert not embedded.pixelated and max(decoded.size) <= 128 and len(embedded.uri) < 30_000


def test_examples_show_scores_and_the_share_of_in_distribution_images_that_score_lower(finished):
    arrays, scores = (
        read_arrays(finished / f"results/ood/patches/{name}.safetensors")
        for name in ("examples", "scores")
    )
    for kind in ("id", "ood"):
        chosen = examples(arrays, scores, kind, 4)
        assert len(chosen) == 4
        for example in chosen:
            score = scores[f"trained.knn.{kind}"][example.index]
            share = percentileofscore(scores["trained.knn.id"], score, "strict") / 100
            assert example.scores["k-NN distance"] == pytest.approx((score, share))
        assert [example.scores["k-NN distance"][0] for example in chosen] == sorted(
            example.scores["k-NN distance"][0] for example in chosen
        )


def test_examples_are_spread_over_all_that_there_are():
    assert evenly(32, 4) == [0, 10, 21, 31]
    assert evenly(3, 8) == [0, 1, 2]
