"""Samples are fair to every class and place, and no two purposes share random numbers."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from prosmin.common import seeds
from prosmin.common.seeds import generator, sample_rows


def test_a_sample_is_all_rows_in_their_order_where_there_are_no_more():
    for limit in (5, 9):
        assert sample_rows(5, limit, 0, "some").tolist() == [0, 1, 2, 3, 4]


def test_a_sample_takes_every_class_and_place_alike():
    """Files sorted by class and files with the classes in turn give hypergeometric counts."""
    samples = [sample_rows(1000, 200, seed, "some") for seed in range(200)]
    assert all(len(np.unique(sample)) == 200 and (np.diff(sample) > 0).all() for sample in samples)
    for label in (np.arange(1000) // 100, np.arange(1000) % 10):
        counts = np.array([np.bincount(label[rows], minlength=10) for rows in samples])
        assert counts.mean(0) == pytest.approx([20] * 10, abs=1.2)  # five standard errors
        assert counts.std() == pytest.approx(np.sqrt(200 * 0.1 * 0.9 * 800 / 999), rel=0.1)
    assert not np.array_equal(samples[0], sample_rows(1000, 200, 0, "others"))
    assert np.array_equal(samples[0], sample_rows(1000, 200, 0, "some"))


def test_no_two_purposes_share_a_stream():
    """Not even where a key is 0, or ends as the name of another purpose does."""
    streams = [
        generator(1, "few labels", 5, 0),
        generator(1, "few labels", 5, 1),
        generator(1, "few labels", 0, 5),
        generator(1, "resamples", 5),
        generator(1, "held out", 5),
        generator(1, "resamples"),
        generator(1, "val"),
        generator(0, "val"),
        generator(1, "va", ord("l")),
        np.random.default_rng([1, 5]),
        np.random.default_rng(1),
    ]
    assert len({stream.integers(2**62) for stream in streams}) == len(streams)


def test_epoch_order_visits_every_image_at_most_once_and_differs_by_epoch():
    first, second = (seeds.epoch_order(103, 10, 0, epoch) for epoch in (0, 1))
    assert first.shape == (10, 10) and len(first.unique()) == 100
    assert not torch.equal(first, second)
    assert torch.equal(first, seeds.epoch_order(103, 10, 0, 0))


def test_streams_of_different_keys_differ():
    draws = {
        tuple(
            np.round(
                torch.rand(3, generator=seeds._step_generator(torch.device("cpu"), *key)).tolist(),
                6,
            )
        )
        for key in [(0,), (1,), (0, 1), (1, 0), (0, 0, 1), (0, 1, 0)]
    }
    assert len(draws) == 6


def test_what_networks_draw_is_a_function_of_seed_epoch_step_and_rank():
    keys = [(0, 1, 2, 3), (0, 1, 2, 3), (1, 1, 2, 3), (0, 0, 2, 3), (0, 1, 0, 3), (0, 1, 2, 0)]
    drawn = []
    with torch.random.fork_rng(devices=[]):
        for key in keys:
            seeds.seed_networks(*key)
            drawn.append(tuple(torch.rand(3).tolist()))
    assert drawn[0] == drawn[1] and len(set(drawn)) == 5


def first(source: torch.Generator) -> float:
    return round(float(torch.rand(1, generator=source)), 6)


def test_no_derivation_changes():
    """A change of one of these numbers changes every result."""
    cpu = torch.device("cpu")
    assert generator(3, "some").integers(10**6, size=3).tolist() == [499981, 960434, 510896]
    assert generator(3, "some", 5, 0).integers(10**6, size=3).tolist() == [254647, 692657, 146779]
    assert sample_rows(100, 3, 3, "some").tolist() == [51, 52, 78]
    assert seeds.epoch_order(6, 3, 3, 1).tolist() == [[0, 4, 3], [5, 2, 1]]
    assert first(seeds.view_generator(cpu, 3, 1, 2, 0)) == 0.324263
    assert first(seeds.box_generator(3, 1, 2, 0)) == 0.042406
    assert first(seeds.loss_generator(cpu, 3, 1, 2, 0)) == 0.143115
    assert first(seeds.prediction_generator(cpu, 3, 1)) == 0.817573
    assert first(seeds.corruption_generator(cpu, 3, "fog", 2, 0)) == 0.286719
    assert first(seeds.constant_generator()) == 0.496257
    with torch.random.fork_rng(devices=[]):
        seeds.seed_networks(3, 1, 2, 0)
        assert round(float(torch.rand(1)), 6) == 0.566791


def test_weights_are_drawn_from_the_seed_and_leave_the_global_generator_as_it_was():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        expected = torch.rand(2).tolist()
        torch.manual_seed(1)
        with seeds.initial_weights(7):
            inside = torch.rand(2).tolist()
        assert torch.rand(2).tolist() == expected
        torch.manual_seed(7)
        assert torch.rand(2).tolist() == inside


def test_seeds_are_imported_without_torch():
    code = "import sys, prosmin.common.seeds; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
