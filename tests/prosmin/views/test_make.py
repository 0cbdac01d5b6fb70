import numpy as np
import torch

from prosmin.views import streams
from prosmin.views.settings import ViewSettings

VIEW = ViewSettings(size=8, flip=0.0, grayscale=0.0, solarize=0.0, blur=0.0)


def test_epoch_order_visits_every_image_at_most_once_and_differs_by_epoch():
    first, second = (streams.epoch_order(103, 10, 0, epoch) for epoch in (0, 1))
    assert first.shape == (10, 10) and len(first.unique()) == 100
    assert not torch.equal(first, second)
    assert torch.equal(first, streams.epoch_order(103, 10, 0, 0))


def test_views_are_a_function_of_seed_epoch_step_and_rank():
    batch = torch.randint(
        0, 256, (16, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    key = (0, 3, 5, 0)
    reference = streams.make_views(batch, [VIEW, VIEW], *key)
    again = streams.make_views(batch, [VIEW, VIEW], *key)
    assert all(torch.equal(left, right) for left, right in zip(reference, again))
    assert not torch.equal(reference[0], reference[1])
    for place in range(4):
        other = list(key)
        other[place] += 1
        assert not torch.equal(reference[0], streams.make_views(batch, [VIEW, VIEW], *other)[0])


def test_streams_of_different_keys_differ():
    draws = {
        tuple(
            np.round(torch.rand(3, generator=streams.stream(torch.device("cpu"), *key)).tolist(), 6)
        )
        for key in [(0,), (1,), (0, 1), (1, 0), (0, 0, 1), (0, 1, 0)]
    }
    assert len(draws) == 6


def test_what_networks_draw_is_a_function_of_seed_epoch_step_and_rank():
    keys = [(0, 1, 2, 3), (0, 1, 2, 3), (1, 1, 2, 3), (0, 0, 2, 3), (0, 1, 0, 3), (0, 1, 2, 0)]
    drawn = []
    with torch.random.fork_rng(devices=[]):
        for key in keys:
            streams.seed_networks(*key)
            drawn.append(tuple(torch.rand(3).tolist()))
    assert drawn[0] == drawn[1] and len(set(drawn)) == 5
