"""Draws that stand for all: fair to every class and place, and streams that no two purposes share."""

import numpy as np
import pytest

from prosmin.common.seeds import drawn, generator


def test_a_draw_is_all_in_their_order_where_there_are_no_more():
    assert drawn(5, 5, 0, "some").tolist() == drawn(5, 9, 0, "some").tolist() == [0, 1, 2, 3, 4]


def test_a_draw_takes_every_class_and_place_alike():
    """Whether files are sorted by class or their classes come in turn: a hypergeometric share of each, by seed and purpose."""
    rows = [drawn(1000, 200, seed, "some") for seed in range(200)]
    assert all(len(np.unique(each)) == 200 and (np.diff(each) > 0).all() for each in rows)
    for label in (np.arange(1000) // 100, np.arange(1000) % 10):
        counts = np.array([np.bincount(label[each], minlength=10) for each in rows])
        assert counts.mean(0) == pytest.approx([20] * 10, abs=1.2)  # five standard errors
        assert counts.std() == pytest.approx(np.sqrt(200 * 0.1 * 0.9 * 800 / 999), rel=0.1)
    assert not np.array_equal(rows[0], drawn(1000, 200, 0, "others"))
    assert np.array_equal(rows[0], drawn(1000, 200, 0, "some"))


def test_no_two_purposes_share_a_stream():
    """Not even where a key is 0, or ends as the name of another purpose does."""
    streams = [
        generator(1, "few labels", 5, 0), generator(1, "few labels", 5, 1), generator(1, "few labels", 0, 5),
        generator(1, "resamples", 5), generator(1, "held out", 5), generator(1, "resamples"), generator(1, "val"),
        generator(0, "val"), generator(1, "va", ord("l")), np.random.default_rng([1, 5]), np.random.default_rng(1),
    ]  # fmt: skip
    assert len({each.integers(2**62) for each in streams}) == len(streams)
